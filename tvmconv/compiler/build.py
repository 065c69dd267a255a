"""`build` and `inspect`: from a model to an executable, or to what would become of it.

model -> prepare -> ONNX, fixed and simplified -> Relax -> graph passes -> plan
      -> lower_convs -> lift_weights -> _compile -> Executable
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm import relax

from schedules.choose import Policy
from schedules.configuration import ConfigLike
from schedules.conv.precision import Precision
from schedules.families.simulated.family import ACTIVATIONS, Simulation
from schedules.lowering import LOWERING
from schedules.machine.hardware import Hardware
from schedules.registry import registered
from tvmconv.compiler import cubins, toolchain
from tvmconv.compiler.ranges import Calibrate, Seen, by_variable, seen_on
from tvmconv.compiler.recipe import make_recipe, require_foreseen
from tvmconv.compiler.targets import (
    Costs,
    code_features,
    find_costs,
    find_hardware,
    find_precision,
    find_simulation,
)
from tvmconv.errors import ShapeError, TvmconvError, UnsupportedOperatorError, accepted
from tvmconv.onnx import frontend, kinds
from tvmconv.onnx.batches import Batch, ShapesOrAny, are_independent, is_buckets, without_any
from tvmconv.onnx.model import Model, read
from tvmconv.onnx.prepare import Graph, Prepared, prepare
from tvmconv.onnx.quantized.inner_form import is_quantised
from tvmconv.onnx.quantized.weights import fold_weights, weight_reasons
from tvmconv.parts.cut import Part
from tvmconv.parts.ends import part_choosers, part_graphs
from tvmconv.parts.fallback import check_fallback, find_parts
from tvmconv.parts.merge import merged
from tvmconv.passes import pipeline
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.kernels.default_schedules import require_scheduled
from tvmconv.passes.kernels.lift_weights import WeightStore, lift_weights
from tvmconv.passes.kernels.lower_convs import lower_convs
from tvmconv.passes.memory.plan_memory import MemoryUse, measure
from tvmconv.passes.plan.chooser import LAYOUTS, Chooser, LayoutName
from tvmconv.passes.plan.plan import Plan, plan
from tvmconv.passes.plan.simulated import simulated
from tvmconv.passes.products.find_products import find_products
from tvmconv.passes.products.plan_products import ProductPlan, plan_products
from tvmconv.passes.regions.anchors import anchors
from tvmconv.passes.regions.regions import find_regions
from tvmconv.passes.simplify.io_form import io_form
from tvmconv.passes.simplify.runtime_scales import runtime_scales
from tvmconv.records import store as tuned
from tvmconv.reports.collect.capability import capability
from tvmconv.reports.collect.conversions import conversions
from tvmconv.reports.collect.fates import operator_fates
from tvmconv.reports.collect.floats import floats
from tvmconv.reports.collect.layers import layer_reports, unplanned_reports
from tvmconv.reports.collect.nodes import node_names
from tvmconv.reports.collect.outline import kernel_reports, outline
from tvmconv.reports.collect.quantising import quantising
from tvmconv.reports.data.build import BuildReport, ConversionReport
from tvmconv.reports.data.capability import CapabilityReport
from tvmconv.runtime import gpu
from tvmconv.runtime.any_shape import AnyShape, Recipe
from tvmconv.runtime.entry import Entry, weights_of
from tvmconv.runtime.executable import Executable
from tvmconv.runtime.io_form import IoForm, model_shape
from tvmconv.runtime.onnx_step import OnnxStep
from tvmconv.specs import batch_of, shapes_of


def build(
    model: Model,
    target: str = "cuda",
    *,
    arch: str | None = None,
    batch: Batch = None,
    shapes: ShapesOrAny = None,
    precision: str = "fp16",
    quantization: str | Path | None = None,
    io_dtype: str | None = None,
    io_layout: str | None = None,
    records: bool | str | Path = True,
    families: Iterable[str] | None = None,
    layout: LayoutName | None = None,
    configs: Mapping[str, ConfigLike] | None = None,
    fallback: str = "onnxruntime",
    numerics: str | None = None,
    activations: str = ACTIVATIONS[0],
    as_arch: str | None = None,
    calibrate: Calibrate | Seen | None = None,
) -> Executable:
    """Compiles an ONNX convolution network.

    model: a path, the bytes of an ONNX file, or a proto.
    target: ``"cuda"``, or ``"llvm"`` to run the same tensorized network on the CPU by emulation;
        ``"hmma-sim"`` is that with the products of all tensorized convolutions by a simulated
        tensor core, bit for bit as `numerics` say, and slow.
    arch: for cuda such as ``"sm_90"``, which needs no GPU; by default that of GPU 0. For others
        the name LLVM has for a CPU; by default this one.
    batch: fills the open first dimension of every input. A list, ``[1, 8, 32]``, builds a bucket
        for each, with shared weights; then `run` takes any number of images.
    shapes: input name to its dimensions; with several batches, those at the largest. A list of such
        mappings builds buckets for each of these sizes, also with shared weights, and `run` takes
        the one of the shapes that it is fed. With ``"any"``, alone or in the list, a shape that was
        not foreseen is compiled when it is first fed, and kept in a folder (docs/sizes.md).
    precision: of what convolutions multiply, ``"fp16"`` or ``"bf16"`` (WMMA alone, on llvm and from
        sm_80 on); they sum in fp32.
    quantization: a file of scales beside a float model, which is quantised by it: OpenPPL's JSON or
        a TensorRT calibration cache. Weights have a scale for each channel, computed from them. A
        layer whose input has no scale stays as it is; a `QuantizationWarning` lists those inputs.
    io_dtype: ``"float32"`` or ``"float16"``, for inputs and outputs of floating point; by default
        each is as in the model. What fp16 can't hold is infinite in it. ``"int8"`` or ``"uint8"``
        for inputs alone: where a QuantizeLinear to that is all that reads one, its numbers are fed
        (`TensorSpec` has their scale and zero point); else its real numbers, which are whole then,
        such as a camera's bytes for a model that scales them itself.
    io_layout: ``"NHWC"`` for inputs and outputs of floating point with four dimensions; by
        default NCHW, as in the model. `shapes` are the model's in any case, and
        `Executable.inputs` says what to feed. With both, fp16 and NHWC, a convolution reads the
        input as it is fed.
    records: those of `tune`, which decide how a recorded convolution is computed. True reads your
        own, then those that ship; a path, that file alone; False, none. A build never measures.
    families: names of the families of schedules to choose among, such as ``("wmma_packed",
        "direct")``; by default all that are registered. `schedules.registered` lists them.
    layout: ``"packed"`` keeps what convolutions write in NHWC16n16c wherever one of the families
        can write it and those that read it can read it, whatever that costs. It takes a batch and
        channels that are multiples of 16. By default each layout is the one that costs least.
    configs: a layer's name, as reports have it, to the configuration of its kernel: an object
        such as ``WmmaConfig(warps_m=2)``, its fields, or JSON of them; with the family's name
        where several take it, ``{"family": "wmma_nhwc", "config": {...}}``. It comes before
        records and estimates. With buckets it has to fit each of them.
    fallback: what becomes of operators that can't be built. ``"onnxruntime"`` runs them there, on
        the CPU or its CUDA provider: the network is cut into as few parts as possible, the report
        names them first, and outputs behind them may have open dimensions (`specs.OPEN`). It takes
        one batch, and neither `bind` nor CUDA graphs. ``"none"`` refuses such a network, as does
        either where no convolution or product is left to compile.
    numerics: for hmma-sim how products are added: ``"v100"`` (the default, through the
        instructions of a WMMA on Volta), ``"a100"``, ``"h100"``; ``"ieee"`` as on llvm;
        ``"exact"``, each sum rounded once. See `intrinsics.numerics.arithmetic`.
    activations: for hmma-sim the dtype of activations between layers: ``"float16"``, or
        ``"float32"`` to round them to fp16 as operands of convolutions alone.
    as_arch: for a network on a CPU the GPU whose costs the report shows, such as ``"sm_90a"``; by
        default those of the CPU.
    calibrate: a feed, as of the model for the largest batch, several, or a folder of images (see
        `read_images`), like those the network will see. Where activations leave the range of fp16
        on them, from 2**-8 to 2**12 in their largest magnitude, they are scaled by powers of two,
        or kept in fp32. Without it inputs are taken to be around one, and weights of any size are
        scaled; `compare` says what is lost.

    Raises a `TvmconvError`: `ModelError`, `ShapeError`, `UnsupportedOperatorError` for the model,
    `QuantizationError` for its scales or those of `quantization`, and for an input that `io_dtype`
    does not suit, `TargetError` or `ToolchainError` for the target, `RecordError` for the records,
    `FeedError` for feeds to calibrate with that do not fit or overflow in fp32,
    `FamilyError` for an unknown family or a convolution that none of `families` computes,
    `ConfigError` for a configuration that does not fit or names no layer, and of itself for an
    unknown option.
    """
    started = time.perf_counter()
    check_fallback(fallback)
    hardware, arch = find_hardware(target, arch)
    costs = find_costs(target, hardware, arch, as_arch)
    simulation = find_simulation(target, numerics, activations)
    if simulation is not None and configs:
        raise TvmconvError(
            "a simulation's kernels have no configurations", hint="leave configs out"
        )
    # One name is as good as a list of one; the recipe of other sizes keeps them.
    families = (families,) if isinstance(families, str) else families and tuple(families)
    chooser = _chooser(hardware, arch, precision, records, families, layout, configs)
    form = IoForm(io_dtype, io_layout)
    foreseen, any_shape = without_any(shapes)
    prepared: Prepared | None = None
    parts: tuple[tuple[Part, ...], ...] = ()
    seen: Mapping[str, float] = {}
    if foreseen != [] or not any_shape:
        prepared = prepare(model, batch, foreseen, form, quantization)
        parts = find_parts(prepared, fallback)
        seen = seen_on(prepared.graphs[-1].simple, calibrate)
    elif calibrate is not None:
        raise TvmconvError(
            "there is nothing to calibrate: no shape is compiled before it is fed",
            hint="name that of the feeds as well: shapes=[{...}, 'any']",
            shell="name that of the images as well: --shape NAME=N,C,H,W --shape any",
        )
    graphs = prepared.graphs if prepared else ()
    recipe = None
    if any_shape:
        options = {
            "target": target,
            "arch": arch,
            "precision": precision,
            "records": records,
            "families": families,
            "layout": layout,
            "configs": configs,
            "fallback": fallback,
            "numerics": numerics,
            "activations": activations,
            "as_arch": as_arch,
        }
        recipe = make_recipe(model, batch, quantization, form, seen, options)
        for graph in graphs:
            require_foreseen(recipe, graph.inputs)
    if target == "cuda":
        toolchain.prepare_cuda(arch)
    shared = _Shared(target, arch, costs, WeightStore(), simulation, seen)
    entries: list[Entry] = []
    reports: list[BuildReport] = []
    # The largest first: it is the likeliest to fail.
    for graph, cut in zip(reversed(graphs), reversed(parts), strict=True):
        if cut:
            entry, report = _build_parts(graph, cut, chooser, shared)
        else:
            entry, report = _build(graph, chooser, shared)
        if recipe is not None:
            entry = replace(entry, separable=bool(recipe.batches) or _separable(recipe, entry))
        entries.insert(0, entry)
        reports.insert(0, replace(report, build_seconds=time.perf_counter() - started))
        started = time.perf_counter()
    told = reports[-1] if reports else BuildReport(target, arch, (), (), {}, machine=costs.report)
    stored = sum(array.nbytes for array in shared.store.arrays)
    return Executable(
        target,
        arch,
        tuple(entries),
        replace(told, smaller=tuple(reports[:-1]), stored_weight_bytes=stored, any_shape=any_shape),
        () if target == "cuda" else code_features(arch),
        is_buckets(batch),
        None if recipe is None else AnyShape(recipe, entries, None),
    )


def _separable(recipe: Recipe, entry: Entry) -> bool:
    """True if images of one batch are known not to affect each other."""
    given = {spec.name: model_shape(spec) for spec in entry.inputs}
    return are_independent(read(recipe.model), entry.batch, given)


@dataclass(frozen=True)
class _Shared:
    """All that the buckets and parts of a build have in common."""

    target: str
    arch: str
    costs: Costs
    store: WeightStore
    simulation: Simulation | None
    #: The largest magnitudes of tensors, by name, of a build that is calibrated.
    seen: Mapping[str, float]


def _build(graph: Graph, chooser: Chooser, shared: _Shared) -> tuple[Entry, BuildReport]:
    """The network of one bucket, its weights in the store."""
    simulation, store, arch = shared.simulation, shared.store, shared.arch
    plans = _plan(graph, chooser, shared.seen, pairs=simulation is None)
    if simulation is not None:
        plans = replace(plans, convs=simulated(plans.convs, simulation))
    report = _report(graph, plans, shared.target, arch, shared.costs, chooser.precision)
    with accepted("schedule this network's convolutions"):
        lower = lower_convs(plans.convs, plans.products, chooser.precision)
        mod = pipeline.run(plans.mod, [lower], "2_lower")
    mod, numbers = lift_weights(mod, store)
    weights = [store.arrays[number] for number in numbers]
    code, memory = _compile(mod, arch, chooser.hardware)
    report = replace(
        report,
        peak_activation_bytes=memory.peak_bytes,
        activation_bound_bytes=memory.bound_bytes,
        output_bytes=memory.output_bytes,
        weight_bytes=sum(array.nbytes for array in weights),
    )
    return Entry(graph.inputs, graph.outputs, code, tuple(weights)), report


def _build_parts(
    graph: Graph, parts: tuple[Part, ...], chooser: Chooser, shared: _Shared
) -> tuple[Entry, BuildReport]:
    """The network of one bucket in parts, some of which onnxruntime runs."""
    graphs = part_graphs(graph, parts)
    choosers = part_choosers(chooser, parts)
    steps: list[Entry | OnnxStep] = []
    reports = []
    for part, one, own in zip(parts, graphs, choosers, strict=True):
        if part.side == "compiled":
            entry, report = _build(one, own, shared)
            steps.append(entry)
            reports.append(report)
        else:
            read, made = (tuple(spec.name for spec in ends) for ends in (one.inputs, one.outputs))
            steps.append(OnnxStep(read, made, part.model.SerializeToString()))
    weights = weights_of(step for step in steps if isinstance(step, Entry))
    stored = sum(array.nbytes for array in weights)
    report = replace(merged(graph, parts, graphs, reports), weight_bytes=stored)
    return Entry(graph.inputs, graph.outputs, b"", weights, tuple(steps)), report


def inspect(
    model: Model,
    target: str = "cuda",
    *,
    arch: str | None = None,
    batch: Batch = None,
    shapes: ShapesOrAny = None,
    precision: str = "fp16",
    quantization: str | Path | None = None,
    io_dtype: str | None = None,
    io_layout: str | None = None,
    records: bool | str | Path = True,
    families: Iterable[str] | None = None,
    layout: LayoutName | None = None,
    configs: Mapping[str, ConfigLike] | None = None,
    fallback: str = "onnxruntime",
    as_arch: str | None = None,
    calibrate: Calibrate | None = None,
) -> CapabilityReport:
    """Reports the result of `build` without compiling. Takes the same parameters; without a GPU and
    an `arch` it is for sm_90a.

    Operators that can't be built are listed in the report, not raised. Where `build` would refuse
    them, no kernels are chosen, and the convolutions are told by kind and size alone, as far as
    shapes can be inferred. Raises as `build` does for everything else.
    """
    check_fallback(fallback)
    if target == "cuda":
        arch = arch or gpu.detect_arch() or "sm_90a"
    hardware, arch = find_hardware(target, arch)
    costs = find_costs(target, hardware, arch, as_arch)
    chooser = _chooser(hardware, arch, precision, records, families, layout, configs)
    foreseen, any_shape = without_any(shapes)
    if foreseen == [] and any_shape:
        raise ShapeError(
            "no shape is compiled before it is fed, so there is none to report of",
            hint="name some: shapes=[{'input': (1, 3, 224, 224)}, 'any']",
            shell="name some: --shape input=1,3,224,224",
        )
    prepared = prepare(model, batch, foreseen, IoForm(io_dtype, io_layout), quantization)
    largest = prepared.graphs[-1]
    try:
        parts = find_parts(prepared, fallback)
    except UnsupportedOperatorError:
        missing = prepared.unsupported
        reports = [_unplanned(largest, missing, target, arch, costs, chooser.precision)]
    else:
        seen = seen_on(largest.simple, calibrate)

        def planned(graph: Graph, own: Chooser) -> BuildReport:
            plans = _plan(graph, own, seen)
            return _report(graph, plans, target, arch, costs, chooser.precision)

        reports = []
        for graph, cut in zip(prepared.graphs, parts, strict=True):
            if not cut:
                reports.append(planned(graph, chooser))
                continue
            graphs = part_graphs(graph, cut)
            each = zip(cut, graphs, part_choosers(chooser, cut), strict=True)
            own = [planned(one, pins) for part, one, pins in each if part.side == "compiled"]
            reports.append(merged(graph, cut, graphs, own))
    decided = replace(reports[-1], smaller=tuple(reports[:-1]))
    return capability(largest.original, largest.simple, decided)


def _chooser(
    hardware: Hardware,
    arch: str,
    precision: str,
    records: bool | str | Path,
    families: Iterable[str] | None,
    layout: LayoutName | None,
    configs: Mapping[str, ConfigLike] | None,
) -> Chooser:
    """The options of `build` that say how kernels are chosen. Raises as `build` does for them."""
    if layout is not None and layout not in LAYOUTS:
        raise TvmconvError(f"there is no layout {layout!r}", hint=f"one of {', '.join(LAYOUTS)}")
    policy = Policy(registered(families), records=tuned.lookup(arch, records))
    return Chooser(hardware, policy, find_precision(precision), configs or {}, layout)


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class _Plans:
    """A network in which convolutions and products are found; and what computes them."""

    mod: tvm.IRModule
    convs: Plan
    products: ProductPlan
    #: Why TVM computes a product of computed tensors, by ONNX node.
    declined: Mapping[str, str]


def _plan(graph: Graph, chooser: Chooser, seen: Mapping[str, float], pairs: bool = True) -> _Plans:
    """seen: the largest magnitudes of tensors of `graph.simple`, by name."""
    wide, weight_scales = fold_weights(graph.simple)
    names = kinds.convolutions(wide)
    mod = frontend.to_relax(wide)
    with accepted("bring this network to its convolution kernels"):
        mod = pipeline.run(mod, [io_form(graph.inputs, graph.outputs)], "0_io")
        mod = pipeline.run(mod, pipeline.GRAPH_PASSES, "1_graph")
        named = list(zip(anchors(mod), names, strict=True))  # before equal ones are merged
        mod = pipeline.run(mod, pipeline.TIDY_PASSES, "1_tidy")
        mod, anchored, weight_scales = runtime_scales(mod, named, weight_scales)
        nodes = node_names(mod, graph.simple)
        mod, products, declined = find_products(mod, chooser.hardware, nodes)
        regions = find_regions(mod, anchored, weight_scales)
    largest = by_variable(mod, graph.simple, regions, seen)
    convs = plan(mod, regions, chooser, pairs, largest)
    planned = plan_products(mod, products, regions, convs, chooser, largest)
    return _Plans(mod, convs, planned, declined)


# ---------------------------------------------------------------- compiling


def _compile(mod: tvm.IRModule, arch: str, hardware: Hardware) -> tuple[bytes, MemoryUse]:
    """The library's bytes, and the memory that it plans for.

    Raises `ToolchainError` rather than give a library with no machine code for `arch`.
    """
    target = hardware.kind
    tvm_target = pipeline.tvm_target(target, arch)
    options = {**LOWERING, "relax.backend.use_cuda_graph": target == "cuda"}
    # TVM's CUDA compiler callback asks the target's scope for the architecture.
    with (
        accepted(f"compile this network for {target}"),
        tvm_target,
        tvm.transform.PassContext(opt_level=3, config=options),
    ):
        mod = pipeline.run(mod, pipeline.plan_memory_passes(target), "3_memory")
        if target == "cuda":
            require_scheduled(mod)
        memory = measure(mod)
        mod = pipeline.run(mod, pipeline.machine_passes(target), "4_machine")
        kernels = pipeline.kernel_pipeline(target, hardware.sm)
        built = relax.build(mod, tvm_target, relax_pipeline=None, tir_pipeline=kernels)
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        library = Path(folder) / "code.so"
        built.export_library(str(library))
        if target == "cuda":
            cubins.require_cubin(library, arch)
        return library.read_bytes(), memory


# ---------------------------------------------------------------- the report


def _report(
    graph: Graph,
    plans: _Plans,
    target: str,
    arch: str,
    costs: Costs,
    precision: Precision,
) -> BuildReport:
    """plans: not yet lowered. precision: what kernels read."""
    mod, planned, products = plans.mod, plans.convs, plans.products
    by_name = {one.name: one for one in planned.values()}
    nodes = node_names(mod, graph.simple)
    kind = "cuda" if target == "cuda" else "llvm"
    kernels = outline(mod, planned, products, pipeline.tvm_target(kind, arch), precision)
    because: dict[str, str] | None = None
    left: tuple[ConversionReport, ...] = ()
    if is_quantised(graph.original):
        flow = Dataflow.of(mod)
        because = floats(planned, flow, weight_reasons(graph.simple))
        fed = {var: spec.name for var, spec in zip(mod["main"].params, graph.inputs, strict=True)}
        left = quantising(kernels, planned, flow, nodes, fed, costs.machine)
    return BuildReport(
        target,
        arch,
        operator_fates(graph.original, graph.simple, mod, planned, products, nodes, kernels),
        layer_reports(
            graph.simple, by_name, products, plans.declined, costs.machine, precision, because
        ),
        {},
        batch=batch_of(graph.inputs),
        shapes=shapes_of(graph.inputs),
        conversions=conversions(mod, planned, costs.machine, graph.simple, precision),
        quantising=left,
        machine=costs.report,
        kernels=kernel_reports(kernels, nodes, costs.machine),
    )


def _unplanned(
    graph: Graph,
    missing: Mapping[str, int],
    target: str,
    arch: str,
    costs: Costs,
    precision: Precision,
) -> BuildReport:
    """The report of a network that can't be built."""
    return BuildReport(
        target,
        arch,
        (),
        unplanned_reports(graph.simple, costs.machine, precision),
        dict(missing),
        batch=batch_of(graph.inputs),
        shapes=shapes_of(graph.inputs),
        machine=costs.report,
    )
