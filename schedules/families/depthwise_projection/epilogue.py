"""The epilogue of the projection: accumulators of warps that share pixels are added up, finished in
registers, and stored up to 16 bytes at a time."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import BIAS, CHANNEL, RESIDUAL, Y
from schedules.expressions.compute import finished
from schedules.families.depthwise_projection.block import Block
from schedules.families.depthwise_projection.config import COLUMNS
from schedules.families.depthwise_projection.plan import PAIR
from schedules.threads import ptx
from schedules.threads.control import grid, unrolled, vectorized, when
from schedules.threads.registers import Registers


class Store:
    """Finishes the accumulators of a block and stores them."""

    def __init__(self, block: Block, accumulators: Registers) -> None:
        self.block, self.plan, self.w = block, block.plan, block.plan.w
        self.accumulators = accumulators
        self.y = block.operands[Y]
        self.bias, self.residual = (block.operands.get(name) for name in (BIAS, RESIDUAL))
        #: Adjacent output channels of a thread.
        self.width = PAIR * self.plan.run
        precision = self.w.precision
        self.biases = Registers.array("bias", (PAIR * self.plan.columns,), CHANNEL)
        self.residuals = Registers.array("residual", (self.width,), precision.added)
        self.results = Registers.array("results", (self.width,), precision.result)

    def store(self) -> None:
        """Adds up and stores."""
        plan, w, block = self.plan, self.w, self.block
        if plan.config.deep > 1:
            self._add_up()
        n, p, q = block.at()
        runs = plan.columns // plan.run
        with when(block.deep == 0):
            if self.bias is not None:
                with grid(runs, plan.run) as (run, one), vectorized(PAIR) as v:
                    bias = self.bias[self._channel(run) + one * PAIR + v]
                    self.biases[run * self.width + one * PAIR + v] = bias
            with grid(plan.fragments, 2, runs) as (fragment, low, run):
                line = p + block.down + fragment * 2 + low
                column = q + block.across + block.row
                with when(tirx.all(line < w.p, column < w.q)):
                    self._finish((n, line, column), fragment, low, run)

    def _add_up(self) -> None:
        """Adds the accumulators of the warps that share a tile to those of the first of them, in
        the warps' order, through shared memory."""
        plan, block = self.plan, self.block
        handed = block.shared.array("accumulators")
        shape: tuple[int, ...] = (plan.fragments, plan.columns, 4)
        ptx.shared_sync()
        with when(block.deep > 0), grid(*shape) as index:
            handed[(block.deep - 1, block.tile, *index, block.lane)] = self.accumulators[index]
        ptx.shared_sync()
        with when(block.deep == 0), grid(plan.config.deep - 1, *shape) as (deep, *index):
            at = tuple(index)
            more = handed[(deep, block.tile, *at, block.lane)]
            self.accumulators[at] = self.accumulators[at] + more

    def _channel(self, run: Expr) -> Expr:
        """The first of the thread's output channels in a run of instructions."""
        plan = self.plan
        first = self.block.part * (plan.columns * COLUMNS) + run * (plan.run * COLUMNS)
        return first + self.block.pair * self.width

    def _finish(self, pixel: tuple[Expr, ...], fragment: Expr, low: Expr, run: Expr) -> None:
        """Finishes and stores the thread's channels of a pixel. low: 0 for the upper of a
        fragment's two rows of pixels, 1 for the lower."""
        plan, width, k = self.plan, self.width, self._channel(run)
        if self.residual is not None:
            with vectorized(width) as v:
                self.residuals[v] = self.residual[(*pixel, k + v)]
        with unrolled(width) as i:
            given = {} if self.bias is None else {BIAS: self.biases[run * width + i]}
            if self.residual is not None:
                given[RESIDUAL] = self.residuals[i]
            total = self.accumulators[fragment, run * plan.run + i // 2, low * 2 + i % 2]
            self.results[i] = finished(self.w, total, given)
        with vectorized(width) as v:
            T.buffer_store(self.y, self.results[v], [*pixel, k + v])
