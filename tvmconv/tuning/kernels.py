"""Compiles one kernel into a library: a candidate, or a kernel that checks candidates."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.s_tir import Schedule

from intrinsics import dtypes
from intrinsics.dtypes import FP32
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.direct.family import DirectFamily
from schedules.family import Family
from schedules.lowering import LOWERING
from schedules.machine.cost import Machine
from schedules.machine.hardware import Hardware
from tvmconv.compiler import cubins, toolchain
from tvmconv.compiler.targets import find_processor, hardware_of
from tvmconv.passes import pipeline

#: Value of floats that a kernel does not write; no result equals it.
UNTOUCHED = -1234.0
#: Partial sums of `difference`, and threads of one of its blocks.
SUMS, THREADS = 1 << 15, 256


@dataclass(frozen=True)
class Target:
    """The target to compile for: ``cuda`` with an architecture, or ``llvm`` with LLVM's CPU."""

    kind: str
    arch: str

    @property
    def hardware(self) -> Hardware:
        """The limits of the target. Raises `TargetError` for an unknown architecture."""
        return hardware_of(self.arch) if self.kind == "llvm" else toolchain.cuda_arch(self.arch)

    @property
    def machine(self) -> Machine:
        """The machine that runs the kernels: this CPU, or a card of the architecture."""
        return find_processor(self.arch) if self.kind == "llvm" else self.hardware.card


@dataclass(frozen=True)
class Kernel:
    """A library with one function, ``main``. Equal functions have equal paths."""

    path: str
    #: False if another process compiles, or has compiled, an equal function.
    made: bool


def compile_candidate(
    w: ConvWorkload, family: Family, config: Any, target: Target, folder: str
) -> Kernel:
    """Compiles a candidate: ``(x[, prologue], weight[, bias][, slope][, residual], y)``.

    Raises `ConfigError` for a configuration that does not fit, and the errors of TVM and the CUDA
    compiler.
    """
    function = family.schedule(w, config, target.hardware)
    return _compile(function, target, folder)


def compile_reference(w: ConvWorkload, target: Target, folder: str) -> Kernel:
    """Compiles one of `references`: a convolution by its definition, in fp32."""
    one, config = by_definition(w, target.hardware)
    return _compile(one.schedule(w, config, target.hardware), target, folder)


def by_definition(w: ConvWorkload, hardware: Hardware) -> tuple[DirectFamily, Any]:
    """Returns the family that computes a reference, and its configuration."""
    one = DirectFamily()
    return one, next(one.space(w, hardware))


def references(w: ConvWorkload) -> tuple[ConvWorkload, ...]:
    """Returns the workloads whose results candidates are compared with.

    One for each convolution of `w`; the last writes fp32, before rounding and pooling, or the
    integers that `w` writes.
    """
    *first, last = w.apart
    precision = replace(last.precision, result=expected_dtype(w))
    return *first, replace(last, epilogue=replace(last.epilogue, pool=None), precision=precision)


def expected_dtype(w: ConvWorkload) -> str:
    """Returns the dtype of the reference result."""
    result = w.precision.result
    return result if dtypes.get(result).integer else FP32.name


def untouched(dtype: str) -> float:
    """Returns the value of elements before a kernel runs: of integers, whose every value may be a
    result, 0."""
    return 0.0 if dtypes.get(dtype).integer else UNTOUCHED


def compile_difference(w: ConvWorkload, target: Target, folder: str) -> Kernel:
    """Compiles ``(y, expected, difference, size)``, which sums squares into fp32 (`SUMS`,).

    difference: partial sums of y minus `expected`. size: of `expected`, without elements that
    are `UNTOUCHED`.
    """
    return _compile(_difference(w, target.kind), target, folder)


def _difference(w: ConvWorkload, kind: str) -> tirx.PrimFunc:
    shape = w.buffer_shape
    y = te.placeholder(shape, w.precision.result, "y")
    expected = te.placeholder(shape, expected_dtype(w), "expected")
    elements = 1
    for size in shape:
        elements *= size

    def sums(name: str, term: Callable[[list[Expr]], Expr]) -> te.Tensor:
        step = te.reduce_axis((0, ceil_div(elements, SUMS)), "step")

        def body(at: Expr) -> Expr:
            flat = step * SUMS + at
            index = _unravelled(flat, shape)
            return te.sum(tirx.if_then_else(flat < elements, term(index), 0.0), axis=step)

        return te.compute((SUMS,), body, name)

    def squared_difference(index: list[Expr]) -> Expr:
        one = y(*index).astype(FP32.name) - expected(*index).astype(FP32.name)
        return one * one

    def squared(index: list[Expr]) -> Expr:
        one = expected(*index).astype(FP32.name)
        return tirx.if_then_else(one == UNTOUCHED, 0.0, one * one)

    outputs = [sums("difference", squared_difference), sums("size", squared)]
    sch = Schedule(te.create_prim_func([y, expected, *outputs]))
    for name in ("difference", "size"):
        block = sch.get_sblock(name)
        if kind == "cuda":
            at, step = sch.get_loops(block)
            outer, inner = sch.split(at, [None, THREADS])
            sch.bind(outer, "blockIdx.x")
            sch.bind(inner, "threadIdx.x")
            sch.decompose_reduction(block, step)
    return sch.mod["main"]


def _unravelled(flat: Expr, shape: tuple[int, ...]) -> list[Expr]:
    index: list[Expr] = []
    for size in reversed(shape):
        index.insert(0, flat % size)
        flat = flat // size
    return index


@cache
def _prepared(arch: str) -> None:
    """Prepares the compiler once per process."""
    toolchain.prepare_cuda(arch)


def _compile(function: tirx.PrimFunc, target: Target, folder: str) -> Kernel:
    path = (
        Path(folder)
        / f"{tvm_ffi.structural_hash(function, skip_tensor_content=False) % 2**64:016x}.so"
    )
    try:
        os.close(os.open(path.with_suffix(".claimed"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return Kernel(str(path), made=False)
    if target.kind == "cuda":
        _prepared(target.arch)
    machine = pipeline.tvm_target(target.kind, target.arch)
    lowering = pipeline.kernel_pipeline(target.kind, target.hardware.sm)  # as in a build
    with machine, tvm.transform.PassContext(opt_level=3, config=LOWERING):
        built = tvm.compile(function, target=machine, tir_pipeline=lowering)
    # Renamed when complete, as other processes load it once it exists.
    part = path.with_suffix(".part.so")
    built.export_library(str(part))
    if target.kind == "cuda":
        cubins.require_cubin(part, target.arch)
    part.rename(path)
    return Kernel(str(path), made=True)
