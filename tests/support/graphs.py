"""What tests of graph passes share: import a model, count its operators, run it as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from numpy.typing import NDArray
from tvm import relax

import tvmconv
from schedules.choose import Estimate, Policy, kernel_cost
from schedules.machine.hardware import CPU, Hardware
from tvmconv.onnx import frontend, kinds
from tvmconv.onnx import model as onnx_model
from tvmconv.onnx.quantized.inner_form import to_qdq
from tvmconv.onnx.quantized.sink import sink
from tvmconv.onnx.quantized.weights import fold_weights
from tvmconv.passes import graph, pipeline
from tvmconv.passes.kernels.lower_convs import lower_convs
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.plan import Plan, plan
from tvmconv.passes.products.find_products import Products, find_products
from tvmconv.passes.products.plan_products import plan_products
from tvmconv.passes.regions.anchors import anchors
from tvmconv.passes.regions.region import Region
from tvmconv.passes.regions.regions import find_regions
from tvmconv.passes.simplify.fold_layouts import fold_layouts
from tvmconv.passes.simplify.runtime_scales import runtime_scales
from tvmconv.reports.data.build import BuildReport

Array = NDArray[Any]


def imported(model: onnx.ModelProto, *, simplified: bool = True) -> tvm.IRModule:
    """The model in Relax, before any pass but the one that makes constants bare."""
    proto = onnx_model.fix_shapes(onnx_model.read(model))
    if simplified:
        proto = frontend.simplify(proto)
    return fold_layouts()(relax.transform.CanonicalizeBindings()(frontend.to_relax(proto)))


def tidied(model: onnx.ModelProto) -> tvm.IRModule:
    """The model after all passes that come before its convolutions are marked."""
    mod = frontend.to_relax(frontend.simplify(onnx_model.fix_shapes(onnx_model.read(model))))
    return pipeline.run(mod, (*pipeline.GRAPH_PASSES, *pipeline.TIDY_PASSES), "test")


def counts(mod: tvm.IRModule) -> Counter[str]:
    """How often `main` calls each operator, without ``relax.``."""
    names = (graph.op_name(binding.value) for binding in graph.bindings(mod))
    return Counter(name.removeprefix("relax.") for name in names if name)


def run(mod: tvm.IRModule, x: Array) -> list[Array]:
    """What `main` gives for its one input, in the precision that it is written in."""
    relax.analysis.well_formed(mod)  # raises where it is not
    with tvm.target.Target("llvm"):
        built = relax.build(mod, "llvm")
    result = relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(x))
    return [
        one.numpy() for one in (result if isinstance(result, (list, tvm.ir.Array)) else [result])
    ]


def expected(model: onnx.ModelProto, x: Array) -> list[Array]:
    """What onnxruntime gives."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, {"input": x}))


def same(mod: tvm.IRModule, model: onnx.ModelProto, rtol: float = 1e-5) -> None:
    """`mod` gives what onnxruntime does, on numbers of both signs."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(3).standard_normal(shape).astype("float32")
    for ours, theirs in zip(run(mod, x), expected(model, x), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


def right(model: onnx.ModelProto, bound: float = 5e-3) -> None:
    """The model built in fp16 is right."""
    exe = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, exe).relative_l2 <= bound


def lowered(
    model: onnx.ModelProto, hardware: Hardware = CPU, estimate: Estimate = kernel_cost
) -> tvm.IRModule:
    """The module in which convolutions and products are kernels and nothing else is yet."""
    chooser = Chooser(hardware, Policy(estimate=estimate))
    mod, regions, products = _found(model, hardware)
    decided = plan(mod, regions, chooser)
    multiplied = plan_products(mod, products, regions, decided, chooser)
    return pipeline.run(mod, [lower_convs(decided, multiplied)], "test")


def planned(
    model: onnx.ModelProto, chooser: Chooser, pairs: bool = True
) -> tuple[tvm.IRModule, Plan]:
    """The module with its convolutions marked, and what was decided of them, as in a build."""
    mod, regions, _ = _found(model, chooser.hardware)
    return mod, plan(mod, regions, chooser, pairs)


def _found(
    model: onnx.ModelProto, hardware: Hardware
) -> tuple[tvm.IRModule, dict[relax.Var, Region], Products]:
    """The module with its products as calls, its regions, and what the calls are."""
    fixed = onnx_model.fix_shapes(to_qdq(onnx_model.read(model)))
    simple, scales = fold_weights(sink(frontend.simplify(frontend.widen(fixed))))
    mod = pipeline.run(frontend.to_relax(simple), pipeline.GRAPH_PASSES, "test")
    named = list(zip(anchors(mod), kinds.convolutions(simple), strict=True))
    mod = pipeline.run(mod, pipeline.TIDY_PASSES, "test")
    mod, anchored, scales = runtime_scales(mod, named, scales)
    mod, products, _ = find_products(mod, hardware, {})
    return mod, find_regions(mod, anchored, scales), products


@dataclass(frozen=True)
class Became:
    """What became of a model that was built, and held to onnxruntime."""

    report: BuildReport
    #: The operators beside the kernels of convolutions, as `_left` counts them.
    left: Counter[str]

    @property
    def epilogues(self) -> dict[str, str]:
        """Of each convolution, by its name."""
        return {conv.name: conv.epilogue for conv in self.report.convs}

    @property
    def fates(self) -> dict[str, str]:
        return {one.name: one.fate for one in self.report.operators}

    @property
    def windows(self) -> dict[str, list[dict[str, int]]]:
        """Of each kernel of each convolution that writes a part of a tensor."""
        return {
            conv.name: [json.loads(one)["window"] for one in conv.workloads]
            for conv in self.report.convs
            if any(json.loads(one)["window"] for one in conv.workloads)
        }


def became(
    model: onnx.ModelProto,
    bound: float = 5e-3,
    scale: float = 1.0,
    families: Sequence[str] | None = None,
) -> Became:
    """Builds the model in fp16 and holds it to onnxruntime, fed numbers around `scale`.

    families: see `tvmconv.build`.
    """
    exe = tvmconv.build(model, target="llvm", families=families)
    shape = exe.inputs[0].shape
    x = np.random.default_rng(5).standard_normal(shape).astype(exe.inputs[0].dtype) * scale
    report = tvmconv.compare(model, exe, {exe.inputs[0].name: x.astype(exe.inputs[0].dtype)})
    assert report.passed(bound), str(report)
    return Became(exe.report, _left(lowered(model)))


def _left(mod: tvm.IRModule) -> Counter[str]:
    """The operators of `main` but kernels, casts, reshapes, and the transposes of what the network
    is fed and gives, which is NCHW."""
    flow = graph.Dataflow.of(mod)
    edge = {*mod["main"].params, *flow.outputs}
    for var in flow.outputs:
        if isinstance(flow.values.get(var), relax.Tuple):
            edge.update(flow.values[var].fields)
    for var in reversed(flow.values):
        if var in edge and flow.op(var) in ("relax.astype", "relax.reshape"):
            edge.add(flow.values[var].args[0])
    found: Counter[str] = Counter()
    for var in flow.values:
        op = flow.op(var).removeprefix("relax.")
        if op in ("astype", "reshape") and flow.values[var].args[0] in edge:
            edge.add(var)
        if op == "permute_dims" and (var in edge or flow.values[var].args[0] in edge):
            continue
        if op not in ("", "call_tir", "call_tir_inplace", "astype", "reshape"):
            found[op] += 1
    return found
