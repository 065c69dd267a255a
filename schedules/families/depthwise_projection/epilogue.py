"""The epilogue of the projection: accumulators of warps that share pixels are added up, finished in
registers, and stored up to 16 bytes at a time. Bytes are made, and read, four at a time."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.conv.precision import RESULT_ZERO
from schedules.conv.signature import CHANNEL, RESIDUAL, Y, channel_operands
from schedules.expressions.compute import before_rounding, finished
from schedules.families.depthwise_projection.block import Block
from schedules.families.depthwise_projection.config import COLUMNS
from schedules.families.depthwise_projection.plan import PAIR
from schedules.threads import packed_bytes, ptx
from schedules.threads.control import Index, grid, unrolled, vectorized, when
from schedules.threads.registers import Registers, keep


class Store:
    """Finishes the accumulators of a block and stores them."""

    def __init__(self, block: Block, accumulators: Registers) -> None:
        self.block, self.plan, self.w = block, block.plan, block.plan.w
        self.accumulators = accumulators
        self.y = block.operands[Y]
        self.residual = block.operands.get(RESIDUAL)
        #: Adjacent output channels of a thread.
        self.width = PAIR * self.plan.run
        precision = self.w.precision
        self.channels = {
            name: Registers.array(name, (PAIR * self.plan.columns,), CHANNEL)
            for name in channel_operands(self.w)
        }
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
            for name, registers in self.channels.items():
                source = block.operands[name]
                with grid(runs, plan.run) as (run, one), vectorized(PAIR) as v:
                    value = source[self._channel(run) + one * PAIR + v]
                    registers[run * self.width + one * PAIR + v] = value
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
            self._load_residual(pixel, k)
        if self._packs(self.w.precision.result):
            self._store_bytes(pixel, fragment, low, run)
            return
        with unrolled(width) as i:
            total = self.accumulators[fragment, run * plan.run + i // 2, low * 2 + i % 2]
            self.results[i] = finished(self.w, total, self._given(run, i))
        with vectorized(width) as v:
            T.buffer_store(self.y, self.results[v], [*pixel, k + v])

    def _packs(self, dtype: str) -> bool:
        """True for a dtype of bytes of which the thread has whole registers."""
        return dtypes.get(dtype).bytes == 1 and self.width % packed_bytes.EACH == 0

    def _load_residual(self, pixel: tuple[Expr, ...], k: Expr) -> None:
        if self._packs(self.w.precision.added):
            each = packed_bytes.EACH
            shape = (*self.w.residual_shape[:-1], self.w.k // each)
            words = self.block.operands.words(RESIDUAL, shape)
            with vectorized(self.width // each) as v:
                self.residuals.view("uint32")[v] = words[(*pixel, k // each + v)]
            return
        with vectorized(self.width) as v:
            self.residuals[v] = self.residual[(*pixel, k + v)]

    def _given(self, run: Expr, i: Index) -> dict[str, Expr]:
        """By name, what the epilogue has of one of the thread's channels of a pixel."""
        given = {name: one[run * self.width + i] for name, one in self.channels.items()}
        if self.residual is not None:
            given[RESIDUAL] = self.residuals[i]
        return given

    def _store_bytes(
        self, pixel: tuple[Expr, ...], fragment: Expr, low: Expr, run: Expr
    ) -> None:
        """The same of results that are bytes."""
        plan, w, each = self.plan, self.w, packed_bytes.EACH
        results = self.results.view("uint32")
        for first in range(0, self.width, each):
            values = []
            for i in range(first, first + each):
                given = self._given(run, i)
                if self.residual is not None and self._packs(w.precision.added):
                    word = self.residuals.view("uint32")[first // each]
                    value = packed_bytes.unpack(word, i - first, w.precision.added)
                    given[RESIDUAL] = keep("residual", value)
                total = self.accumulators[fragment, run * plan.run + i // 2, low * 2 + i % 2]
                value = before_rounding(w, total, given)
                values.append(packed_bytes.rounded(value, given.get(RESULT_ZERO)))
            results[first // each] = packed_bytes.pack(values)
        y = self.block.operands.words(Y, (*w.out_shape[:-1], w.k // each))
        with vectorized(self.width // each) as v:
            T.buffer_store(y, results[v], [*pixel, self._channel(run) // each + v])
