"""The mma.sync kernel: its skeleton, its copies and its fragments. `mma_sync_epilogue` ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.script.ir_builder import IRBuilder

from intrinsics.mma_sync import LOAD_A, LOAD_B, MMA
from schedules.gemm import Gemm, pixel
from schedules.mma_sync_build import Parameters, Thread, bind, local, ptx, when
from schedules.mma_sync_config import (
    MmaSyncConfig,
    fragments_i,
    gemm_of,
    shared_bytes,
    stage_halves,
    steps,
)
from schedules.mma_sync_epilogue import Epilogue
from schedules.workload import ConvWorkload

#: Halves of one copy.
VECTOR = 8
SHARED = "shared.dyn"


def kernel(w: ConvWorkload, config: MmaSyncConfig) -> tirx.PrimFunc:
    """``(x, weight[, bias][, slope][, residual]) -> y``, as `compute.implicit_gemm` says."""
    gemm = gemm_of(w, config)
    with IRBuilder() as builder, T.prim_func(s_tir=True), ExitStack() as scopes:
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        parameters = Parameters.declare(w, gemm)
        thread = Thread.launch(gemm, config, scopes)
        shared = IRBuilder.name(
            "shared", T.alloc_buffer((shared_bytes(config) // 2,), "float16", scope=SHARED)
        )
        copies = [
            *_gather(w, gemm, config, thread, parameters.x, shared),
            *_weights(gemm, config, thread, parameters.weight, shared),
        ]
        fragments = Fragments(config, thread, shared)
        _multiply(w, config, thread, copies, fragments)
        epilogue = Epilogue(w, gemm, config, thread, parameters)
        if config.adds_up:
            epilogue.through_shared(fragments.sums, shared)
        else:
            epilogue.from_registers(fragments.sums)
    return builder.get()


def _multiply(
    w: ConvWorkload,
    config: MmaSyncConfig,
    thread: Thread,
    copies: list[Any],
    fragments: Fragments,
) -> None:
    """The pipelined loop over the steps of this block."""
    stages, last = config.stages, config.chunk // config.warps_i - 1
    total = steps(w, config)
    begin = thread.rank * total // config.split if config.split > 1 else 0
    count = (
        bind("count", (thread.rank + 1) * total // config.split - begin)
        if config.split > 1
        else total
    )

    def copy(step: Any, part: int) -> None:
        """One part in `last` of the copies of a stage; after the last one the group is closed."""
        with when(step < count):
            at = bind("at", begin + step)
            for one in copies:
                one(at, step % stages, part, last)
        if part == last - 1:
            ptx("cp.async.commit_group")

    def await_stage() -> None:
        """All threads' copies of the next stage have landed, and nobody reads the last one."""
        ptx("cp.async.wait_group", stages - 2)
        T.evaluate(T.tvm_storage_sync(SHARED))

    for step in range(stages - 1):
        for part in range(last):
            copy(T.int32(step), part)
    await_stage()
    fragments.load(0, 0, 0)
    with T.serial(count) as step:
        for i in range(last + 1):
            if i == last:
                await_stage()
                fragments.load((i + 1) % 2, (step + 1) % stages, 0)
            else:
                fragments.load((i + 1) % 2, step % stages, i + 1)
                copy(step + stages - 1, i)
            fragments.multiply(i % 2)
    ptx("cp.async.wait_group", 0)


# ---------------------------------------------------------------- copies to shared memory


def turned(config: MmaSyncConfig, row: Any, chunk: Any) -> Any:
    """Which 16 bytes of its row in shared memory the 16 bytes numbered `chunk` take, so that eight
    rows below each other lie in different banks."""
    across = config.tile.i // VECTOR
    return chunk ^ (row // max(1, VECTOR // across) % min(VECTOR, across))


def _gather(
    w: ConvWorkload, gemm: Gemm, config: MmaSyncConfig, thread: Thread, x: Any, shared: Any
) -> Iterator[Any]:
    """The copies of the gathered tile: each is called with a step, a stage and a part."""
    tile = config.tile
    across = tile.i // VECTOR
    rows_apart = config.threads // across
    rows = tile.m // rows_apart
    first, chunk = thread.number // across, bind("chunk", thread.number % across)
    partial = fragments_i(gemm) % config.chunk > 0
    masked = w.r * w.s > 1 or any(w.padding) or gemm.m_pad > gemm.m or partial
    offset = local("offset", (rows,), "int32")
    taps = local("taps", (rows,), "uint32")
    for j in range(rows):
        m = bind("m", thread.m + first + j * rows_apart)
        n, p, q = pixel(w, m)
        h = bind("h", p * w.stride[0] - w.padding[0])
        v = bind("v", q * w.stride[1] - w.padding[1])
        channel = thread.group * w.group_c + chunk % 2 * VECTOR
        T.buffer_store(offset, ((n * w.h + h) * w.w + v) * w.c + channel, [j])
        if masked:
            T.buffer_store(taps, _valid_taps(w, gemm, m, h, v), [j])

    def copy(step: Any, stage: Any, part: int, parts: int) -> None:
        tap, i = _reduction_at(gemm, config, step, chunk)
        moved = bind(
            "moved", (tap // w.s * w.dilation[0] * w.w + tap % w.s * w.dilation[1]) * w.c + i
        )
        bit = bind("bit", T.uint32(1) << T.cast(tap, "uint32"))
        base = bind("base", stage * stage_halves(config))
        for j in range(part, rows, parts):
            row = first + j * rows_apart
            here = base + row * tile.i + turned(config, row, chunk) * VECTOR
            source = T.address_of(x[offset[j] + moved])
            target = T.address_of(shared[here])
            outside = [tirx.EQ(taps[j] & bit, T.uint32(0))] * masked
            outside += [tap >= gemm.reduction.outer] * partial
            outside += [i + chunk % 2 * VECTOR >= w.group_c] * (gemm.i_pad > w.group_c)
            zero = [T.ptx.pred(tirx.any(*outside))] if outside else []
            ptx("cp.async.cg.shared.global", target, source, 16, *zero)

    yield copy


def _reduction_at(gemm: Gemm, config: MmaSyncConfig, step: Any, chunk: Any) -> tuple[Any, Any]:
    """The filter tap and the first channel of the fragment that a thread copies at a step, which
    is the same for all threads where taps end with steps."""
    in_tap = gemm.i_pad // 16
    if in_tap % config.chunk == 0:
        per_tap = in_tap // config.chunk
        tap, i = step // per_tap, step % per_tap * config.tile.i + chunk // 2 * 16
    else:
        fragment = bind("fragment", step * config.chunk + chunk // 2)
        tap, i = fragment // in_tap, fragment % in_tap * 16
    return bind("tap", tap), bind("i", i)


def _valid_taps(w: ConvWorkload, gemm: Gemm, m: Any, h: Any, v: Any) -> Any:
    """One bit for each filter tap that reads inside the image at row m; none past the last row."""
    inside_v = [
        tirx.all(v + s * w.dilation[1] >= 0, v + s * w.dilation[1] < w.w) for s in range(w.s)
    ]
    columns = T.uint32(0)
    for s in range(w.s):
        columns = columns | T.Select(inside_v[s], T.uint32(1 << s), T.uint32(0))
    columns = bind("columns", columns)
    valid = T.uint32(0)
    for r in range(w.r):
        inside = tirx.all(h + r * w.dilation[0] >= 0, h + r * w.dilation[0] < w.h)
        valid = valid | T.Select(inside, columns << T.uint32(r * w.s), T.uint32(0))
    return T.Select(m < gemm.m, valid, T.uint32(0)) if gemm.m_pad > gemm.m else valid


def _weights(
    gemm: Gemm, config: MmaSyncConfig, thread: Thread, weight: Any, shared: Any
) -> Iterator[Any]:
    """The copies of the tile of weights: rows of packed 16 x 16 tiles, one row for each 16 of i.
    Which half of its row of a tile 16 bytes take is turned, against bank conflicts."""
    tile = config.tile
    across = tile.k * 16 // VECTOR
    count = tile.i * tile.k // VECTOR // config.threads
    row_halves, all_rows = gemm.weight_columns * 16, fragments_i(gemm)

    def copy(step: Any, stage: Any, part: int, parts: int) -> None:
        first_row = bind("first_row", step * config.chunk)
        of_block = bind(
            "of_block", (thread.group * all_rows + first_row) * row_halves + thread.k * 16
        )
        base = bind("base", stage * stage_halves(config) + tile.m * tile.i)
        for j in range(part, count, parts):
            piece = thread.number + j * config.threads
            row, rest = piece // across, piece % across
            source = of_block + row * row_halves + rest * VECTOR
            in_tile = rest % 32 ^ rest % 32 // 8 % 2
            here = base + row * tile.k * 16 + rest // 32 * 256 + in_tile * VECTOR
            target = T.address_of(shared[here])
            past = [T.ptx.pred(first_row + row >= all_rows)] if all_rows % config.chunk else []
            ptx("cp.async.cg.shared.global", target, T.address_of(weight[source]), 16, *past)

    yield copy


# ---------------------------------------------------------------- fragments in registers


class Fragments:
    """A warp's operands, two sets that take turns, and its sums."""

    def __init__(self, config: MmaSyncConfig, thread: Thread, shared: Any) -> None:
        self.config, self.shared = config, shared
        self.m, self.k = config.fragments_m, config.fragments_k
        self.a = local("a", (2, self.m, 4), "uint32")
        self.b = local("b", (2, self.k, 4), "uint32")
        #: Of each 16 x 8 of the warp's tile, what `intrinsics.mma_sync.c_element` says.
        self.sums = local("sums", (self.m, 2 * self.k, 4), "float32")
        self._addresses(thread)
        for m in range(self.m):
            for k in range(2 * self.k):
                for i in range(4):
                    T.buffer_store(self.sums, T.float32(0), [m, k, i])

    def _addresses(self, thread: Thread) -> None:
        """Where in a stage this lane's rows of the first fragments begin, by step of the chunk."""
        config, tile, lane = self.config, self.config.tile, thread.lane
        mine = config.chunk // config.warps_i
        self.from_a = local("from_a", (mine,), "int32")
        row = thread.warp_m * (self.m * 16) + lane % 16
        for i in range(mine):
            chunk = (thread.warp_i * mine + i) * 2 + lane // 16
            here = row * tile.i + turned(config, lane % 16, chunk) * VECTOR
            T.buffer_store(self.from_a, here, [i])
        in_tile = (lane % 16) * 2 + (lane // 16 ^ lane // 4 % 2)
        tiles = thread.warp_i * (mine * tile.k // 16) + thread.warp_k * self.k
        self.from_b = bind("from_b", tile.m * tile.i + tiles * 256 + in_tile * VECTOR)

    def load(self, turn: int, stage: Any, i: int) -> None:
        """The fragments at step i of the chunk that lies in `stage`."""
        tile = self.config.tile
        base = bind("base", stage * stage_halves(self.config))
        for m in range(self.m):
            here = base + self.from_a[i] + m * 16 * tile.i
            ptx(LOAD_A, *[self.a[turn, m, r] for r in range(4)], T.address_of(self.shared[here]))
        for k in range(self.k):
            here = base + self.from_b + (i * tile.k // 16 + k) * 256
            ptx(LOAD_B, *[self.b[turn, k, r] for r in range(4)], T.address_of(self.shared[here]))

    def multiply(self, turn: int) -> None:
        for m in range(self.m):
            for k in range(2 * self.k):
                sums = [self.sums[m, k, i] for i in range(4)]
                a = [self.a[turn, m, r] for r in range(4)]
                b = [self.b[turn, k // 2, k % 2 * 2 + r] for r in range(2)]
                ptx(MMA, *sums, *a, *b, *sums)
