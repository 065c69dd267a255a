"""GPU schedule of rows: reductions along the last axes, and what is computed from them.

LayerNorm and Softmax are of this form. A few threads, at most a warp if the row is short, reduce a
row in registers: memory is read once and written once.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import s_tir
from tvm.s_tir.dlight.analysis import SBlockInfo

from intrinsics.record import WARP_SIZE
from tvmconv.passes.kernels.gpu_schedules import MOST_THREADS, Rule
from tvmconv.passes.kernels.gpu_steps import (
    THREADS,
    largest_divisor,
    unroll,
    vector_width,
    vectorize,
)

#: The most elements of a row that a thread keeps in registers.
MOST_KEPT = 64


class Rows(Rule):
    """Reductions of rows, then what is computed from their results, element by element."""

    def schedule(self, sch: s_tir.Schedule, blocks: list[SBlockInfo], enough: int) -> bool:
        """Schedules the blocks. Returns False if the rule does not apply."""
        sums = [one for one in blocks if "R" in one.dom_kind()]
        out = blocks[-1]
        if not sums or out in sums:
            return False
        rank = len(out.iters)
        inner = len(sums[0].dom_kind()) - len(sums[0].dom_kind().rstrip("R"))
        shape = [int(one.dom) for one in out.iters]
        form = "S" * (rank - inner) + "R" * inner
        if any(one.dom_kind() != form for one in sums):
            return False
        if any([int(i.dom) for i in one.iters] != shape for one in sums):
            return False
        for one in blocks[:-1]:
            if one not in sums:
                sch.compute_inline(one.block_rv)
        _schedule_rows(sch, [one.block_rv for one in sums], out.block_rv, inner)
        return True


def _schedule_rows(sch: s_tir.Schedule, sums: list[Any], out: Any, inner: int) -> None:
    """Schedules the blocks. inner: the number of axes that a row has."""
    width = vector_width(sch, out)
    loops = sch.get_loops(out)
    columns = math.prod(_extent(sch, loop) for loop in loops[-inner:])
    lanes = _lanes(columns // width, columns)
    # Of one axis: TVM knows no part of a tensor that is a run of rows across axes.
    axis = max(i for i, loop in enumerate(loops[:-inner]) if i == 0 or _extent(sch, loop) > 1)
    block, row = sch.split(loops[axis], [None, _rows(_extent(sch, loops[axis]), lanes)])
    others = [loop for i, loop in enumerate(loops[:-inner]) if i != axis]
    sch.reorder(*others, block, row)
    sch.bind(sch.fuse(*others, block), "blockIdx.x")
    sch.bind(row, "threadIdx.y")
    kept = _reads_of_rows(sch, sums, out) if columns <= lanes * MOST_KEPT else []
    copies = [sch.cache_read(sums[0], at, "local", [*sums, out]) for at in kept]
    for total in reversed(sums):
        sch.compute_at(total, row, preserve_unit_loops=True)
        sch.set_scope(total, 0, "local")
    for copy in copies:
        sch.compute_at(copy, row, preserve_unit_loops=True)
    for stage in (*copies, *sums, out):
        across = sch.get_loops(stage)[2:]
        run, lane, vector = sch.split(sch.fuse(*across[-inner:]), [None, lanes, width])
        sch.bind(lane, "threadIdx.x")
        sch.reorder(lane, run, vector)
        if stage in sums:
            continue
        vectorize(sch, stage)
        unroll(sch, stage, lane)


def _extent(sch: s_tir.Schedule, loop: Any) -> int:
    return int(sch.get(loop).extent)


def _rows(extent: int, lanes: int) -> int:
    """The rows of a block, of `extent` along their axis: all blocks have as many, if not few."""
    most = max(THREADS[0] // lanes, 1)
    even = largest_divisor(extent, most)
    return even if 2 * even > most else min(extent, most)


def _lanes(vectors: int, columns: int) -> int:
    """The threads of a row: those that have the same number of vectors each, if they are not few;
    more than a warp where a thread would keep too many elements."""
    lanes = math.gcd(vectors, WARP_SIZE)
    if lanes * 4 < min(vectors, WARP_SIZE):
        lanes = min(WARP_SIZE, 1 << (vectors - 1).bit_length())  # the last have none at times
    while columns > lanes * MOST_KEPT and lanes < MOST_THREADS:
        lanes *= 2
    return lanes


def _reads_of_rows(sch: s_tir.Schedule, sums: list[Any], out: Any) -> list[int]:
    """Which buffers the first reduction reads element by element."""
    stmt = sch.get(sums[0])
    made = stmt.writes[0].source
    shape = [int(size) for size in sch.get(out).writes[0].source.shape]
    return [
        at
        for at, one in enumerate(stmt.reads)
        if not one.source.same_as(made) and [int(size) for size in one.source.shape] == shape
    ]
