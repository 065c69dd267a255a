"""GPU schedule of norms of groups of channels, channels innermost (`legalize.normalization`).

A block of threads has whole groups of one image: of each pixel a run of channels, adjacent threads
adjacent vectors of it, rows of threads every so many pixels. It reads its part of memory once, and
twice more from L2 or L1: for the sums, for the squares of what is left of the mean, and for the
result. Sums go through registers, then through shared memory.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import s_tir
from tvm.s_tir.dlight.analysis import SBlockInfo

from tvmconv.passes.kernels.gpu_schedules import MOST_THREADS, Rule
from tvmconv.passes.kernels.gpu_steps import unroll, vectorize
from tvmconv.passes.legalize.normalization import Groups


class GroupNorms(Rule):
    """A norm of groups, and what is computed from its result, element by element."""

    def schedule(self, sch: s_tir.Schedule, blocks: list[SBlockInfo], enough: int) -> bool:
        """Schedules the blocks. Returns False if the rule does not apply."""
        sums = [one for one in blocks if "R" in one.dom_kind()]
        out = blocks[-1]
        if out in sums or len(sums) != 6 or any(one.dom_kind().count("R") != 1 for one in sums):
            return False
        part, runs, total, *_ = (_shape(sch, one.block_rv) for one in sums)
        image, *pixels, last = _shape(sch, out.block_rv)
        if [len(part), len(runs), len(total)] != [4, 4, 3] or not pixels:
            return False
        n, slabs, rows, slab = part
        plan = Groups.of(math.prod(pixels), last, slabs * total[2])
        if (image, last, plan.slab, plan.rows) != (n, slabs * slab, slab, rows):
            return False
        if min(rows, slab) == 1:
            return False  # TVM leaves out loops of one iteration, which are threads here
        if plan.slab // plan.adjacent * plan.rows > MOST_THREADS:
            return False
        for one in blocks[:-1]:
            if one not in sums:
                sch.compute_inline(one.block_rv)
        _schedule(sch, [one.block_rv for one in sums], out.block_rv, plan)
        return True


def _shape(sch: s_tir.Schedule, block: Any) -> list[int]:
    return [int(size) for size in sch.get(block).writes[0].source.shape]


def _schedule(sch: s_tir.Schedule, sums: list[Any], out: Any, plan: Groups) -> None:
    """Schedules the blocks: the sums in three steps, those of squares, and the result."""
    lanes = plan.slab // plan.adjacent
    sizes = _shape(sch, out)
    # Loops of one iteration are left out.
    *pixels, channel = sch.get_loops(out)
    images = [pixels.pop(0)] if sizes[0] > 1 else []
    slab, channel = sch.split(channel, [None, plan.slab])
    sch.reorder(*images, slab, *pixels, channel)
    block = sch.fuse(*images, slab)
    sch.bind(block, "blockIdx.x")
    step, row = sch.split(sch.fuse(*pixels), [None, plan.rows])
    lane, vector = sch.split(channel, [lanes, plan.adjacent])
    sch.reorder(row, lane, step, vector)
    _threads(sch, row, lane)
    _read_vectors(sch, out, step)
    vectorize(sch, out)
    for i in reversed(range(0, len(sums), 3)):
        part, *further = sums[i : i + 3]
        # Before loops are split, after which TVM no longer sees which channels are a block's.
        for one in (*reversed(further), part):
            sch.compute_at(one, block, preserve_unit_loops=True)
        _part(sch, part, plan, lanes)
        for one in further:
            copy = sch.cache_write(one, 0, "local")
            sch.set_scope(copy, 0, "shared")
            _, *spatial = sch.get_loops(copy)
            _, row, lane = sch.split(sch.fuse(*spatial), [None, plan.rows, lanes])
            _threads(sch, row, lane)
            sch.compute_at(one, lane, preserve_unit_loops=True)


def _threads(sch: s_tir.Schedule, row: Any, lane: Any) -> None:
    sch.bind(row, "threadIdx.y")
    sch.bind(lane, "threadIdx.x")


def _part(sch: s_tir.Schedule, part: Any, plan: Groups, lanes: int) -> None:
    """A thread's pixels, summed in registers."""
    copy = sch.cache_write(part, 0, "local")
    sch.set_scope(copy, 0, "shared")
    *outer, channel = sch.get_loops(copy)
    lane, _ = sch.split(channel, [lanes, plan.adjacent])
    _threads(sch, outer[-1], lane)
    sch.compute_at(part, lane, preserve_unit_loops=True)
    *_, vector, step = sch.get_loops(part)
    sch.reorder(step, vector)
    _read_vectors(sch, part, step)
    unroll(sch, copy, lane)
    init = sch.decompose_reduction(part, step)
    for one in (init, part):
        sch.unroll(sch.get_loops(one)[-1])


def _read_vectors(sch: s_tir.Schedule, block: Any, step: Any) -> None:
    """Reads x in vectors, and keeps them in registers."""
    stmt = sch.get(block)
    made = [one.source for one in stmt.writes]
    largest = max(
        (math.prod(int(size) for size in one.source.shape), i)
        for i, one in enumerate(stmt.reads)
        if not any(one.source.same_as(other) for other in made)
    )
    copy = sch.cache_read(block, largest[1], "local", [block])
    sch.compute_at(copy, step, preserve_unit_loops=True)
    vectorize(sch, copy)
