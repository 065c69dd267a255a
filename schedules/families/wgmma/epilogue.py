"""How a tile of the WGMMA kernel leaves: through the epilogue, from registers to the output.

In pieces, where the copy engine can write the output: each warpgroup turns a few columns at a time
into fp16 in one of its two buffers, in which the residual's part may lie already, and the engine
carries them off while the next piece is made. Together, where a cluster shares a tile or the
output is scattered: sums go to shared memory, and each block of the cluster adds up and finishes
its share, always in the same order.
"""

from __future__ import annotations

import math
from typing import Any

from tvm.script import tirx as T

from intrinsics import wgmma
from schedules.conv.workload import ConvWorkload
from schedules.expressions.backend import access_elements, vector_width
from schedules.expressions.compute import finished
from schedules.families.wgmma.config import Plan

ENCODE_TILED = "runtime.cuTensorMapEncodeTiled"
LOAD = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
STORE = "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group"
STORE_MATRIX = "stmatrix.sync.aligned.m8n8.x4.shared.b16"
LOAD_MATRIX = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
#: By how many there are.
LOAD_SUMS = {n: f"ld.shared::cluster{v}.f32" for n, v in ((1, ""), (2, ".v2"), (4, ".v4"))}
#: The first of the barriers by which the threads of one warpgroup wait for each other.
WARPGROUP_BARRIER = 1


def output_place(w: ConvWorkload) -> tuple[int, int]:
    """First channel of the tensor that is written to, and how many a pixel of it has."""
    return (0, w.k) if w.window is None else (w.window.channel, w.window.channels)


def tiled(plan: Plan, first: int, channels: int) -> list[int]:
    """What `ENCODE_TILED` takes: sizes, stride in bytes, box, steps, and how to lay it out. Columns
    end with the convolution's own, so that a last tile writes no further."""
    piece = plan.config.piece
    sizes, box, steps = [first + plan.w.k, plan.m], [piece, wgmma.M], [1, 1]
    return [*sizes, 2 * channels, *box, *steps, 0, wgmma.TENSOR_MAP_SWIZZLE[2 * piece], 0, 0]


def buffer_at(plan: Plan, group: Any, buffer: Any) -> Any:
    return plan.pieces_at + (group * 2 + buffer) * plan.piece_bytes


def pieces(plan: Plan) -> int:
    """Of a warpgroup's part of a tile."""
    return plan.config.fragments * plan.config.columns // plan.config.piece


def fragment_at(plan: Plan, thread: Any, pair: Any) -> Any:
    """Byte of a piece that the thread names to stmatrix and ldmatrix: its row of one of the four
    8x8 matrices in 16 rows and 16 columns."""
    row_bytes = 2 * plan.config.piece
    row = thread // 32 * 16 + thread % 16
    chunk = pair * 2 + thread % 32 // 16
    return row * row_bytes + wgmma.swizzled(row, chunk, row_bytes) * wgmma.CHUNK_BYTES


def channel(there: bool, values: Any, c: Any) -> Any:
    return values[c] if there else T.float32(0)


def value(w: ConvWorkload, total: Any, bias: Any, slope: Any, residual: Any) -> Any:
    epilogue = w.epilogue
    return finished(
        w,
        total,
        bias if epilogue.bias else None,
        slope if epilogue.activation.has_slopes else None,
        residual if epilogue.residual else None,
    )


def store_width(w: ConvWorkload) -> int:
    """Adjacent channels that one thread finishes and stores at once."""
    adjacent = w.window.adjacent if w.window else 0
    widest = access_elements(w.precision.result)
    return vector_width(math.gcd(w.k, adjacent), widest)


def residual_at(w: ConvWorkload, n: Any, p: Any, q: Any, k: Any) -> tuple[Any, ...]:
    return (n, *(w.window.pixel(p, q) if w.window else (p, q)), k)


def output_at(w: ConvWorkload, n: Any, p: Any, q: Any, k: Any) -> tuple[Any, ...]:
    if w.window is None:
        return n, p, q, k
    return (n, *w.window.pixel(p, q), w.window.position(k))


@T.inline
def encode(plan, y_map, y, residual_map, residual):
    """On the host: how the engine sees output and residual, as (M, K) matrices."""
    if not plan.clustered:
        T.call_packed(
            ENCODE_TILED, y_map, "float16", 2, y.data, *tiled(plan, *output_place(plan.w))
        )
        if plan.w.epilogue.residual:
            T.call_packed(
                ENCODE_TILED, residual_map, "float16", 2, residual.data, *tiled(plan, 0, plan.w.k)
            )


@T.inline
def warpgroup_sync(group):
    T.ptx.bar.sync(T.Cast("uint32", WARPGROUP_BARRIER + group), T.uint32(wgmma.WARPGROUP))


@T.inline
def fetch(plan, shared, barriers, group, buffer, piece, m, k, residual_map):
    """One thread: fetch a piece of the residual."""
    across = T.meta_var(plan.config.columns // plan.config.piece)
    full = T.meta_var(barriers.ptr_to([2 * plan.config.stages + group * 2 + buffer]))
    T.ptx.mbarrier.arrive.expect_tx.shared.b64(full, T.uint32(plan.piece_bytes))
    T.ptx[LOAD](
        shared.ptr_to([buffer_at(plan, group, buffer)]), T.address_of(residual_map),
        k + piece % across * plan.config.piece, m + piece // across * wgmma.M, full,
    )  # fmt: skip


@T.inline
def begin(plan, shared, barriers, group, thread, buffer, m, k, residual_map):
    """Before a tile's first step: fetch the residual of its first two pieces."""
    if plan.w.epilogue.residual and not plan.clustered:
        if thread == 0:
            T.ptx["cp.async.bulk.wait_group.read"](0)
            for piece in T.unroll(min(2, pieces(plan))):
                fetch(
                    plan, shared, barriers, group, (buffer + piece) % 2, piece, m, k, residual_map
                )


@T.inline
def finish_pair(plan, shared, at, thread, sums, register, column, bias, slope):
    """Eight sums of a thread, of 16 columns from `column` on, become fp16 in shared memory."""
    halves = T.alloc_local([8], "float16")
    words = halves.view("uint32")
    if plan.w.epilogue.residual:
        T.ptx[LOAD_MATRIX](words[0], words[1], words[2], words[3], shared.ptr_to([at]))
    for right in T.unroll(2):
        for odd in T.unroll(2):
            c: T.int32 = T.min(column + right * 8 + thread % 4 * 2 + odd, plan.w.k - 1)
            b: T.float32 = channel(plan.w.epilogue.bias, bias, c)
            s: T.float32 = channel(plan.w.epilogue.activation.kind == "prelu", slope, c)
            for low in T.unroll(2):
                i = T.meta_var(right * 4 + low * 2 + odd)
                halves[i] = value(plan.w, sums[register + i], b, s, halves[i])
    T.ptx[STORE_MATRIX](shared.ptr_to([at]), words[0], words[1], words[2], words[3])


@T.inline
def write_pieces(
    plan, shared, barriers, group, thread, buffer, arrived, sums, m, k, bias, slope,
    residual_map, y_map,
):  # fmt: skip
    """A warpgroup's part of a tile, through its two buffers."""
    config = T.meta_var(plan.config)
    across = T.meta_var(config.columns // config.piece)
    fetched = T.meta_var(plan.w.epilogue.residual)
    for piece in T.unroll(pieces(plan)):
        if fetched:
            T.cuda.mbarrier_wait(
                barriers.ptr_to([2 * config.stages + group * 2 + buffer]),
                T.bitwise_and(T.shift_right(arrived, buffer), 1),
            )
            arrived = T.bitwise_xor(arrived, T.shift_left(1, buffer))
        else:
            if thread == 0:
                T.ptx["cp.async.bulk.wait_group.read"](1)
            warpgroup_sync(group)
        column: T.int32 = k + piece % across * config.piece
        for pair in T.unroll(config.piece // 16):
            at: T.int32 = buffer_at(plan, group, buffer) + fragment_at(plan, thread, pair)
            finish_pair(
                plan, shared, at, thread, sums, piece * config.piece // 2 + pair * 8,
                column + pair * 16, bias, slope,
            )  # fmt: skip
        T.ptx.fence.proxy.async_.shared__cta()
        warpgroup_sync(group)
        if thread == 0:
            T.ptx[STORE](
                T.address_of(y_map), output_place(plan.w)[0] + column,
                m + piece // across * wgmma.M, shared.ptr_to([buffer_at(plan, group, buffer)]),
            )  # fmt: skip
            T.ptx["cp.async.bulk.commit_group"]()
            if fetched and piece + 2 < pieces(plan):
                T.ptx["cp.async.bulk.wait_group.read"](0)
                fetch(plan, shared, barriers, group, buffer, piece + 2, m, k, residual_map)
        buffer = T.bitwise_xor(buffer, 1)


@T.inline
def end(plan, thread):
    """What the engine still reads must not go away."""
    if not plan.clustered:
        if thread == 0:
            T.ptx["cp.async.bulk.wait_group"](0)


@T.inline
def consumers_sync(plan):
    T.ptx.bar.sync(
        T.uint32(WARPGROUP_BARRIER + plan.config.warpgroups),
        T.uint32(plan.config.warpgroups * wgmma.WARPGROUP),
    )


@T.inline
def cluster_sync():
    T.ptx.barrier.cluster.arrive.aligned()
    T.ptx.barrier.cluster.wait.aligned()


@T.inline
def add_up(plan, staged, row, column, width, parts):
    """The sums of all blocks of the cluster, in order, into the first `width` of `parts`. All are
    read before any is used: each takes as long as a read of the second-level cache."""
    config = T.meta_var(plan.config)
    vector = T.meta_var(min(width, 4))
    local: T.uint32 = T.cuda.cvta_generic_to_shared(staged.ptr_to([row, column]))
    for other in T.unroll(config.split):
        remote: T.uint32 = local
        if config.split > 1:
            T.ptx.mapa.shared__cluster.u32(remote, local, T.uint32(other))
        for i in T.unroll(width // vector):
            T.ptx[LOAD_SUMS[vector]](
                *[parts[other * width + i * vector + j] for j in range(vector)],
                remote + T.uint32(4 * i * vector),
            )
    for other in T.unroll(config.split - 1):
        for e in T.unroll(width):
            parts[e] = parts[e] + parts[(other + 1) * width + e]


@T.inline
def write_vector(plan, staged, m, k, item, bias, slope, residual, y):
    """Finishes the `item`-th run of adjacent channels of the tile at (m, k)."""
    w = T.meta_var(plan.w)
    config = T.meta_var(plan.config)
    width = T.meta_var(store_width(w))
    across = T.meta_var(config.columns // width)
    row: T.int32 = item // across
    column: T.int32 = item % across * width
    if T.And(m + row < plan.m, k + column < w.k):
        parts = T.alloc_local([config.split * width], "float32")
        add_up(plan, staged, row, column, width, parts)
        n: T.int32 = (m + row) // (w.p * w.q)
        p: T.int32 = (m + row) // w.q % w.p
        q: T.int32 = (m + row) % w.q
        halves = T.alloc_local([width], w.precision.result)
        beside = T.alloc_local([width], "float16")
        if w.epilogue.residual:
            for e in T.vectorized(width):
                # A multiple of the width, said so that TVM loads one vector.
                beside[e] = residual[residual_at(w, n, p, q, (k + column) // width * width + e)]
        for e in T.unroll(width):
            b: T.float32 = channel(w.epilogue.bias, bias, k + column + e)
            s: T.float32 = channel(w.epilogue.activation.kind == "prelu", slope, k + column + e)
            halves[e] = value(w, parts[e], b, s, beside[e])
        for e in T.vectorized(width):
            y[output_at(w, n, p, q, k + column + e)] = halves[e]


@T.inline
def write_together(plan, shared, rank, group, thread, sums, m, k, bias, slope, residual, y):
    """Sums to shared memory; then this block's share of the tile, added up over the cluster."""
    config = T.meta_var(plan.config)
    staged = T.decl_buffer(
        [config.rows, plan.sums_width], "float32", data=shared.data, scope="shared.dyn"
    )
    consumers_sync(plan)  # others may still multiply out of the stages that lie there
    for fragment in T.unroll(config.fragments):
        for i in T.unroll(config.columns // 4):
            row, column = T.meta_var(wgmma.element(thread, i * 2))
            for odd in T.vectorized(2):
                staged[(group * config.fragments + fragment) * wgmma.M + row, column + odd] = sums[
                    fragment * config.columns // 2 + i * 2 + odd
                ]
    if config.split > 1:
        cluster_sync()
    else:
        consumers_sync(plan)
    width = T.meta_var(store_width(plan.w))
    share = T.meta_var(config.rows * config.columns // width // config.split)
    workers = T.meta_var(config.warpgroups * wgmma.WARPGROUP)
    for turn in T.serial(-(-share // workers)):
        item: T.int32 = turn * workers + group * wgmma.WARPGROUP + thread
        if item < share:
            write_vector(
                plan, staged, m - group * config.fragments * wgmma.M, k, rank * share + item,
                bias, slope, residual, y,
            )  # fmt: skip
    if config.split > 1:
        cluster_sync()
