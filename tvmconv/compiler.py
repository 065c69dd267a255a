"""`build` and `inspect`: from a model to an executable, or to what would become of it.

model -> frontend -> ONNX, fixed and simplified -> Relax -> graph_passes -> plan
      -> lower_convs -> lift_weights -> tail_passes -> relax.build -> Executable
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import tvm
from tvm import relax
from tvm.target import codegen

from schedules.hardware import CPU, Hardware
from tvmconv import frontend, onnx_model, pipeline, supported, toolchain
from tvmconv.errors import ModelError, TargetError, TvmconvError, last_line
from tvmconv.executable import Executable, TensorSpec, vector_features
from tvmconv.fates import generic_convs, operator_fates
from tvmconv.passes.lift_weights import lift_weights
from tvmconv.passes.lower_convs import lower_convs
from tvmconv.passes.plan import Plan, PlannedConv, plan
from tvmconv.passes.regions import mark_regions
from tvmconv.report import BuildReport, ConvReport

TARGETS = ("cuda", "llvm")
PRECISIONS = ("fp16",)


def build(
    model: onnx_model.Model,
    target: str = "cuda",
    *,
    arch: str | None = None,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str = "fp16",
) -> Executable:
    """Compiles an ONNX convolution network.

    model: a path, the bytes of an ONNX file, or a proto.
    target: ``"cuda"``, or ``"llvm"`` to run the same tensorized network on the CPU by emulation.
    arch: for cuda such as ``"sm_90"``, which needs no GPU; by default that of GPU 0. For llvm
        the name LLVM has for a CPU; by default this one.
    batch: fills the open first dimension of every input. shapes: input name to its dimensions.
    precision: ``"fp16"``: convolutions multiply fp16 and sum fp32; inputs and outputs keep the
        model's dtypes.

    Raises a `TvmconvError`: `ModelError`, `ShapeError`, `UnsupportedOperatorError` for the model,
    `TargetError` or `ToolchainError` for the target.
    """
    started = time.perf_counter()
    graph = _read(model, batch, shapes)
    supported.check_supported(graph.original)
    hardware, arch = _hardware(target, arch, precision)
    if target == "cuda":
        toolchain.prepare_cuda(arch)
    graph = _simplified(graph)
    supported.check_supported(graph.simple, folded=True)
    mod, planned = _plan(graph, hardware)
    with _accepted("schedule this network's convolutions"):
        mod = pipeline.run(mod, [lower_convs(planned)], "2_lower")
    mod, weights = lift_weights(mod)
    code, activation_bytes = _compile(mod, target, arch)
    report = replace(
        _report(graph, planned, target, arch),
        peak_activation_bytes=activation_bytes,
        weight_bytes=sum(array.nbytes for array in weights),
        build_seconds=time.perf_counter() - started,
    )
    return Executable(
        target,
        arch,
        graph.inputs,
        graph.outputs,
        report,
        code,
        tuple(weights),
        _features(arch) if target == "llvm" else (),
    )


def inspect(
    model: onnx_model.Model,
    target: str = "cuda",
    *,
    arch: str | None = None,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str = "fp16",
) -> BuildReport:
    """What `build` would make of the model, without compiling it. The same parameters; where
    there is no GPU and no arch, for sm_90.

    Operators that can't be built are listed in the report, not raised; with some of them there
    is nothing to say of the convolutions, whose shapes then are unknown.
    """
    graph = _read(model, batch, shapes)
    if target == "cuda":
        arch = arch or toolchain.detect_arch() or "sm_90"
    hardware, arch = _hardware(target, arch, precision)
    missing = supported.unsupported(graph.original)
    if not missing:
        graph = _simplified(graph)
        missing = supported.unsupported(graph.simple, folded=True)
    if missing:
        return BuildReport(target, arch, (), (), dict(missing))
    _, planned = _plan(graph, hardware)
    return _report(graph, planned, target, arch)


def _hardware(target: str, arch: str | None, precision: str) -> tuple[Hardware, str]:
    """The limits to schedule for, and the architecture's full name."""
    if target not in TARGETS:
        raise TargetError(f"there is no target {target!r}", hint=f"one of {', '.join(TARGETS)}")
    if precision not in PRECISIONS:
        raise TvmconvError(
            f"there is no precision {precision!r}", hint=f"one of {', '.join(PRECISIONS)}"
        )
    if target == "llvm":
        cpu = arch or codegen.llvm_get_system_cpu()
        if not codegen.llvm_is_valid_cpu(cpu, codegen.llvm_get_system_triple()):
            raise TargetError(f"LLVM knows no CPU {cpu!r}", hint="leave arch out for this one")
        return CPU, cpu
    arch = arch or toolchain.detect_arch()
    if arch is None:
        raise TargetError(
            'target="cuda" was asked for and there is no NVIDIA GPU here',
            hint='name what to build for, such as arch="sm_90", or build with target="llvm"',
        )
    return toolchain.cuda_arch(arch), arch


def _features(cpu: str) -> tuple[str, ...]:
    """What code for a CPU, as LLVM calls it, relies on."""
    return vector_features(codegen.llvm_get_cpu_features(pipeline.tvm_target("llvm", cpu)))


# ---------------------------------------------------------------- ONNX, then Relax


@dataclass(frozen=True)
class _Graph:
    """The model as given, its shapes fixed and nodes named, and in fewer nodes."""

    original: onnx.ModelProto
    simple: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@contextmanager
def _accepted(what: str) -> Iterator[None]:
    """Whatever TVM raises inside is no fault of the caller's: the model was accepted."""
    try:
        yield
    except TvmconvError:
        raise
    except Exception as error:
        raise ModelError(
            f"TVM could not {what}",
            note=last_line(error),
            hint="TVMCONV_DUMP=folder shows how far it came; please report the model",
        ) from error


def _read(
    model: onnx_model.Model, batch: int | None, shapes: Mapping[str, Sequence[int]] | None
) -> _Graph:
    original = onnx_model.fix_shapes(onnx_model.read(model), batch, shapes)
    onnx_model.name_nodes(original)
    inputs = onnx_model.specs(onnx_model.inputs(original))
    outputs = onnx_model.specs(original.graph.output)
    return _Graph(original, original, inputs, outputs)


def _simplified(graph: _Graph) -> _Graph:
    return replace(graph, simple=frontend.simplify(frontend.widen(graph.original)))


def _plan(graph: _Graph, hardware: Hardware) -> tuple[tvm.IRModule, Plan]:
    shapes = onnx_model.shapes_of(graph.simple)
    names = [
        node.name
        for node in graph.simple.graph.node
        if node.op_type == "Conv" and len(shapes[node.input[0]]) == 4
    ]
    mod = frontend.to_relax(graph.simple)
    with _accepted("bring this network to its convolution kernels"):
        mod = pipeline.run(mod, pipeline.GRAPH_PASSES, "1_graph")
        mod = mark_regions(mod, names)
    return mod, plan(mod, hardware)


# ---------------------------------------------------------------- compiling


def _compile(mod: tvm.IRModule, target: str, arch: str) -> tuple[bytes, int]:
    """The library's bytes, and the bytes of activations that it plans for.

    Raises `ToolchainError` rather than give a library with no machine code for `arch`.
    """
    tvm_target = pipeline.tvm_target(target, arch)
    options = {**pipeline.LOWERING, "relax.backend.use_cuda_graph": target == "cuda"}
    # TVM's CUDA compiler callback asks the target's scope for the architecture.
    with (
        _accepted(f"compile this network for {target}"),
        tvm_target,
        tvm.transform.PassContext(opt_level=3, config=options),
    ):
        mod = pipeline.run(mod, pipeline.plan_memory_passes(target), "3_memory")
        activation_bytes = pipeline.planned_bytes(mod)
        mod = pipeline.run(mod, pipeline.machine_passes(target), "4_machine")
        built = relax.build(mod, tvm_target, relax_pipeline=None)
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        library = Path(folder) / "code.so"
        built.export_library(str(library))
        if target == "cuda":
            toolchain.require_cubin(library, arch)
        return library.read_bytes(), activation_bytes


# ---------------------------------------------------------------- the report


def _report(graph: _Graph, planned: Plan, target: str, arch: str) -> BuildReport:
    by_name = {one.name: one for one in planned.values()}
    order = [node.name for node in graph.simple.graph.node if node.name in by_name]
    convs = [_conv_report(by_name[name]) for name in order]
    convs += generic_convs(graph.simple, by_name)
    operators = operator_fates(graph.original, graph.simple, by_name)
    return BuildReport(target, arch, operators, tuple(convs), {})


def _conv_report(planned: PlannedConv) -> ConvReport:
    choice = planned.choice
    w = choice.workload
    # Families of one kind decline for one reason.
    rejects = "; ".join(dict.fromkeys(reject.reason for reject in choice.rejects))
    return ConvReport(
        planned.name,
        str(w),
        w.to_json(),
        choice.family.name,
        str(choice.config),
        str(w.in_layout),
        str(w.out_layout),
        str(w.epilogue),
        choice.family.tensorized,
        rejects or "the first choice",
        planned.layout_reason,
        w.useful_macs,
        choice.family.padded_macs(w, choice.config),
    )
