"""The mma.sync kernel: its skeleton and its fragments. `mma_sync_copies` brings the operands,
`mma_sync_epilogue` ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from intrinsics.mma_sync import LDMATRIX, LDMATRIX_TRANSPOSED, M16N8K16
from schedules.conv.workload import ConvWorkload
from schedules.families.mma_sync.build import (
    SHARED,
    VECTOR,
    Parameters,
    Thread,
    bind,
    local,
    ptx,
    when,
)
from schedules.families.mma_sync.config import (
    MmaSyncConfig,
    gemm_of,
    shared_bytes,
    signature,
    steps,
)
from schedules.families.mma_sync.copies import Copies, Ring, turned
from schedules.families.mma_sync.epilogue import Epilogue

Action = Callable[[], None]


def kernel(w: ConvWorkload, config: MmaSyncConfig) -> tirx.PrimFunc:
    """Returns the kernel, a function of the operands of `config.signature`."""
    gemm = gemm_of(w, config)
    with IRBuilder() as builder, T.prim_func(s_tir=True), ExitStack() as scopes:
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        parameters = Parameters.declare(signature(w, config))
        thread = Thread.launch(gemm, config, scopes)
        shared = IRBuilder.name(
            "shared", T.alloc_buffer((shared_bytes(config) // 2,), "float16", scope=SHARED)
        )
        # Not of an element: TVM would keep no more of the buffer than that.
        start = T.cuda.cvta_generic_to_shared(shared.data)
        # The part of the reduction that this block has.
        total, split = steps(w, config), config.split
        begin = bind("begin", thread.rank * total // split) if split > 1 else 0
        end = (thread.rank + 1) * total // split if split > 1 else total
        count = bind("count", end - begin)
        copies = Copies(w, gemm, config, thread, parameters, start, begin)
        fragments = Fragments(config, thread, start)
        _multiply(config, count, copies, fragments)
        epilogue = Epilogue(w, gemm, config, thread, parameters)
        if config.adds_up:
            epilogue.through_shared(fragments.sums, shared)
        else:
            epilogue.from_registers(fragments.sums)
    return builder.get()


def _multiply(config: MmaSyncConfig, count: Any, copies: Copies, fragments: Fragments) -> None:
    """The pipelined loop over the steps of this block."""
    stages, last = config.stages, config.chunk // config.warps_i - 1

    def copy(step: Any, part: int) -> None:
        """One part in `last` of the copies of a stage; after the last one the group is closed."""
        with when(step < count):
            copies.copy(part, last)
        if part == last - 1:
            copies.advance()
            ptx("cp.async.commit_group")

    def await_stage() -> None:
        """All threads' copies of the next stage have landed, and nobody reads the last one."""
        ptx("cp.async.wait_group", stages - 2)
        T.evaluate(T.tvm_storage_sync(SHARED))

    for step in range(stages - 1):
        for part in range(last):
            copy(T.int32(step), part)
    await_stage()
    fragments.load(0, 0)
    with T.serial(count) as step:
        for i in range(last + 1):
            products = fragments.products(i % 2)
            if i == last:
                # The next stage's first fragment. Some products first, to have work at the barrier.
                for product in products[: len(products) // 8]:
                    product()
                products = products[len(products) // 8 :]
                await_stage()
                fragments.advance()
                fragments.load((i + 1) % 2, 0)
            else:
                fragments.load((i + 1) % 2, i + 1)
                copy(step + stages - 1, i)
            for product in products:
                product()
    ptx("cp.async.wait_group", 0)


class Fragments:
    """A warp's operands, two sets that take turns, and its sums."""

    def __init__(self, config: MmaSyncConfig, thread: Thread, start: Any) -> None:
        self.config = config
        self.m, self.k = config.fragments_m, config.fragments_k
        self.a = local("a", (2, self.m, 4), "uint32")
        self.b = local("b", (2, self.k, 4), "uint32")
        #: Of each 16 x 8 of the warp's tile, what `intrinsics.mma_sync.Fragment` says.
        self.sums = local("sums", (self.m, 2 * self.k, 4), "float32")
        self.stage = Ring("read", config, 0)
        self.advance = self.stage.advance
        self._addresses(thread, start)
        for m in range(self.m):
            for k in range(2 * self.k):
                for i in range(4):
                    T.buffer_store(self.sums, T.float32(0), [m, k, i])

    def _addresses(self, thread: Thread, start: Any) -> None:
        """Where in the first stage this lane's rows of fragments lie, by step of the chunk."""
        config, tile, lane = self.config, self.config.tile, thread.lane
        mine = config.chunk // config.warps_i
        self.from_a = local("from_a", (mine,), "uint32")
        row = thread.warp_m * (self.m * 16) + lane % 16
        for i in range(mine):
            chunk = (thread.warp_i * mine + i) * 2 + lane // 16
            here = row * tile.i + turned(config, lane % 16, chunk) * VECTOR
            T.buffer_store(self.from_a, start + T.cast(here * 2, "uint32"), [i])
        in_tile = (lane % 16) * 2 + (lane // 16 ^ lane // 4 % 2)
        tiles = thread.warp_i * (mine * tile.k // 16) + thread.warp_k * self.k
        here = tile.m * tile.i + tiles * 256 + in_tile * VECTOR
        self.from_b = bind("from_b", start + T.cast(here * 2, "uint32"))

    def load(self, turn: int, i: int) -> None:
        """The fragments at step i of the chunk in the stage that is read."""
        tile = self.config.tile
        for m in range(self.m):
            address = T.ptx.addr(self.from_a[i] + self.stage.offset, m * 16 * tile.i * 2)
            ptx(LDMATRIX, *[self.a[turn, m, r] for r in range(4)], address)
        for k in range(self.k):
            address = T.ptx.addr(self.from_b + self.stage.offset, (i * tile.k // 16 + k) * 512)
            ptx(LDMATRIX_TRANSPOSED, *[self.b[turn, k, r] for r in range(4)], address)

    def products(self, turn: int) -> list[Action]:
        """The multiplications of a set of fragments, to and fro along the columns."""

        def product(m: int, k: int) -> None:
            sums = [self.sums[m, k, i] for i in range(4)]
            a = [self.a[turn, m, r] for r in range(4)]
            b = [self.b[turn, k // 2, k % 2 * 2 + r] for r in range(2)]
            ptx(M16N8K16.ptx, *sums, *a, *b, *sums)

        columns = range(2 * self.k)
        return [
            partial(product, m, k)
            for m in range(self.m)
            for k in (columns if m % 2 == 0 else reversed(columns))
        ]
