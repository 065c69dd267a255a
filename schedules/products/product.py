"""One product on mma.sync: a tile of the result for each block, operands copied some steps ahead.

copies    a step's part of both operands, `stages` - 1 steps ahead, by cp.async
warp      its rows and columns of the tile, accumulators in registers
"""

from __future__ import annotations

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
from schedules.products.expressions import finished
from schedules.products.matrix import FRAGMENT, Matrix, Tiles
from schedules.products.store import store, unravelled
from schedules.products.workload import ADDED, A, B, ProductWorkload, Y
from schedules.threads import ptx
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.control import Index
from schedules.threads.kernel import Kernel
from schedules.threads.launch import WARP, Launch
from schedules.threads.registers import Registers, Variable, bind
from schedules.threads.shared_layout import SharedLayout, Stages
from schedules.threads.shared_memory import SharedMemory


@dataclass(frozen=True)
class ProductConfig:
    """warps_m, warps_n: of a block. fragments_m, fragments_n: of a warp, of 16 x 16. chunk:
    fragments along the sum in a step. stages: of the pipeline, at least 2."""

    warps_m: int = 2
    warps_n: int = 2
    fragments_m: int = 2
    fragments_n: int = 2
    chunk: int = 2
    stages: int = 3

    def __post_init__(self) -> None:
        sizes = (self.warps_m, self.warps_n, self.fragments_m, self.fragments_n, self.chunk)
        if min(sizes) < 1 or self.stages < 2:
            raise ValueError(f"{self!r}: sizes are at least 1, stages at least 2")

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a block's tile."""
        return (
            self.warps_m * self.fragments_m * FRAGMENT,
            self.warps_n * self.fragments_n * FRAGMENT,
        )

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps_m * self.warps_n * WARP

    def __str__(self) -> str:
        rows, columns = self.tile
        return f"{rows}x{columns} tiles, {self.chunk * FRAGMENT} terms a step, {self.stages} stages"


@dataclass(frozen=True)
class Plan:
    """A workload without `first`, and a configuration, in numbers."""

    w: ProductWorkload
    config: ProductConfig

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """The operands by name."""
        assert self.w.a is not None
        (rows, columns), depth = self.config.tile, self.config.chunk * FRAGMENT
        dtype = self.w.precision.x
        return {
            A: Matrix(A, dtype, self.w.a, (rows, depth)),
            B: Matrix(B, dtype, self.w.b, (depth, columns)),
        }

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles along rows and columns of a matrix."""
        return ceil_div(self.w.m, self.config.tile[0]), ceil_div(self.w.n, self.config.tile[1])

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return self.w.matrices * self.tiles[0] * self.tiles[1]

    @property
    def steps(self) -> int:
        """Steps along the sum."""
        return ceil_div(self.w.k, self.config.chunk * FRAGMENT)

    @property
    def padded_macs(self) -> int:
        """Multiply-adds of all instructions."""
        rows, columns = self.config.tile
        return self.blocks * rows * columns * self.steps * self.config.chunk * FRAGMENT

    @property
    def instruction(self) -> TensorIntrinsic:
        """The instruction."""
        return mma_sync.get(16, self.w.precision.x, FP32.name)

    @cached_property
    def stages(self) -> Stages:
        """Both operands of each stage."""
        return Stages(self.config.stages, *(one.part for one in self.matrices.values()))

    @cached_property
    def memory(self) -> SharedLayout:
        """Shared memory of a block."""
        return SharedLayout(self.stages)


def kernel(w: ProductWorkload, config: ProductConfig) -> tirx.PrimFunc:
    """Returns the kernel, with the operands of `ProductWorkload.signature`."""
    plan = Plan(w, config)
    with (
        Kernel(w.signature, plans_barriers=True) as function,
        function.launch(Launch(plan.blocks, config.threads)) as thread,
    ):
        block, (across, along) = bind("block", thread.block), plan.tiles
        batch = [bind("of", i) for i in unravelled(block // (across * along), w.batch)]
        row = bind("row", block % across * config.tile[0])
        column = bind("column", block // across % along * config.tile[1])
        shared = SharedMemory(plan.memory, "shared", w.precision.x)
        a, b = (
            Tiles(matrix, function.flat(name), batch, shared, thread.number, config.threads)
            for name, matrix in plan.matrices.items()
        )
        warp = _Warp(plan, thread.number)
        pipeline = AsyncCopyPipeline(config.stages, plan.stages.bytes)
        depth = config.chunk * FRAGMENT

        def copy(step: Index) -> None:
            stage = pipeline.stage(step)
            a.copy(stage, row, step * depth)
            b.copy(stage, step * depth, column)

        with pipeline.over(plan.steps, copy) as step:
            stage = bind("stage", T.cast(pipeline.stage(step) * plan.stages.bytes, "uint32"))
            warp.multiply(a, b, stage)
        warp.store(function, batch, row, column)
    return function.function


class _Warp:
    """A warp's part of the tile: where it lies, and its accumulators."""

    def __init__(self, plan: Plan, number: Expr) -> None:
        self.plan, config = plan, plan.config
        self.lane, warp = bind("lane", number % WARP), bind("warp", number // WARP)
        self.row = bind("warp_row", warp % config.warps_m * (config.fragments_m * FRAGMENT))
        columns = config.fragments_n * FRAGMENT
        self.column = bind("warp_column", warp // config.warps_m * columns)
        shape = (config.fragments_m, config.fragments_n * 2, 4)
        self.sums = Registers.array("sums", shape, FP32.name)
        self.a = Registers.array("a_part", (config.fragments_m, 4), "uint32")
        self.b = Registers.array("b_part", (4,), "uint32")
        for m in range(shape[0]):
            for n in range(shape[1]):
                for i in range(4):
                    self.sums[m, n, i] = T.float32(0)

    def multiply(self, a: Tiles, b: Tiles, stage: Expr) -> None:
        """Adds the products of a step."""
        config = self.plan.config
        from_a, from_b = (
            bind("from", stage + T.cast(first * tiles.step(axis), "uint32"))
            for tiles, first, axis in ((a, self.row, 0), (b, self.column, 1))
        )
        four = [self.b[i] for i in range(4)]
        for depth in range(0, config.chunk * FRAGMENT, FRAGMENT):
            for m in range(config.fragments_m):
                fragment = [self.a[m, i] for i in range(4)]
                a.load(fragment, from_a, m * FRAGMENT, depth, reduced=1)
            for n in range(config.fragments_n):
                b.load(four, from_b, depth, n * FRAGMENT, reduced=0)
                for m in range(config.fragments_m):
                    fragment = [self.a[m, i] for i in range(4)]
                    for half in range(2):
                        sums = [self.sums[m, 2 * n + half, i] for i in range(4)]
                        ptx.mma(self.plan.instruction, sums, fragment, four[2 * half :][:2])

    def store(self, kernel: Kernel, batch: list[Index], row: Index, column: Index) -> None:
        """Finishes and stores."""
        w, config = self.plan.w, self.plan.config
        y = kernel.flat(Y)
        pair = Registers.array("pair", (2,), str(y.dtype))
        ends_within = w.m % config.tile[0] > 0, w.n % config.tile[1] > 0
        for m in range(config.fragments_m):
            for half in range(2):
                down = self.row + row + (m * FRAGMENT + half * 8) + self.lane // 4
                at_row = bind("at_row", down)
                for n in range(config.fragments_n * 2):
                    along = self.column + column + n * 8 + self.lane % 4 * 2
                    at_column = bind("at_column", along)
                    sums = [self.sums[m, n, 2 * half + i] for i in range(2)]

                    def value(i: int, place: tuple = (at_row, at_column), of: list = sums) -> Expr:
                        return self._finished(kernel, of[i], batch, place[0], place[1] + i)

                    store(y, w.y, (batch, at_row, at_column), pair, value, ends_within)

    def _finished(
        self, kernel: Kernel, total: Expr, batch: list[Index], row: Index, column: Index
    ) -> Expr:
        """The element of the result, in fp32."""
        w, added = self.plan.w, None
        if w.added is not None:
            added = kernel.flat(ADDED)[w.added.view.at((*batch, row, column))]
        return Variable("done", finished(w, total, added)).value


#: Tiles that are tried, the largest first: of large products, of those of few rows or columns.
TILES = (
    ProductConfig(2, 2, 4, 4),
    ProductConfig(2, 2, 2, 4),
    ProductConfig(2, 2, 2, 2),
    ProductConfig(1, 4, 2, 1),
    ProductConfig(4, 1, 1, 2),
    ProductConfig(2, 2, 1, 1),
    ProductConfig(1, 2, 1, 1),
)


def choose(w: ProductWorkload, hardware: Hardware) -> ProductConfig:
    """Returns the configuration for a workload without `first`: the tile with the least work for
    the multiprocessor that has most blocks, its copies counted as multiplications."""

    def work(config: ProductConfig) -> float:
        plan = Plan(w, config)
        rows, columns = config.tile
        depth = plan.steps * config.chunk * FRAGMENT
        # A step's copies take as long as the products of a tile of some 64 x 64.
        rounds = ceil_div(plan.blocks, hardware.card.multiprocessors)
        return rounds * depth * (rows * columns + 32 * (rows + columns))

    fitting = [
        config
        for config in TILES
        if not hardware.exceeded(config.threads, shared_bytes=Plan(w, config).memory.bytes)
    ]
    return min(fitting, key=work)
