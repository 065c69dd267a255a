"""What tests of graph passes share: import a model, count its operators, run it as it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from numpy.typing import NDArray
from tvm import relax

import tvmconv
from tvmconv import frontend, onnx_model, pipeline
from tvmconv.passes import graph
from tvmconv.passes.fold_layouts import fold_layouts

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
