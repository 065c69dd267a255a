"""Steps that schedules for GPUs share, and what they have to know of a block's reads and writes.

Of the default schedules, `gpu_schedules`; not a pass.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, s_tir, sym, tirx
from tvm.target import Target

from schedules.expressions.backend import GPU_VECTOR
from schedules.machine.gpus import ARCHITECTURES

VECTOR_BYTES = 16
#: Threads of a block, the most and the least; small tensors take small blocks, to use every SM.
THREADS = (256, 32)
#: Blocks that fill a multiprocessor.
ENOUGH_BLOCKS = 2
IF_THEN_ELSE = "prim.if_then_else"


def largest_divisor(extent: int, most: int) -> int:
    """The largest divisor of `extent` that is at most `most`."""
    return max(one for one in range(1, min(extent, most) + 1) if extent % one == 0)


def enough_blocks(target: Target) -> int:
    """Returns the blocks that fill a GPU of the target's architecture."""
    _, card = ARCHITECTURES[str(target.attrs["arch"])]
    return ENOUGH_BLOCKS * card.multiprocessors


def block_size(total: int, enough: int) -> int:
    """Returns how many of `total` threads are a block. enough: blocks that fill the GPU."""
    threads, least = THREADS
    while threads > least and total < threads * enough:
        threads //= 2
    return threads


def bind_threads(
    sch: s_tir.Schedule, loops: list[Any], width: int, reduced: list[Any], enough: int
) -> Any:
    """Threads for spatial loops, of which the last is over adjacent elements: threadIdx.x for its
    vectors of `width`, threadIdx.y for the others, which are fused. The loops `reduced` come
    between, then the vector. enough: blocks that fill the GPU. Returns the innermost loop of the
    threads.

    The vector's axis is kept apart from the rest, or TVM would not see that a thread needs but a
    vector of each buffer in registers.
    """
    *others, last = loops
    total = math.prod(int(sch.get(loop).extent) for loop in loops)
    threads = block_size(total // width, enough)
    vectors, lane = sch.split(last, [None, width])
    count = int(sch.get(vectors).extent)
    wide = largest_divisor(count, threads)
    if wide * 4 < min(threads, count):
        wide = threads  # few divisors: the last threads idle
    column, x = sch.split(vectors, [None, wide])
    if others:
        row = sch.fuse(*others)
        row, y = sch.split(row, [None, min(max(threads // wide, 1), int(sch.get(row).extent))])
        sch.reorder(row, column, y, x, *reduced, lane)
        sch.bind(y, "threadIdx.y")
        column = sch.fuse(row, column)
    else:
        sch.reorder(column, x, *reduced, lane)
    sch.bind(column, "blockIdx.x")
    sch.bind(x, "threadIdx.x")
    return x


def write_vectors(sch: s_tir.Schedule, block: Any, thread: Any) -> None:
    """The block's results are kept in registers and stored from there in vectors."""
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, thread, preserve_unit_loops=True)
    vectorize(sch, copy)


def vectorize(sch: s_tir.Schedule, block: Any) -> None:
    """The block's innermost loop, in vectors of at most 16 bytes of what it reads and writes."""
    stmt = sch.get(block)
    sizes = [np.dtype(str(one.source.dtype)).itemsize for one in (*stmt.reads, *stmt.writes)]
    *_, lane = sch.get_loops(block)
    outer, lane = sch.split(
        lane, [None, math.gcd(int(sch.get(lane).extent), VECTOR_BYTES // max(sizes))]
    )
    sch.vectorize(lane)
    sch.unroll(outer)


def unroll(sch: s_tir.Schedule, block: Any, thread: Any) -> None:
    """All serial loops of the block inside the loop `thread`."""
    loops = sch.get_loops(block)
    start = next(i for i, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(thread)))
    for loop in loops[start + 1 :]:
        if sch.get(loop).kind == tirx.ForKind.SERIAL:
            sch.unroll(loop)


# ---------------------------------------------------------------- what is read where


def vector_width(sch: s_tir.Schedule, *blocks: Any) -> int:
    """Adjacent elements along the blocks' last spatial axis that lie side by side, and on a
    multiple of their number, in everything that is read and written along it; 16 bytes of the
    widest at most. 1 where there are none."""
    width = GPU_VECTOR
    for block in blocks:
        stmt = sch.get(block)
        if not isinstance(stmt.body, tirx.BufferStore):
            return 1
        lane = lane_of(stmt)
        places = [(stmt.body.buffer, run_length(stmt.body.buffer, stmt.body.indices, lane) or 1)]
        places += [
            (load.source, run_length(load.source, load.indices, lane)) for load in loads(stmt.body)
        ]
        for buffer, run in places:
            size = np.dtype(str(buffer.dtype)).itemsize
            width = math.gcd(width, run, VECTOR_BYTES // size if run else 0)
    return width


def lane_of(stmt: Any) -> Any:
    return [one.var for one in stmt.iter_vars if one.iter_type == tirx.IterVar.DataPar][-1]


def run_length(buffer: Any, indices: Any, lane: Any) -> int:
    """What divides place and length of a run along `lane`; 0 where `lane` does not matter."""
    shape = [int(size) for size in buffer.shape]
    last = max((i for i, size in enumerate(shape) if size > 1), default=0)
    used = [i for i, index in enumerate(indices) if uses(index, lane)]
    if not used:
        return 0
    before = sym.Analyzer().simplify(indices[last] - lane)
    if used != [last] or not isinstance(before, tirx.IntImm):
        return 1
    return math.gcd(shape[last], int(before))


def loads(node: Any) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (ir.TensorLoad, found.append), order="post")
    return found


def uses(node: Any, var: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (tirx.Var, found.append), order="post")
    return any(one.same_as(var) for one in found)


def selects(sch: s_tir.Schedule, block: Any) -> bool:
    """Whether the block reads something only under a condition."""
    found: list[Any] = []

    def visit(call: ir.Call) -> None:
        if call.op.same_as(ir.Op.get(IF_THEN_ELSE)) and loads(call):
            found.append(call)

    tvm_ffi.structural_walk(sch.get(block).body, (ir.Call, visit), order="post")
    return bool(found)


def compare_vectors(body: Any) -> Any:
    """The same conditions, but those on the last axis ask for the number of the vector: that is
    plainly the same for all elements of one. c >= k just if c // v >= k // v, where v divides k."""
    last: list[Any] = []

    def note(block: s_tir.SBlock) -> None:
        last.extend(one.var for one in block.iter_vars[-1:])

    def rewrite(node: Any) -> Any:
        var, bound = (node.a, node.b) if isinstance(node, tirx.LT) else (node.b, node.a)
        if not isinstance(bound, tirx.IntImm) or int(bound) % GPU_VECTOR:
            return node
        if not any(var.same_as(one) for one in last):
            return node
        return type(node)(node.a // GPU_VECTOR, node.b // GPU_VECTOR)

    tvm_ffi.structural_walk(body, (s_tir.SBlock, note), order="post")
    return tvm_ffi.structural_map(body, [(tirx.LT, rewrite), (tirx.LE, rewrite)], order="post")


def reads_along(sch: s_tir.Schedule, block: Any, index: int) -> bool:
    """Whether the block reads its buffer number `index` along its last axis."""
    stmt = sch.get(block)
    source, lane = stmt.reads[index].source, lane_of(stmt)
    places = [load for load in loads(stmt.body) if load.source.same_as(source)]
    if any(loads(list(load.indices)) for load in places):
        return False  # read at places that are read themselves
    return any(run_length(load.source, load.indices, lane) for load in places)


def read_across(sch: s_tir.Schedule, block: Any) -> int | None:
    """Which iteration is the innermost of the only input, if that is not the output's."""
    stmt = sch.get(block)
    found = loads(stmt.body)
    if len(found) != 1 or not isinstance(stmt.body, tirx.BufferStore):
        return None
    lane = lane_of(stmt)
    shape = [int(size) for size in found[0].source.shape]
    last = max((i for i, size in enumerate(shape) if size > 1), default=0)
    inner = found[0].indices[last]
    places = [i for i, one in enumerate(stmt.iter_vars) if inner.same_as(one.var)]
    if not places or inner.same_as(lane):
        return None
    straight = all(isinstance(i, (tirx.Var, tirx.IntImm)) for i in found[0].indices)
    written = run_length(stmt.body.buffer, stmt.body.indices, lane)
    return places[0] if straight and written else None
