"""GPU schedules of operators other than convolutions: pooling, elementwise, transposition.

Each is a rule of dlight: it schedules functions of the form that it knows, or returns None. All
read and write memory in vectors of up to 16 bytes, adjacent threads adjacent vectors, and keep
intermediate values in registers.
"""

from __future__ import annotations

import math
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func
from tvm.s_tir.dlight.gpu.base import GPUScheduleRule
from tvm.target import Target

from schedules.expressions.backend import GPU_VECTOR
from tvmconv.passes.kernels.gpu_steps import (
    THREADS,
    bind_number,
    bind_threads,
    block_size,
    compare_vectors,
    enough_blocks,
    largest_divisor,
    loads,
    read_across,
    reads_along,
    samples,
    selects,
    unroll,
    vector_width,
    vectorize,
    write_vectors,
)

#: The most elements that one thread reduces; larger windows are split among threads.
MOST_TAPS = 64
#: The most adjacent outputs that one thread computes.
MOST_COLUMNS = 4
#: With fewer threads than this, vectors are made narrower to get more threads.
FEW_THREADS = 2048
#: The most threads that reduce to one number together.
MOST_THREADS = 1024
#: Rows, and columns, of a tile that is transposed through shared memory.
TILE = 32


class Rule(GPUScheduleRule):
    """A rule for functions whose blocks form a chain to one output."""

    def apply(self, func: tirx.PrimFunc, target: Target, _: bool) -> s_tir.Schedule | None:
        """Schedules a function for a GPU; returns None for another function or target."""
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        # A second reference: a schedule changes in place what it alone refers to.
        rewritten = func.with_body(compare_vectors(func.body))
        sch = s_tir.Schedule(rewritten)
        blocks = normalize_prim_func(sch)
        if not blocks or not all(len(sch.get_consumers(one.block_rv)) for one in blocks[:-1]):
            return None
        if not all(isinstance(sch.get(one.block_rv).body, tirx.BufferStore) for one in blocks):
            return None
        try:
            return sch if self.schedule(sch, blocks, enough_blocks(target)) else None
        except s_tir.ScheduleError:
            return None  # a step does not apply: the next rule is tried

    def schedule(self, sch: s_tir.Schedule, blocks: list[SBlockInfo], enough: int) -> bool:
        """Schedules the blocks. Returns False if the rule does not apply.

        enough: blocks of threads that fill the GPU.
        """
        raise NotImplementedError


class Windows(Rule):
    """Pooling: every output reduces a small window, not one of a whole image.

    A thread reduces a vector of adjacent channels. Operators before the window (padding, a cast)
    are computed tap by tap, those after it in registers.
    """

    def schedule(self, sch: s_tir.Schedule, blocks: list[SBlockInfo], enough: int) -> bool:
        """Schedules the blocks. Returns False if the rule does not apply."""
        kinds = ["R" in one.dom_kind() for one in blocks]
        if kinds.count(True) != 1:
            return False
        window = kinds.index(True)
        pool = blocks[window]
        spatial = pool.dom_kind().rstrip("R")
        taps = math.prod(int(one.dom) for one in pool.iters if one.kind == "R")
        if set(spatial) != {"S"} or taps > MOST_TAPS:
            return False
        made = sch.get(pool.block_rv).writes[0].source
        read = [one for one in loads(sch.get(pool.block_rv).body) if not one.source.same_as(made)]
        if len(read) != 1 or not all(_in_place(sch, pool, one) for one in blocks[window + 1 :]):
            return False
        _schedule_window(sch, blocks, window, len(spatial), enough)
        return True


def _in_place(sch: s_tir.Schedule, pool: SBlockInfo, after: SBlockInfo) -> bool:
    """True if a block after the window computes each element from the one at its place."""
    spatial = [int(one.dom) for one in pool.iters if one.kind == "S"]
    body = sch.get(after.block_rv).body
    made = sch.get(pool.block_rv).writes[0].source
    same = [
        tvm_ffi.structural_equal(list(one.indices), list(body.indices))
        for one in loads(body)
        if one.source.same_as(made)
    ]
    return [int(one.dom) for one in after.iters] == spatial and all(same)


def _schedule_window(
    sch: s_tir.Schedule, blocks: list[SBlockInfo], window: int, spatial: int, enough: int
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
    if pixels and len(inner) > 1 and total // width > THREADS[0] * enough:
        pixels[-1], column = sch.split(
            pixels[-1], [None, largest_divisor(int(sch.get(pixels[-1]).extent), MOST_COLUMNS)]
        )
        inner.append(column)
    thread = bind_threads(sch, [*pixels, channels], width, inner, enough)
    out = pool
    if window + 1 < len(blocks):
        sch.set_scope(pool, 0, "local")
        out = blocks[-1].block_rv
        sch.reverse_compute_at(out, thread, preserve_unit_loops=True)
        unroll(sch, out, thread)
    write_vectors(sch, out, thread)
    if width > 1:
        load = source if source is not None else sch.cache_read(pool, 0, "local")
        if source is not None:
            sch.set_scope(source, 0, "local")
        # One row of the window at a time, which adjacent windows share.
        sch.compute_at(load, loops[spatial], preserve_unit_loops=True)
        vectorize(sch, load)
        unroll(sch, load, thread)
    init = sch.decompose_reduction(pool, loops[spatial])
    for block in (init, pool):
        unroll(sch, block, thread)


class Totals(Rule):
    """A reduction of all elements to one number, with what is computed from that number alone.

    One block of threads: each thread reduces every so many elements, then the threads reduce what
    they have. TVM's rules for reductions look for a loop over the outputs, of which there is none.
    """

    def schedule(self, sch: s_tir.Schedule, blocks: list[SBlockInfo], enough: int) -> bool:
        """Schedules the blocks. Returns False if the rule does not apply."""
        sums = [i for i, one in enumerate(blocks) if "R" in one.dom_kind()]
        if len(sums) != 1:
            return False
        total, after = blocks[sums[0]], blocks[sums[0] + 1 :]
        spatial = [one for info in (total, *after) for one in info.iters if one.kind == "S"]
        if any(int(one.dom) != 1 for one in spatial):
            return False
        for one in (*blocks[: sums[0]], *after[:-1]):
            sch.compute_inline(one.block_rv)
        _schedule_total(sch, total, after[-1].block_rv if after else None)
        return True


def _schedule_total(sch: s_tir.Schedule, total: SBlockInfo, out: Any | None) -> None:
    """Schedules the reduction. out: the block that computes the output from it, if there is one."""
    loops, kinds = sch.get_loops(total.block_rv), total.dom_kind()
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    sch.reorder(*spatial, *reduced)
    terms = sch.fuse(*reduced)
    count = int(sch.get(terms).extent)
    threads = min(MOST_THREADS, 1 << (count - 1).bit_length())
    _, thread = sch.split(terms, [None, threads])
    sch.bind(thread, "threadIdx.x")
    block = sch.add_unit_loop(spatial[0] if spatial else sch.get_loops(total.block_rv)[0])
    sch.bind(block, "blockIdx.x")
    if out is None:
        return
    sch.set_scope(total.block_rv, 0, "shared")
    sch.reverse_compute_at(out, block, preserve_unit_loops=True)
    unit = sch.add_unit_loop(out)
    _, first = sch.split(unit, [None, threads])
    sch.bind(first, "threadIdx.x")


class Samples(GPUScheduleRule):
    """A reduction of elements at computed places, or of a computed number of them, as RoiAlign's.

    A thread computes each output. What a vector or a warp reads is in no order that is known, and
    TVM's rules for reductions need one.
    """

    def apply(self, func: tirx.PrimFunc, target: Target, _: bool) -> s_tir.Schedule | None:
        """Schedules a function for a GPU; returns None for another function or target."""
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        sch = s_tir.Schedule(func)
        # Not `normalize_prim_func`, which takes no loop of a length that is computed.
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
        sums = [block for block in blocks if samples(sch, block)]
        if len(sums) != 1 or sums[0] not in blocks[-2:]:
            return None
        total, out = sums[0], blocks[-1]
        for block in blocks[: blocks.index(total)]:
            sch.compute_inline(block)
        rank = len(sch.get(out).writes[0].source.shape)
        spatial = sch.fuse(*sch.get_loops(out)[:rank])
        threads = block_size(int(sch.get(spatial).extent), enough_blocks(target))
        block, thread = sch.split(spatial, [None, threads])
        sch.bind(block, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        if out is not total:
            sch.set_scope(total, 0, "local")
            sch.compute_at(total, thread, preserve_unit_loops=True)
        if reduced := len(sch.get(total).iter_vars) - rank:
            sch.decompose_reduction(total, sch.get_loops(total)[-reduced])
        return sch


class Elementwise(Rule):
    """Elementwise operators: casts, sums, scales, concatenations.

    A thread computes one vector. Inputs that are read at other positions, or under a condition,
    are not read in vectors.
    """

    def schedule(self, sch: s_tir.Schedule, blocks: list[SBlockInfo], enough: int) -> bool:
        """Schedules the blocks. Returns False if the rule does not apply."""
        if any(set(one.dom_kind()) - {"S"} for one in blocks):
            return False
        kept = [one.block_rv for one in blocks[:-1] if selects(sch, one.block_rv)]
        for one in blocks[:-1]:
            if one.block_rv not in kept[-1:]:
                sch.compute_inline(one.block_rv)
        _schedule_elementwise(sch, blocks[-1].block_rv, kept[-1:], enough)
        return True


def _schedule_elementwise(sch: s_tir.Schedule, out: Any, kept: list[Any], enough: int) -> None:
    """Schedules the output. kept: the block that selects between tensors, if there is one."""
    if not sch.get_loops(out):
        for block in kept:
            sch.compute_inline(block)
        bind_number(sch, out)
        return
    width = vector_width(sch, out, *kept)
    thread = bind_threads(sch, sch.get_loops(out), width, [], enough)
    if width == 1:
        for block in kept:
            sch.compute_inline(block)
        return
    if not kept and selects(sch, out):
        kept = [out]
    if out not in kept:
        made = [sch.get(block).writes[0].source for block in kept]
        for index, read in enumerate(sch.get(out).reads):
            if reads_along(sch, out, index) and not any(read.source.same_as(one) for one in made):
                load = sch.cache_read(out, index, "local")
                sch.compute_at(load, thread, preserve_unit_loops=True)
                vectorize(sch, load)
        unroll(sch, out, thread)
    write_vectors(sch, out, thread)
    for block in kept:
        if block is not out:
            sch.set_scope(block, 0, "local")
            sch.compute_at(block, thread, preserve_unit_loops=True)
        vectorize(sch, block)


class Transposition(Rule):
    """Transposition, such as NCHW to NHWC, with or without a cast.

    A block reads a tile along the input's innermost axis and writes it along the output's, through
    shared memory.
    """

    def schedule(self, sch: s_tir.Schedule, blocks: list[SBlockInfo], enough: int) -> bool:
        """Schedules the blocks. Returns False if the rule does not apply."""
        if any(set(one.dom_kind()) - {"S"} or selects(sch, one.block_rv) for one in blocks):
            return False
        for one in blocks[:-1]:
            sch.compute_inline(one.block_rv)
        out = blocks[-1].block_rv
        across = read_across(sch, out)
        if across is None:
            return False
        _schedule_transposition(sch, out, across, enough)
        return True


def _schedule_transposition(sch: s_tir.Schedule, out: Any, across: int, enough: int) -> None:
    """Schedules the output. across: the loop of the output along the input's innermost axis."""
    loops = sch.get_loops(out)
    others = [loop for i, loop in enumerate(loops) if i not in (across, len(loops) - 1)]
    run = math.gcd(int(sch.get(loops[across]).extent), GPU_VECTOR)
    if int(sch.get(loops[-1]).extent) * run <= MOST_TAPS and run > 1:
        _transpose_in_registers(sch, out, others, loops[across], loops[-1], run, enough)
    else:
        _transpose_in_shared(sch, out, others, loops[across], loops[-1])


def _transpose_in_registers(
    sch: s_tir.Schedule,
    out: Any,
    others: list[Any],
    read: Any,
    written: Any,
    run: int,
    enough: int,
) -> None:
    """Transposes in registers: a thread reads `run` elements of a few rows and writes one run."""
    read, part = sch.split(read, [None, run])
    sch.reorder(*others, read, part, written)
    rows = sch.fuse(*others, read)
    block, thread = sch.split(rows, [None, block_size(int(sch.get(rows).extent), enough)])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    load = sch.cache_read(out, 0, "local")
    sch.compute_at(load, thread, preserve_unit_loops=True)
    copy = sch.cache_write(out, 0, "local")
    sch.reverse_compute_at(copy, thread, preserve_unit_loops=True)
    sch.fuse(*sch.get_loops(copy)[-2:])
    for block in (load, copy):
        vectorize(sch, block)
        unroll(sch, block, thread)
    unroll(sch, out, thread)


def _transpose_in_shared(
    sch: s_tir.Schedule, out: Any, others: list[Any], read: Any, written: Any
) -> None:
    """Transposes a tile through shared memory."""
    rank = len(others) + 2
    inner = largest_divisor(int(sch.get(written).extent), TILE)
    wide = largest_divisor(int(sch.get(read).extent), TILE * TILE // inner)
    width = math.gcd(inner, GPU_VECTOR)
    read, tile_read = sch.split(read, [None, wide])
    written, tile_written, lane = sch.split(written, [None, inner // width, width])
    sch.reorder(*others, read, written, tile_read, tile_written, lane)
    block = sch.fuse(*others, read, written)
    sch.bind(block, "blockIdx.x")
    load = sch.cache_read(out, 0, "shared")
    sch.compute_at(load, block, preserve_unit_loops=True)
    # No thread may be idle: TVM puts no condition on threads into the copy that follows, so an idle
    # one would write elements of another block.
    threads = largest_divisor(wide * inner // width, THREADS[0])
    _, thread = sch.split(sch.fuse(tile_read, tile_written), [None, threads])
    _, copying = sch.split(sch.fuse(*sch.get_loops(load)[1:]), [None, threads])
    for loop in (thread, copying):
        sch.bind(loop, "threadIdx.x")
    # An odd distance between rows avoids bank conflicts in reading and in writing.
    sch.storage_align(load, 0, rank - 2, 32, 1)
    write_vectors(sch, out, thread)
    unroll(sch, out, thread)
