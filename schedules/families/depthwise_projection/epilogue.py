"""The epilogue of the projection: accumulators of warps that share pixels are added up, finished in
registers, and stored up to 16 bytes at a time. Bytes are made, and read, four at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.conv.signature import CHANNEL, RESIDUAL, Y, channel_operands
from schedules.expressions.compute import finished
from schedules.expressions.packed_results import packed_results
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
        #: Adjacent output channels of a thread.
        self.width = PAIR * self.plan.run
        #: The largest word of bytes of which the thread has whole ones: a register, or half of one.
        self.word_bytes = min(self.width, packed_bytes.EACH)
        self.word = f"uint{8 * self.word_bytes}"
        self.runs = self.plan.columns // self.plan.run
        precision = self.w.precision
        self.channels = {
            name: Registers.array(name, (PAIR * self.plan.columns,), CHANNEL)
            for name in channel_operands(self.w)
        }
        # Of all pixels, where they are loaded before the main loop.
        pixels = (self.plan.fragments, 2, self.runs) if self.plan.early else ()
        self.residuals = Registers.array("residual", (*pixels, self.width), precision.added)
        self.results = Registers.array("results", (self.width,), precision.result)

    def begin(self) -> None:
        """Loads what a small tile's epilogue reads, before the main loop, so that it does not wait
        for that at the end."""
        if self.plan.early:
            with when(self.block.deep == 0):
                self._load_channels()
                if self.w.epilogue.residual:
                    with self._pixels() as (pixel, *at):
                        self._load_residual(pixel, *at)

    def store(self) -> None:
        """Adds up and stores."""
        if self.plan.config.deep > 1:
            self._add_up()
        with when(self.block.deep == 0):
            if not self.plan.early:
                self._load_channels()
            with self._pixels() as (pixel, *at):
                if self.w.epilogue.residual and not self.plan.early:
                    self._load_residual(pixel, *at)
                self._finish(pixel, *at)

    @contextmanager
    def _pixels(self) -> Iterator[tuple[Any, ...]]:
        """Loops over the thread's pixels and runs of channels; gives the pixel's index in y, and
        its fragment, 0 for the upper of a fragment's two rows or 1 for the lower, and the run."""
        w, block, (n, p, q) = self.w, self.block, self.block.at()
        with grid(self.plan.fragments, 2, self.runs) as (fragment, low, run):
            line = p + block.down + fragment * 2 + low
            column = q + block.across + block.row
            with when(tirx.all(line < w.p, column < w.q)):
                yield (n, line, column), fragment, low, run

    def _load_channels(self) -> None:
        """Loads what the epilogue has of each of the thread's channels."""
        for name, registers in self.channels.items():
            source = self.block.operands[name]
            with grid(self.runs, self.plan.run) as (run, one), vectorized(PAIR) as v:
                value = source[self._channel(run) + one * PAIR + v]
                registers[run * self.width + one * PAIR + v] = value

    def _add_up(self) -> None:
        """Adds the accumulators of the warps that share a tile to those of the first of them, in
        the warps' order, through shared memory. Of integers four at a time."""
        if self.plan.integer:
            self._add_up_vectors()
            return
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

    def _add_up_vectors(self) -> None:
        plan, block = self.plan, self.block
        handed, shape = block.shared.array("accumulators"), (plan.fragments, plan.columns)
        more = Registers.array("more", (4,), self.w.precision.accumulator)
        ptx.shared_sync()
        with when(block.deep > 0), grid(*shape) as index, vectorized(4) as v:
            to = (block.deep - 1, block.tile, *index, block.lane, v)
            handed[to] = self.accumulators[(*index, v)]
        ptx.shared_sync()
        with when(block.deep == 0), grid(plan.config.deep - 1, *shape) as (deep, *index):
            with vectorized(4) as v:
                more[v] = handed[(deep, block.tile, *index, block.lane, v)]
            for i in range(4):
                at = (*index, i)
                self.accumulators[at] = self.accumulators[at] + more[i]

    def _channel(self, run: Expr) -> Expr:
        """The first of the thread's output channels in a run of instructions."""
        plan = self.plan
        first = self.block.part * (plan.columns * COLUMNS) + run * (plan.run * COLUMNS)
        return first + self.block.pair * self.width

    def _finish(self, pixel: tuple[Expr, ...], fragment: Expr, low: Expr, run: Expr) -> None:
        """Finishes and stores the thread's channels of a pixel."""
        width, k = self.width, self._channel(run)
        if _is_byte(self.w.precision.result):
            self._store_bytes(pixel, fragment, low, run)
            return
        with unrolled(width) as i:
            total = self._total(fragment, low, run, i)
            self.results[i] = finished(self.w, total, self._given((fragment, low, run), i))
        with vectorized(width) as v:
            T.buffer_store(self.y, self.results[v], [*pixel, k + v])

    def _total(self, fragment: Expr, low: Expr, run: Expr, i: Index) -> Expr:
        return self.accumulators[fragment, run * self.plan.run + i // 2, low * 2 + i % 2]

    def _load_residual(self, pixel: tuple[Expr, ...], fragment: Expr, low: Expr, run: Expr) -> None:
        k, at = self._channel(run), self._residual_at(fragment, low, run)
        if _is_byte(self.w.precision.added):
            words = self._words(RESIDUAL, self.w.residual_shape)
            with vectorized(self.width // self.word_bytes) as v:
                word = words[(*pixel, k // self.word_bytes + v)]
                self.residuals.view(self.word)[(*at, v)] = word
            return
        with vectorized(self.width) as v:
            self.residuals[(*at, v)] = self.block.operands[RESIDUAL][(*pixel, k + v)]

    def _residual_at(self, *at: Expr) -> tuple[Expr, ...]:
        """The first indices of a pixel's residuals, by its fragment, row and run."""
        return at if self.plan.early else ()

    def _words(self, name: str, shape: tuple[int, ...]) -> Expr:
        """An operand of bytes as words."""
        *outer, last = shape
        return self.block.operands.words(name, (*outer, last // self.word_bytes), self.word)

    def _given(self, at: tuple[Expr, Expr, Expr], i: Index) -> dict[str, Expr]:
        """By name, what the epilogue has of one of the thread's channels of a pixel."""
        given = {name: one[at[2] * self.width + i] for name, one in self.channels.items()}
        if self.w.epilogue.residual:
            given[RESIDUAL] = self.residuals[(*self._residual_at(*at), i)]
        return given

    def _store_bytes(self, pixel: tuple[Expr, ...], fragment: Expr, low: Expr, run: Expr) -> None:
        """The same of results that are bytes: a word of them at a time."""
        w, size, at = self.w, self.word_bytes, (fragment, low, run)
        results = self.results.view(self.word)
        for word in range(self.width // size):
            totals, each = [], []
            for i in range(word * size, (word + 1) * size):
                given = self._given(at, i)
                if w.epilogue.residual and _is_byte(w.precision.added):
                    bytes = self.residuals.view(self.word)[(*self._residual_at(*at), word)]
                    bytes = bytes.astype("uint32")
                    value = packed_bytes.unpack(bytes, i % size, w.precision.added)
                    given[RESIDUAL] = keep("residual", value)
                totals.append(self._total(fragment, low, run, i))
                each.append(given)
            # Of a short word twice the same.
            times = packed_bytes.EACH // size
            packed = packed_results(w, totals * times, each * times)
            results[word] = packed.astype(self.word)
        y = self._words(Y, w.out_shape)
        with vectorized(self.width // size) as v:
            T.buffer_store(y, results[v], [*pixel, self._channel(run) // size + v])


def _is_byte(dtype: str) -> bool:
    return dtypes.get(dtype).bytes == 1
