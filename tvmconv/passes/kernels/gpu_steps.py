"""Steps shared by the schedules of `gpu_schedules`, and analysis of a block's reads and writes."""

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
#: Elements of one byte in a vector: TVM writes constants of four, and of no other number.
BYTES_AT_ONCE = 4
#: The most and the least threads of a block. Small tensors get small blocks, to use every SM.
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
    """Returns the threads of a block, for `total` threads. enough: blocks that fill the GPU."""
    threads, least = THREADS
    while threads > least and total < threads * enough:
        threads //= 2
    return threads


def bind_threads(
    sch: s_tir.Schedule, loops: list[Any], width: int, reduced: list[Any], enough: int
) -> Any:
    """Binds spatial loops, the last of them over adjacent elements, to threads.

    Vectors of `width` along the last loop go to threadIdx.x; the other loops are fused and go to
    threadIdx.y. The loops `reduced` follow inside, then the vector. enough: blocks that
    fill the GPU. Returns the innermost loop of the threads.

    The vector's axis is not fused with the others: TVM would not see that a thread needs just one
    vector of each buffer in registers.
    """
    *others, last = loops
    total = math.prod(int(sch.get(loop).extent) for loop in loops)
    threads = block_size(total // width, enough)
    vectors, lane = sch.split(last, [None, width])
    count = int(sch.get(vectors).extent)
    wide = largest_divisor(count, threads)
    if wide * 4 < min(threads, count):
        wide = threads  # few divisors: the last threads are idle
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


def bind_number(sch: s_tir.Schedule, block: Any) -> None:
    """Binds a block without loops, which computes a tensor without dimensions, to one thread."""
    sch.bind(sch.add_unit_loop(block), "threadIdx.x")
    sch.bind(sch.add_unit_loop(sch.get_loops(block)[0]), "blockIdx.x")


def write_vectors(sch: s_tir.Schedule, block: Any, thread: Any) -> None:
    """Keeps a block's results in registers and stores them in vectors."""
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, thread, preserve_unit_loops=True)
    vectorize(sch, copy)


def vectorize(sch: s_tir.Schedule, block: Any) -> None:
    """Vectorises a block's innermost loop, by at most 16 bytes of its widest element type, and 4
    elements of one byte."""
    stmt = sch.get(block)
    sizes = [np.dtype(str(one.source.dtype)).itemsize for one in (*stmt.reads, *stmt.writes)]
    *_, lane = sch.get_loops(block)
    widest = min(VECTOR_BYTES // max(sizes), BYTES_AT_ONCE if min(sizes) == 1 else VECTOR_BYTES)
    outer, lane = sch.split(lane, [None, math.gcd(int(sch.get(lane).extent), widest)])
    sch.vectorize(lane)
    sch.unroll(outer)


def unroll(sch: s_tir.Schedule, block: Any, thread: Any) -> None:
    """Unrolls all serial loops of a block inside the loop `thread`."""
    loops = sch.get_loops(block)
    start = next(i for i, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(thread)))
    for loop in loops[start + 1 :]:
        if sch.get(loop).kind == tirx.ForKind.SERIAL:
            sch.unroll(loop)


# ---------------------------------------------------------------- reads and writes


def vector_width(sch: s_tir.Schedule, *blocks: Any) -> int:
    """The largest vector along the blocks' last spatial axis, in elements.

    In every tensor read or written along it, a vector is contiguous and aligned to its size. It has
    at most 16 bytes of the widest element type; 1 element if there is no larger one.
    """
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
    """The variable of a block's last spatial axis."""
    return [one.var for one in stmt.iter_vars if one.iter_type == tirx.IterVar.DataPar][-1]


def run_length(buffer: Any, indices: Any, lane: Any) -> int:
    """The largest number that divides start and length of contiguous runs along `lane`.

    0 if the indices do not depend on `lane`, 1 if there are no runs.
    """
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
    """Every load from a tensor inside a node."""
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (ir.TensorLoad, found.append), order="post")
    return found


def uses(node: Any, var: Any) -> bool:
    """True if a variable occurs inside a node."""
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (tirx.Var, found.append), order="post")
    return any(one.same_as(var) for one in found)


def selects(sch: s_tir.Schedule, block: Any) -> bool:
    """True if a block loads something under a condition."""
    found: list[Any] = []

    def visit(call: ir.Call) -> None:
        if call.op.same_as(ir.Op.get(IF_THEN_ELSE)) and loads(call):
            found.append(call)

    tvm_ffi.structural_walk(sch.get(block).body, (ir.Call, visit), order="post")
    return bool(found)


def compare_vectors(body: Any) -> Any:
    """Rewrites comparisons of the last axis to compare numbers of vectors.

    TVM then sees that all elements of a vector take the same branch. c >= k exactly if
    c // v >= k // v, for v that divides k.
    """
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
    """True if a block reads its buffer number `index` along its last axis."""
    stmt = sch.get(block)
    source, lane = stmt.reads[index].source, lane_of(stmt)
    places = [load for load in loads(stmt.body) if load.source.same_as(source)]
    if any(loads(list(load.indices)) for load in places):
        return False  # at indices that are loaded
    return any(run_length(load.source, load.indices, lane) for load in places)


def samples(sch: s_tir.Schedule, block: Any) -> bool:
    """True if a block reduces elements at indices that are loaded, or a number of them that is.

    TVM keeps loops of such a number in a block of their own, inside of one over the outputs.
    """
    stmt = sch.get(block)
    if isinstance(stmt.body, tirx.For):
        inner: list[Any] = []
        tvm_ffi.structural_walk(stmt.body, (s_tir.SBlock, inner.append), order="post")
        return len(inner) == 1 and _reduces(inner[0])
    return _reduces(stmt) and any(loads(list(load.indices)) for load in loads(stmt.body))


def _reduces(stmt: Any) -> bool:
    return any(one.iter_type == tirx.IterVar.CommReduce for one in stmt.iter_vars)


def read_across(sch: s_tir.Schedule, block: Any) -> int | None:
    """Index of the iteration along the innermost axis of the only input; None if it is the output's
    innermost one too."""
    stmt = sch.get(block)
    found = loads(stmt.body)
    if len(found) != 1 or not isinstance(stmt.body, tirx.BufferStore):
        return None
    shape = [int(size) for size in found[0].source.shape]
    if not shape:
        return None
    lane = lane_of(stmt)
    last = max((i for i, size in enumerate(shape) if size > 1), default=0)
    inner = found[0].indices[last]
    places = [i for i, one in enumerate(stmt.iter_vars) if inner.same_as(one.var)]
    if not places or inner.same_as(lane):
        return None
    straight = all(isinstance(i, (tirx.Var, tirx.IntImm)) for i in found[0].indices)
    written = run_length(stmt.body.buffer, stmt.body.indices, lane)
    return places[0] if straight and written else None
