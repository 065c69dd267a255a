"""A sound default schedule for the operators that TVM leaves serial and scalar on a CPU.

Before:  the loops of a fused operator as legalisation wrote them
After:   outer loops in parallel, the innermost contiguous one in vectors, what is elementwise
         inlined
Requires: a function that nobody has scheduled; a block of spatial and reduction loops
Formula: the identity; only the order of independent iterations changes
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

from schedules.backend import CPU_VECTOR


class CpuFallback(CPUScheduleRule):
    """Applies to whatever the rules before it left alone."""

    def apply(self, func: tirx.PrimFunc, target: Target, _: bool) -> s_tir.Schedule | None:
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
        sch.vectorize(lane)
    else:
        sch.reorder(*spatial, *reduced)
        sch.parallel(sch.fuse(*spatial))
    if reduced:
        sch.decompose_reduction(block, reduced[0])


def default_schedules(kind: str) -> Any:
    """The pass that schedules what is not yet, for target kind ``"cuda"`` or ``"llvm"``."""
    gpu = dlight.gpu
    rules = (gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback())
    schedule = dlight.ApplyDefaultSchedule(*((CpuFallback(),) if kind == "llvm" else rules))
    return tvm.transform.Sequential([schedule], name="default_schedules")
