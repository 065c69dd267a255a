"""Attention on mma.sync: both products and the softmax between them in one kernel.

A block has the queries of some rows and goes through the keys, some at a step. Scores, weights and
results stay in registers: a step's scores are multiplied out, their exponentials are packed to be
the operand of the second product, and what was added up before is scaled to the new maximum (Dao et
al. 2022, "FlashAttention", algorithm 1; Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax", algorithm 3). Powers are of 2, with the scale in their exponent.

    copies    keys and values of a step, `stages` - 1 steps ahead, by cp.async
    warp      16 rows of queries, all keys of the step, all columns of the values
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import mma_sync
from intrinsics.dtypes import FP32
from intrinsics.record import TensorIntrinsic
from schedules.conv.layout import ceil_div
from schedules.machine.hardware import Hardware
from schedules.products.matrix import FRAGMENT, Matrix, Tiles, whole_fragments
from schedules.products.store import store, unravelled
from schedules.products.workload import KEY, MASK, QUERY, B, ProductWorkload, Y
from schedules.threads import ptx
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.control import Index
from schedules.threads.kernel import Kernel
from schedules.threads.launch import WARP, Launch
from schedules.threads.registers import Registers, Variable, bind
from schedules.threads.shared_layout import SharedLayout, Stages
from schedules.threads.shared_memory import SharedMemory

#: Columns of queries and of values with which everything stays in registers.
LARGEST = 128
LOG2_E = math.log2(math.e)
#: Rows of a fragment whose results a lane holds: l // 4, and 8 further down.
HALVES = 2


@dataclass(frozen=True)
class AttentionConfig:
    """warps: of a block, of 16 rows each. keys: of a step. stages: of the pipeline, at least 2."""

    warps: int = 4
    keys: int = 64
    stages: int = 2

    def __post_init__(self) -> None:
        if min(self.warps, self.keys) < 1 or self.keys % FRAGMENT or self.stages < 2:
            raise ValueError(f"{self!r}: keys come by 16, and there are two stages or more")

    def __str__(self) -> str:
        return f"{self.warps * FRAGMENT} rows, {self.keys} keys, {self.stages} stages"


@dataclass(frozen=True)
class Plan:
    """A workload with `first`, and a configuration, in numbers."""

    w: ProductWorkload
    config: AttentionConfig

    @property
    def scores(self) -> ProductWorkload:
        """The product of queries and keys."""
        assert self.w.first is not None
        return self.w.first

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """The operands of both products, by name."""
        first, config, dtype = self.scores, self.config, self.w.precision.x
        assert first.a is not None
        depth, columns = whole_fragments(first.k), whole_fragments(self.w.n)
        return {
            QUERY: Matrix(QUERY, dtype, first.a, (config.warps * FRAGMENT, depth)),
            KEY: Matrix(KEY, dtype, first.b, (depth, config.keys)),
            B: Matrix(B, dtype, self.w.b, (config.keys, columns)),
        }

    @property
    def tiles(self) -> int:
        """Blocks along the queries of a matrix."""
        return ceil_div(self.w.m, self.config.warps * FRAGMENT)

    @property
    def steps(self) -> int:
        """Steps along the keys."""
        return ceil_div(self.w.k, self.config.keys)

    @property
    def padded_macs(self) -> int:
        """Multiply-adds of all instructions."""
        rows, keys = self.tiles * self.config.warps * FRAGMENT, self.steps * self.config.keys
        depth = self.matrices[QUERY].tile[1] + self.matrices[B].tile[1]
        return self.w.matrices * rows * keys * depth

    @property
    def instruction(self) -> TensorIntrinsic:
        """The instruction of both products."""
        return mma_sync.get(16, self.w.precision.x, FP32.name)

    @cached_property
    def stages(self) -> Stages:
        """Keys and values of each stage."""
        parts = [self.matrices[name].part for name in (KEY, B)]
        return Stages(self.config.stages, *parts)

    @cached_property
    def memory(self) -> SharedLayout:
        """Shared memory of a block."""
        return SharedLayout(self.matrices[QUERY].part, self.stages)


def kernel(w: ProductWorkload, config: AttentionConfig) -> tirx.PrimFunc:
    """Returns the kernel, with the operands of `ProductWorkload.signature`."""
    plan = Plan(w, config)
    threads = config.warps * WARP
    with (
        Kernel(w.signature, plans_barriers=True) as function,
        function.launch(Launch(w.matrices * plan.tiles, threads)) as thread,
    ):
        block = bind("block", thread.block)
        batch = [bind("of", i) for i in unravelled(block // plan.tiles, w.batch)]
        row = bind("row", block % plan.tiles * (config.warps * FRAGMENT))
        shared = SharedMemory(plan.memory, "shared", w.precision.x)
        tiles = {
            name: Tiles(matrix, function.flat(name), batch, shared, thread.number, threads)
            for name, matrix in plan.matrices.items()
        }
        rows = _Rows(plan, function, batch, row, thread.number)
        pipeline = AsyncCopyPipeline(config.stages, plan.stages.bytes)

        def copy(step: Index) -> None:
            stage = pipeline.stage(step)
            tiles[KEY].copy(stage, 0, step * config.keys)
            tiles[B].copy(stage, step * config.keys, 0)

        tiles[QUERY].copy(None, row, 0)
        with pipeline.over(plan.steps, copy) as step:
            stage = bind("stage", T.cast(pipeline.stage(step) * plan.stages.bytes, "uint32"))
            rows.score(tiles[QUERY], tiles[KEY], stage)
            rows.weigh(step * config.keys)
            rows.add(tiles[B], stage)
        rows.store()
    return function.function


class _Rows:
    """The 16 queries of a warp: scores of a step, and for each row the largest score so far, the
    sum of its weights, and the sum of the values by their weights."""

    def __init__(
        self, plan: Plan, kernel: Kernel, batch: list[Index], row: Index, number: Expr
    ) -> None:
        self.plan, self.kernel, self.batch = plan, kernel, batch
        self.lane, self.warp = bind("lane", number % WARP), bind("warp", number // WARP)
        self.row = bind("own", row + self.warp * FRAGMENT + self.lane // 4)
        self.keys, columns = plan.config.keys, plan.matrices[B].tile[1]
        dtype = plan.w.precision.x
        self.scores = Registers.array("scores", (self.keys // 8, 4), FP32.name)
        self.weights = Registers.array("weights", (self.keys // 8, 4), dtype)
        self.sums = Registers.array("sums", (columns // 8, 4), FP32.name)
        self.largest = Registers.array("largest", (HALVES,), FP32.name)
        self.total = Registers.array("total", (HALVES,), FP32.name)
        self.query = Registers.array("query_part", (4,), "uint32")
        self.other = Registers.array("other_part", (4,), "uint32")
        for half in range(HALVES):
            self.largest[half] = _minus_infinity()
            self.total[half] = T.float32(0)
        for i in range(columns // 8):
            for j in range(4):
                self.sums[i, j] = T.float32(0)

    def score(self, queries: Tiles, keys: Tiles, stage: Expr) -> None:
        """Multiplies the queries by a step's keys."""
        for i in range(self.keys // 8):
            for j in range(4):
                self.scores[i, j] = T.float32(0)
        own = T.cast(self.warp * FRAGMENT, "uint32") * T.uint32(queries.step(0))
        for depth in range(0, self.plan.matrices[QUERY].tile[1], FRAGMENT):
            queries.load(_four(self.query), own, 0, depth, reduced=1)
            for key in range(0, self.keys, FRAGMENT):
                keys.load(_four(self.other), stage, depth, key, reduced=0)
                self._multiply(self.scores, key // 8, _four(self.query))

    def _multiply(self, sums: Registers, column: int, a: list[Expr]) -> None:
        """Adds the product of a fragment and the one in `other`, 16 columns."""
        b = _four(self.other)
        for half in range(2):
            four = [sums[column + half, i] for i in range(4)]
            ptx.mma(self.plan.instruction, four, a, b[2 * half :][:2])

    def weigh(self, first: Index) -> None:
        """Makes weights of the scores of the keys from `first` on."""
        self._scale(first)
        for half in range(HALVES):
            largest = Variable("step_largest", self.largest[half])
            for i, j in self._places(half):
                largest.set(tirx.max(largest.value, self.scores[i, j]))
            for mask in (1, 2):  # the four lanes of a row
                largest.set(tirx.max(largest.value, ptx.shuffle_xor(largest.value, mask)))
            # Of a row in which all are -inf so far, nothing is to be subtracted.
            none = tirx.EQ(largest.value, _minus_infinity())
            base = Variable("base", T.Select(none, T.float32(0), largest.value))
            factor = Variable("factor", tirx.exp2(self.largest[half] - base.value))
            self.largest[half] = largest.value
            total = Variable("step_total", self.total[half] * factor.value)
            for i, j in self._places(half):
                weight = Variable("weight", tirx.exp2(self.scores[i, j] - base.value))
                total.set(total.value + weight.value)
                self.weights[i, j] = weight.value.astype(self.plan.w.precision.x)
            self.total[half] = total.value
            for i in range(self.plan.matrices[B].tile[1] // 8):
                for j in (2 * half, 2 * half + 1):
                    self.sums[i, j] = self.sums[i, j] * factor.value

    def _places(self, half: int) -> Iterator[tuple[int, int]]:
        """The lane's scores in one of its rows."""
        for i in range(self.keys // 8):
            yield from ((i, 2 * half), (i, 2 * half + 1))

    def _scale(self, first: Index) -> None:
        """Scales a step's scores, adds the mask, and takes out what is past the last key."""
        scores = self.plan.scores
        factor = T.float32(scores.scale * LOG2_E)
        ends_within = self.plan.w.k % self.keys > 0
        for half in range(HALVES):
            row = self.row + 8 * half
            for i, j in self._places(half):
                key = first + (i * 8 + j % 2) + self.lane % 4 * 2
                value = self.scores[i, j] * factor
                if scores.added is None:
                    if ends_within:
                        value = T.Select(key < self.plan.w.k, value, _minus_infinity())
                    self.scores[i, j] = value
                    continue
                inside = [key < self.plan.w.k] * ends_within + [row < self.plan.w.m]
                view = scores.added.view
                place = view.at((*self.batch, row, key))
                mask = self.kernel.flat(MASK)[place].astype(FP32.name) * T.float32(LOG2_E)
                past = _minus_infinity()
                self.scores[i, j] = T.if_then_else(tirx.all(*inside), value + mask, past)

    def add(self, values: Tiles, stage: Expr) -> None:
        """Adds a step's values by their weights."""
        packed = self.weights.view("uint32")
        for key in range(0, self.keys, FRAGMENT):
            # Results of two neighbouring instructions are one operand of the next.
            a = [packed[key // 8 + i // 2, i % 2] for i in range(4)]
            for column in range(0, self.plan.matrices[B].tile[1], FRAGMENT):
                values.load(_four(self.other), stage, key, column, reduced=0)
                self._multiply(self.sums, column // 8, a)

    def store(self) -> None:
        """Divides by the sums of the weights, and stores."""
        plan, view = self.plan, self.plan.w.y
        y = self.kernel.flat(Y)
        pair = Registers.array("pair", (2,), str(y.dtype))
        rows = plan.config.warps * FRAGMENT
        for half in range(HALVES):
            total = Variable("row_total", self.total[half])
            for mask in (1, 2):
                total.set(total.value + ptx.shuffle_xor(total.value, mask))
            inverse = Variable("inverse", T.float32(plan.w.scale) / total.value)
            # Neither where no weight is over zero, nor where they are NaN.
            valid = bind("valid", total.value > T.float32(0))
            for i in range(plan.matrices[B].tile[1] // 8):
                column = bind("column", self.lane % 4 * 2 + i * 8)
                place = (self.batch, self.row + 8 * half, column)
                ends_within = plan.w.m % rows > 0, plan.w.n < i * 8 + 8

                def value(
                    j: int,
                    i: int = i,
                    half: int = half,
                    inverse: Variable = inverse,
                    valid: Expr = valid,
                ) -> Expr:
                    result = self.sums[i, 2 * half + j] * inverse.value
                    if not plan.w.nan_to_zero:
                        return result
                    return T.Select(valid, result, T.float32(0))

                if i * 8 < plan.w.n:
                    store(y, view, place, pair, value, ends_within)


def _four(registers: Registers) -> list[Expr]:
    return [registers[i] for i in range(4)]


def _minus_infinity() -> Expr:
    return T.reinterpret("float32", T.uint32(0xFF800000))


def choose(w: ProductWorkload, hardware: Hardware) -> AttentionConfig:
    """Returns the configuration for a workload with `first`, of at most `LARGEST` columns.

    As many rows a block as leave every multiprocessor a block; steps of keys that pad least.
    """
    keys = min((64, 48, 32), key=lambda count: (ceil_div(w.k, count) * count, -count))
    if w.k <= FRAGMENT:
        keys = FRAGMENT
    configs = [AttentionConfig(warps, keys) for warps in (4, 2, 1)]
    for config in configs:
        plan = Plan(w, config)
        fits = not hardware.exceeded(config.warps * WARP, shared_bytes=plan.memory.bytes)
        if fits and w.matrices * plan.tiles >= hardware.card.multiprocessors:
            return config
    return configs[-1]
