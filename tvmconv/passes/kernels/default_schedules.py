"""Schedule everything that is not a convolution, by the first rule that applies.

Before:  the loops of a fused operator as legalisation wrote them
After:   on GPUs, blocks and threads that read and write in vectors (`gpu_schedules`, then TVM's
         own rules); on CPUs, outer loops in parallel, the innermost contiguous one in vectors,
         elementwise blocks inlined
Requires: a function that is not scheduled yet, with blocks of spatial and reduction loops; one
         that no rule takes is refused for a GPU
Formula: the identity, up to the order of iterations and of the terms of a sum
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.s_tir.dlight.base import try_inline
from tvm.s_tir.dlight.cpu.base import CPUScheduleRule
from tvm.target import Target

from intrinsics import dtypes
from schedules.expressions.backend import CPU_VECTOR
from tvmconv.errors import ModelError
from tvmconv.passes.kernels.gpu_groups import GroupNorms
from tvmconv.passes.kernels.gpu_rows import Rows
from tvmconv.passes.kernels.gpu_schedules import (
    Elementwise,
    Samples,
    Totals,
    Transposition,
    Windows,
)


class CpuFallback(CPUScheduleRule):
    """The last rule for CPUs: inlines, parallelises, vectorises."""

    def apply(self, func: tirx.PrimFunc, target: Target, _: bool) -> s_tir.Schedule | None:
        """Schedules a function for a CPU; returns None for another target."""
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        sch = s_tir.Schedule(func)
        blocks = normalize_prim_func(sch)
        if blocks is None:
            return None
        for block in try_inline(sch, blocks):
            _parallelise(sch, block.block_rv, block.dom_kind())
        return sch


def _parallelise(sch: s_tir.Schedule, block: Any, kinds: str) -> None:
    loops = sch.get_loops(block)
    if len(loops) != len(kinds):
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    if not spatial:
        return
    extents = [int(sch.get(loop).extent) for loop in spatial]
    *outer, inner = spatial
    if extents[-1] % CPU_VECTOR == 0:
        split, lane = sch.split(inner, [None, CPU_VECTOR])
        sch.reorder(*outer, split, *reduced, lane)
        sch.parallel(sch.fuse(*outer, split))
        # TVM can't store a vector of one constant of such a dtype, as an initial value is.
        if not (reduced and _kept_as_bits(sch, block)):
            sch.vectorize(lane)
    else:
        sch.reorder(*spatial, *reduced)
        sch.parallel(sch.fuse(*spatial))
    if reduced:
        sch.decompose_reduction(block, reduced[0])


def _kept_as_bits(sch: s_tir.Schedule, block: Any) -> bool:
    """True where TVM keeps what the block writes as integers: bfloat16 and narrower floats."""
    dtype = str(sch.get(block).writes[0].source.dtype)
    return any(one.name == dtype and one.numpy.kind == "V" for one in dtypes.TYPES)


#: Rules for GPUs in order: the first that does not decline schedules a function; the last never
#: declines. `Windows` comes before TVM's general rule for reductions, which uses a block for each
#: output element: on pooling windows it took up to 600 times as long on an H200.
GPU_RULES = (
    Windows(),
    Transposition(),
    Elementwise(),
    Rows(),
    GroupNorms(),
    Totals(),
    Samples(),
    dlight.gpu.Matmul(),
    dlight.gpu.GEMV(),
    dlight.gpu.Reduction(),
    dlight.gpu.GeneralReduction(),
    dlight.gpu.Fallback(),
)


def default_schedules(kind: str) -> Any:
    """Returns the pass that schedules the remaining functions, for ``"cuda"`` or ``"llvm"``."""
    schedule = dlight.ApplyDefaultSchedule(*((CpuFallback(),) if kind == "llvm" else GPU_RULES))
    return tvm.transform.Sequential([schedule], name="default_schedules")


def require_scheduled(mod: tvm.IRModule) -> None:
    """Raises `ModelError` for a kernel that no rule took: without threads, TVM would run it on the
    CPU, in the GPU's memory."""
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and not func.attrs.get("tirx.is_scheduled", False):
            raise ModelError(
                f"there is no schedule for a GPU of the kernel {name.name_hint!r}",
                hint="please report the model",
            )
