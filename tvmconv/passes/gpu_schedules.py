"""Schedules for GPUs of what is no convolution: pooling windows, copies, conversions of layouts.

Each is a rule of dlight's: it schedules a function whose shape it knows, or declines with None.
All of them read and write memory in vectors of up to 16 bytes, adjacent threads adjacent vectors,
and keep everything between in registers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, s_tir, sym, tirx
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func
from tvm.s_tir.dlight.gpu.base import GPUScheduleRule
from tvm.target import Target

from schedules.backend import GPU_VECTOR

VECTOR_BYTES = 16
IF_THEN_ELSE = "prim.if_then_else"
#: Elements that one thread may sum or compare; more are shared between threads.
MOST_TAPS = 64
#: Outputs side by side that one thread computes, where there are enough of them.
MOST_COLUMNS = 4
#: Threads below which vectors are made narrower to have more of them.
FEW_THREADS = 2048
#: Threads of a block, the most and the least; small tensors take small blocks, to use every SM.
THREADS = (256, 32)
#: Blocks that fill a GPU.
ENOUGH_BLOCKS = 264
#: Rows and columns of a tile that is transposed through shared memory.
TILE = 32


class Windows(GPUScheduleRule):
    """A small window of elements for every output: pooling, but for windows of whole images.

    A thread reduces a vector of adjacent channels. What stands before the window (its padding, a
    cast) is loaded tap by tap, what follows is computed in registers.
    """

    def apply(self, func: tirx.PrimFunc, target: Target, _: bool) -> s_tir.Schedule | None:
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        sch = s_tir.Schedule(func)
        blocks = normalize_prim_func(sch)
        window = _only_reduction(blocks)
        if blocks is None or window is None:
            return None
        spatial = blocks[window].dom_kind().rstrip("R")
        taps = math.prod(int(one.dom) for one in blocks[window].iters if one.kind == "R")
        if "R" in spatial or not spatial or taps > MOST_TAPS:
            return None
        _schedule_window(sch, blocks, window, len(spatial))
        return sch


def _only_reduction(blocks: list[SBlockInfo] | None) -> int | None:
    """Where the reduction is among blocks that are otherwise spatial; None if it is not alone."""
    kinds = ["R" in one.dom_kind() for one in blocks or ()]
    return kinds.index(True) if kinds.count(True) == 1 else None


def _schedule_window(
    sch: s_tir.Schedule, blocks: list[SBlockInfo], window: int, spatial: int
) -> None:
    pool = blocks[window].block_rv
    for one in (*blocks[: max(window - 1, 0)], *blocks[window + 1 : -1]):
        sch.compute_inline(one.block_rv)
    source = blocks[window - 1].block_rv if window else None
    width = vector_width(sch, pool, *([] if source is None else [source]))
    loops = sch.get_loops(pool)
    total = math.prod(int(sch.get(loop).extent) for loop in loops[:spatial])
    while width > 1 and total // width < FEW_THREADS:
        width //= 2
    if width == 1 and source is not None:
        sch.compute_inline(source)
    *pixels, channels = loops[:spatial]
    inner = loops[spatial:]
    if pixels and len(inner) > 1 and total // width > THREADS[0] * ENOUGH_BLOCKS:
        pixels[-1], column = sch.split(
            pixels[-1], [None, _tile_of(int(sch.get(pixels[-1]).extent), MOST_COLUMNS)]
        )
        inner.append(column)
    thread = _bind(sch, [*pixels, channels], width, inner)
    out = pool
    if window + 1 < len(blocks):
        sch.set_scope(pool, 0, "local")
        out = blocks[-1].block_rv
        sch.reverse_compute_at(out, thread, preserve_unit_loops=True)
        _unroll(sch, out, thread)
    _write(sch, out, thread)
    if width > 1:
        load = source if source is not None else sch.cache_read(pool, 0, "local")
        if source is not None:
            sch.set_scope(source, 0, "local")
        # A row of the window at a time: the windows side by side share it.
        sch.compute_at(load, loops[spatial], preserve_unit_loops=True)
        _vectorize(sch, load)
        _unroll(sch, load, thread)
    init = sch.decompose_reduction(pool, loops[spatial])
    for block in (init, pool):
        _unroll(sch, block, thread)


class Elementwise(GPUScheduleRule):
    """What computes every output from the inputs at its place: casts, sums, scales, concatenations.

    A thread computes one vector. Inputs that are read at other places, or not everywhere, are not
    read in vectors.
    """

    def apply(self, func: tirx.PrimFunc, target: Target, _: bool) -> s_tir.Schedule | None:
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        sch = s_tir.Schedule(func.with_body(_by_vectors(func.body)))
        blocks = normalize_prim_func(sch)
        if not blocks or any(set(one.dom_kind()) != {"S"} for one in blocks):
            return None
        kept = [one.block_rv for one in blocks[:-1] if _selects(sch, one.block_rv)]
        if len(kept) > 1:
            return None
        for one in blocks[:-1]:
            if one.block_rv not in kept:
                sch.compute_inline(one.block_rv)
        _schedule_elementwise(sch, blocks[-1].block_rv, kept)
        return sch


def _schedule_elementwise(sch: s_tir.Schedule, out: Any, kept: list[Any]) -> None:
    """kept: the block, if there is one, that reads now one tensor and now another."""
    width = vector_width(sch, out, *kept)
    thread = _bind(sch, sch.get_loops(out), width, [])
    if width == 1:
        for block in kept:
            sch.compute_inline(block)
        return
    if not kept and _selects(sch, out):
        kept = [out]
    if out not in kept:
        made = [sch.get(block).writes[0].source for block in kept]
        for index, read in enumerate(sch.get(out).reads):
            if _along(sch, out, index) and not any(read.source.same_as(one) for one in made):
                load = sch.cache_read(out, index, "local")
                sch.compute_at(load, thread, preserve_unit_loops=True)
                _vectorize(sch, load)
        _unroll(sch, out, thread)
    _write(sch, out, thread)
    for block in kept:
        if block is not out:
            sch.set_scope(block, 0, "local")
            sch.compute_at(block, thread, preserve_unit_loops=True)
        _vectorize(sch, block)


class Transposition(GPUScheduleRule):
    """An input whose innermost axis is not the output's: NCHW to NHWC, with a cast or without.

    A block reads a tile along the one and writes it along the other, through shared memory.
    """

    def apply(self, func: tirx.PrimFunc, target: Target, _: bool) -> s_tir.Schedule | None:
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        sch = s_tir.Schedule(func)
        blocks = normalize_prim_func(sch)
        if not blocks or any(set(one.dom_kind()) != {"S"} for one in blocks):
            return None
        if any(_selects(sch, one.block_rv) for one in blocks):
            return None
        for one in blocks[:-1]:
            sch.compute_inline(one.block_rv)
        out = blocks[-1].block_rv
        across = _across(sch, out)
        if across is None:
            return None
        _schedule_transposition(sch, out, across)
        return sch


def _schedule_transposition(sch: s_tir.Schedule, out: Any, across: int) -> None:
    """across: which loop of the output is the innermost of the input."""
    loops = sch.get_loops(out)
    others = [loop for i, loop in enumerate(loops) if i not in (across, len(loops) - 1)]
    run = math.gcd(int(sch.get(loops[across]).extent), GPU_VECTOR)
    if int(sch.get(loops[-1]).extent) * run <= MOST_TAPS and run > 1:
        _transpose_in_registers(sch, out, others, loops[across], loops[-1], run)
    else:
        _transpose_in_shared(sch, out, others, loops[across], loops[-1])


def _transpose_in_registers(
    sch: s_tir.Schedule, out: Any, others: list[Any], read: Any, written: Any, run: int
) -> None:
    """A thread reads `run` elements of each of few rows: what it writes is one run."""
    read, part = sch.split(read, [None, run])
    sch.reorder(*others, read, part, written)
    rows = sch.fuse(*others, read)
    block, thread = sch.split(rows, [None, _threads(int(sch.get(rows).extent))])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    load = sch.cache_read(out, 0, "local")
    sch.compute_at(load, thread, preserve_unit_loops=True)
    copy = sch.cache_write(out, 0, "local")
    sch.reverse_compute_at(copy, thread, preserve_unit_loops=True)
    sch.fuse(*sch.get_loops(copy)[-2:])
    for block in (load, copy):
        _vectorize(sch, block)
        _unroll(sch, block, thread)
    _unroll(sch, out, thread)


def _transpose_in_shared(
    sch: s_tir.Schedule, out: Any, others: list[Any], read: Any, written: Any
) -> None:
    """A block reads a tile along the one axis and writes it along the other."""
    rank = len(others) + 2
    inner = _tile_of(int(sch.get(written).extent), TILE)
    wide = _tile_of(int(sch.get(read).extent), TILE * TILE // inner)
    width = math.gcd(inner, GPU_VECTOR)
    read, tile_read = sch.split(read, [None, wide])
    written, tile_written, lane = sch.split(written, [None, inner // width, width])
    sch.reorder(*others, read, written, tile_read, tile_written, lane)
    block = sch.fuse(*others, read, written)
    sch.bind(block, "blockIdx.x")
    load = sch.cache_read(out, 0, "shared")
    sch.compute_at(load, block, preserve_unit_loops=True)
    threads = min(THREADS[0], wide * inner // width)
    _, thread = sch.split(sch.fuse(tile_read, tile_written), [None, threads])
    _, copying = sch.split(sch.fuse(*sch.get_loops(load)[1:]), [None, threads])
    for loop in (thread, copying):
        sch.bind(loop, "threadIdx.x")
    # An odd number of elements between rows: neither reading nor writing meets a bank twice.
    sch.storage_align(load, 0, rank - 2, 32, 1)
    _write(sch, out, thread)
    _unroll(sch, out, thread)


def _tile_of(extent: int, most: int) -> int:
    """The largest divisor of `extent` that is at most `most`."""
    return max(one for one in range(1, min(extent, most) + 1) if extent % one == 0)


# ---------------------------------------------------------------- steps that the rules share


def _threads(total: int) -> int:
    """How many of `total` threads are a block."""
    threads, least = THREADS
    while threads > least and total < threads * ENOUGH_BLOCKS:
        threads //= 2
    return threads


def _bind(sch: s_tir.Schedule, loops: list[Any], width: int, reduced: list[Any]) -> Any:
    """Threads for spatial loops, of which the last is over adjacent elements: threadIdx.x for its
    vectors of `width`, threadIdx.y for the others, which are fused. The loops `reduced` come
    between, then the vector. Gives the innermost loop of the threads.

    The vector's axis is kept apart from the rest, or TVM would not see that a thread needs but a
    vector of each buffer in registers.
    """
    *others, last = loops
    threads = _threads(math.prod(int(sch.get(loop).extent) for loop in loops) // width)
    vectors, lane = sch.split(last, [None, width])
    count = int(sch.get(vectors).extent)
    wide = _tile_of(count, threads)
    if wide * 4 < min(threads, count):
        wide = threads  # few divisors: the last threads idle
    column, x = sch.split(vectors, [None, wide])
    row = sch.fuse(*others) if others else sch.add_unit_loop(column)
    row, y = sch.split(row, [None, max(threads // wide, 1)])
    sch.reorder(row, column, y, x, *reduced, lane)
    sch.bind(sch.fuse(row, column), "blockIdx.x")
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    return x


def _write(sch: s_tir.Schedule, block: Any, thread: Any) -> None:
    """The block's results are kept in registers and stored from there in vectors."""
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, thread, preserve_unit_loops=True)
    _vectorize(sch, copy)


def _vectorize(sch: s_tir.Schedule, block: Any) -> None:
    """The block's innermost loop, in vectors of at most 16 bytes of what it reads and writes."""
    stmt = sch.get(block)
    sizes = [np.dtype(str(one.source.dtype)).itemsize for one in (*stmt.reads, *stmt.writes)]
    *_, lane = sch.get_loops(block)
    outer, lane = sch.split(lane, [None, math.gcd(int(sch.get(lane).extent), VECTOR_BYTES // max(sizes))])
    sch.vectorize(lane)
    sch.unroll(outer)


def _unroll(sch: s_tir.Schedule, block: Any, thread: Any) -> None:
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
        lane = _lane(stmt)
        places = [(stmt.body.buffer, _run(stmt.body.buffer, stmt.body.indices, lane) or 1)]
        places += [
            (load.source, _run(load.source, load.indices, lane)) for load in _loads(stmt.body)
        ]
        for buffer, run in places:
            size = np.dtype(str(buffer.dtype)).itemsize
            width = math.gcd(width, run, VECTOR_BYTES // size if run else 0)
    return width


def _lane(stmt: Any) -> Any:
    return [one.var for one in stmt.iter_vars if one.iter_type == tirx.IterVar.DataPar][-1]


def _run(buffer: Any, indices: Any, lane: Any) -> int:
    """What divides place and length of a run along `lane`; 0 where `lane` does not matter."""
    shape = [int(size) for size in buffer.shape]
    last = max((i for i, size in enumerate(shape) if size > 1), default=0)
    used = [i for i, index in enumerate(indices) if _uses(index, lane)]
    if not used:
        return 0
    before = sym.Analyzer().simplify(indices[last] - lane)
    if used != [last] or not isinstance(before, tirx.IntImm):
        return 1
    return math.gcd(shape[last], int(before))


def _loads(node: Any) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (ir.TensorLoad, found.append), order="post")
    return found


def _uses(node: Any, var: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (tirx.Var, found.append), order="post")
    return any(one.same_as(var) for one in found)


def _selects(sch: s_tir.Schedule, block: Any) -> bool:
    """Whether the block reads something only under a condition."""
    found: list[Any] = []

    def visit(call: ir.Call) -> None:
        if call.op.same_as(ir.Op.get(IF_THEN_ELSE)) and _loads(call):
            found.append(call)

    tvm_ffi.structural_walk(sch.get(block).body, (ir.Call, visit), order="post")
    return bool(found)


def _by_vectors(body: Any) -> Any:
    """The same conditions, but those on the last axis ask for the number of the vector: that is
    plainly the same for all elements of one. c >= k just if c // v >= k // v, where v divides k."""
    last = []

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


def _along(sch: s_tir.Schedule, block: Any, index: int) -> bool:
    """Whether the block reads its buffer number `index` along its last axis."""
    stmt = sch.get(block)
    source, lane = stmt.reads[index].source, _lane(stmt)
    return any(
        _run(load.source, load.indices, lane)
        for load in _loads(stmt.body)
        if load.source.same_as(source)
    )


def _across(sch: s_tir.Schedule, block: Any) -> int | None:
    """Which iteration is the innermost of the only input, if that is not the output's."""
    stmt = sch.get(block)
    loads = _loads(stmt.body)
    if len(loads) != 1 or not isinstance(stmt.body, tirx.BufferStore):
        return None
    lane = _lane(stmt)
    shape = [int(size) for size in loads[0].source.shape]
    last = max((i for i, size in enumerate(shape) if size > 1), default=0)
    inner = loads[0].indices[last]
    places = [i for i, one in enumerate(stmt.iter_vars) if inner.same_as(one.var)]
    if not places or inner.same_as(lane):
        return None
    straight = all(isinstance(i, (tirx.Var, tirx.IntImm)) for i in loads[0].indices)
    written = _run(stmt.body.buffer, stmt.body.indices, lane)
    return places[0] if straight and written else None
