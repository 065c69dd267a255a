"""The mma.sync kernel: its skeleton and its fragments. `mma_sync_copies` brings the operands,
`mma_sync_epilogue` ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from intrinsics.mma_sync import LOAD_A, LOAD_B, MMA
from schedules.mma_sync_build import SHARED, VECTOR, Parameters, Thread, bind, local, ptx, when
from schedules.mma_sync_config import MmaSyncConfig, gemm_of, shared_bytes, steps
from schedules.mma_sync_copies import Copies, Ring, turned
from schedules.mma_sync_epilogue import Epilogue
from schedules.workload import ConvWorkload

Action = Callable[[], None]


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

    def copied(step: Any, part: int) -> list[Action]:
        """One part in `last` of the copies of a stage; after the last one the group is closed."""
        more = bind("more", tirx.const(step) < count if isinstance(step, int) else step < count)

        def copy() -> None:
            with when(more):
                for one in copies.parts()[part::last]:
                    one()

        actions = [copy]
        if part == last - 1:
            actions += [copies.advance, lambda: ptx("cp.async.commit_group")]
        return actions

    def await_stage() -> None:
        """All threads' copies of the next stage have landed, and nobody reads the last one."""
        ptx("cp.async.wait_group", stages - 2)
        T.evaluate(T.tvm_storage_sync(SHARED))

    for step in range(stages - 1):
        for part in range(last):
            _interleave(copied(step, part), [])
    await_stage()
    _interleave(fragments.loads(0, 0), [])
    with T.serial(count) as step:
        for i in range(last + 1):
            products = fragments.products(i % 2)
            if i == last:
                # The next stage's first fragment. Some products first, to have work at the barrier.
                early = len(products) // 8
                _interleave([], products[:early])
                await_stage()
                fragments.advance()
                _interleave(fragments.loads((i + 1) % 2, 0), products[early:])
            else:
                loads = fragments.loads((i + 1) % 2, i + 1)
                _interleave([*loads, *copied(step + stages - 1, i)], products)
    ptx("cp.async.wait_group", 0)


def _interleave(actions: Sequence[Action], among: Sequence[Action]) -> None:
    """Does all in order, the actions spread evenly among the first two thirds of the others."""
    room, done = max(1, len(among) * 2 // 3), 0
    for i, other in enumerate(among):
        due = min(len(actions), len(actions) * (i + 1) // room)
        for action in actions[done:due]:
            action()
        done = max(done, due)
        other()
    for action in actions[done:]:
        action()


class Fragments:
    """A warp's operands, two sets that take turns, and its sums."""

    def __init__(self, config: MmaSyncConfig, thread: Thread, start: Any) -> None:
        self.config = config
        self.m, self.k = config.fragments_m, config.fragments_k
        self.a = local("a", (2, self.m, 4), "uint32")
        self.b = local("b", (2, self.k, 4), "uint32")
        #: Of each 16 x 8 of the warp's tile, what `intrinsics.mma_sync.c_element` says.
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

    def loads(self, turn: int, i: int) -> list[Action]:
        """The loads of the fragments at step i of the chunk in the stage that is read."""
        tile = self.config.tile

        def load_a(m: int) -> None:
            address = T.ptx.addr(self.from_a[i] + self.stage.offset, m * 16 * tile.i * 2)
            ptx(LOAD_A, *[self.a[turn, m, r] for r in range(4)], address)

        def load_b(k: int) -> None:
            address = T.ptx.addr(self.from_b + self.stage.offset, (i * tile.k // 16 + k) * 512)
            ptx(LOAD_B, *[self.b[turn, k, r] for r in range(4)], address)

        of_a = [partial(load_a, m) for m in range(self.m)]
        of_b = [partial(load_b, k) for k in range(self.k)]
        return [*of_a[:1], *of_b, *of_a[1:]]

    def products(self, turn: int) -> list[Action]:
        """The multiplications of a set of fragments, to and fro along the columns."""

        def product(m: int, k: int) -> None:
            sums = [self.sums[m, k, i] for i in range(4)]
            a = [self.a[turn, m, r] for r in range(4)]
            b = [self.b[turn, k // 2, k % 2 * 2 + r] for r in range(2)]
            ptx(MMA, *sums, *a, *b, *sums)

        columns = range(2 * self.k)
        return [
            partial(product, m, k)
            for m in range(self.m)
            for k in (columns if m % 2 == 0 else reversed(columns))
        ]
