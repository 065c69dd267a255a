"""The copies of the mma.sync kernel: k-blocks of pixels and weights, to shared memory, by chunks.

Each thread works out before the loop where its copies come from and go to. From step to step it
only adds: the loop has few instructions that are not multiplications.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.gemm import pixel
from schedules.conv.signature import WEIGHT, X
from schedules.families.mma_sync.block import Block
from schedules.families.mma_sync.plan import CHUNK_BYTES, FRAGMENT, SWIZZLE_ROWS, swizzled
from schedules.threads import ptx
from schedules.threads.async_pipeline import AsyncCopyPipeline, AsyncWriter
from schedules.threads.control import Index
from schedules.threads.registers import Registers, Variable, bind

Copy = Callable[[], None]


class Copies:
    """All copies of a step, by all threads of the block."""

    def __init__(self, block: Block, pipeline: AsyncCopyPipeline) -> None:
        self._writer = pipeline.writer("written")
        self._pixels = _Pixels(block, self._writer)
        self._weights = _Weights(block, self._writer)

    def copy(self, part: int, parts: int) -> None:
        """Starts one part in `parts` of the step's copies."""
        for one in [*self._pixels.copies(), *self._weights.copies()][part::parts]:
            one()

    def commit(self) -> None:
        """Closes the group of the step's copies, and goes on to the next step."""
        self._pixels.advance()
        self._weights.advance()
        self._writer.commit()


class _Pixels:
    """The gather: for each row of the tile, the channels of the pixel that a filter tap reads;
    zeros where there is none.

    `pixel_chunks` threads copy a row, each the same chunk of every `row_step`-th row. So all rows
    of a thread are at the same tap and channel. A row keeps where it begins in the image, and one
    bit for each tap that reads inside the image.
    """

    def __init__(self, block: Block, writer: AsyncWriter) -> None:
        self.block, self.plan, self.w, self.writer = block, block.plan, block.plan.w, writer
        config, gemm, chunks = self.plan.config, self.plan.gemm, self.plan.pixel_chunks
        self.row_step = config.threads // chunks
        self.rows = config.tile.m // self.row_step
        #: True where a tap can read outside the image, or a row lie past the last one.
        self.masked = (
            self.w.r * self.w.s > 1
            or any(self.w.padding)
            or gemm.m_pad > gemm.m
            or self.plan.ends_within
        )
        first = bind("first", block.thread.number // chunks)
        self.chunk = bind("chunk", block.thread.number % chunks)
        self.source = Registers.array("source", (self.rows,), "int32")
        self.taps = Registers.array("taps", (self.rows,), "uint32")
        self.target = Registers.array("target", (self.rows,), "uint32")
        for j in range(self.rows):
            self._prepare(j, first + j * self.row_step)
        self._begin()

    @property
    def _channel(self) -> Index:
        """First channel of the thread's chunk, in its fragment."""
        return self.chunk % self.plan.fragment_chunks * self.plan.vector

    def _prepare(self, j: int, row: Expr) -> None:
        """Works out where the row begins in the image, its valid taps, and where it goes."""
        w, plan = self.w, self.plan
        m = bind("m", self.block.m + row)
        n, p, q = pixel(w, m)
        h = bind("h", p * w.stride[0] - w.padding[0])
        v = bind("v", q * w.stride[1] - w.padding[1])
        channel = self.block.group * w.group_c + self._channel
        self.source[j] = ((n * w.h + h) * w.w + v) * w.c + channel
        if self.masked:
            self.taps[j] = self._valid_taps(m, h, v)
        column = swizzled(row, self.chunk, plan.pixel_chunks) * plan.vector
        to = plan.memory["pixels"].at(0, row, column)
        self.target[j] = self.block.shared.address + T.cast(to, "uint32")

    def _valid_taps(self, m: Expr, h: Expr, v: Expr) -> Expr:
        """One bit for each filter tap that reads inside the image; none past the last row."""
        w, gemm, zero = self.w, self.plan.gemm, T.uint32(0)
        columns = zero
        for s in range(w.s):
            at = v + s * w.dilation[1]
            columns |= T.Select(tirx.all(at >= 0, at < w.w), T.uint32(1 << s), zero)
        columns, valid = bind("columns", columns), zero
        for r in range(w.r):
            at = h + r * w.dilation[0]
            valid |= T.Select(tirx.all(at >= 0, at < w.h), columns << T.uint32(r * w.s), zero)
        return T.Select(m < gemm.m, valid, zero) if gemm.m_pad > gemm.m else valid

    def _begin(self) -> None:
        """The tap and the channel of the fragment that the thread copies first."""
        block, plan = self.block, self.plan
        chunk = self.chunk // plan.fragment_chunks
        fragment = bind("fragment", block.first_step * plan.config.chunk + chunk)
        self.tap = Variable("tap", fragment // plan.tap_fragments)
        self.column = Variable("column", self.tap.value % self.w.s)
        self.i = Variable("i", fragment % plan.tap_fragments * plan.depth)
        self.moved = Variable("moved", self._moved(self.tap.value) + self.i.value)
        self.bit = Variable("bit", T.uint32(1) << T.cast(self.tap.value, "uint32"))

    def _moved(self, tap: Index) -> Index:
        """Elements from a row's beginning in the image to what a filter tap reads."""
        w = self.w
        return (tap // w.s * w.dilation[0] * w.w + tap % w.s * w.dilation[1]) * w.c

    def advance(self) -> None:
        """On to the fragment of the next step, which may be another tap's."""
        step, inside = self.plan.tile.i, self.plan.gemm.i_pad
        if self.w.r * self.w.s == 1 and not self.plan.ends_within:
            self.i.set(self.i.value + step)
            self.moved.set(self.moved.value + step)
            return
        i = bind("next_i", self.i.value + step)
        if step > inside:
            self._advance_by_taps(i, inside)
        else:
            self._advance_within(i, step, inside)

    def _advance_by_taps(self, i: Expr, inside: int) -> None:
        """A step is longer than a tap: several taps on."""
        tap = bind("next_tap", self.tap.value + i // inside)
        self.i.set(i % inside)
        self.tap.set(tap)
        self.moved.set(self._moved(tap) + self.i.value)
        self.bit.set(T.uint32(1) << T.cast(tap, "uint32"))

    def _advance_within(self, i: Expr, step: int, inside: int) -> None:
        """A step is no longer than a tap: the same tap, or the next one, perhaps of the next row of
        the filter. Selected, not divided."""
        w = self.w
        over = bind("over", i >= inside)
        column = bind("next_column", self.column.value + T.Select(over, 1, 0))
        row_over = bind("row_over", column >= w.s)
        moved = self.moved.value + T.Select(over, step - inside + w.dilation[1] * w.c, step)
        row = (w.dilation[0] * w.w - w.s * w.dilation[1]) * w.c
        self.moved.set(moved + T.Select(row_over, row, 0))
        self.column.set(T.Select(row_over, 0, column))
        self.i.set(T.Select(over, i - inside, i))
        self.bit.set(self.bit.value << T.Select(over, T.uint32(1), T.uint32(0)))
        if self.plan.ends_within:
            self.tap.set(self.tap.value + T.Select(over, 1, 0))

    def copies(self) -> list[Copy]:
        """The thread's copies of the step."""
        to = bind("to", self.target[0] + self.writer.offset)
        return [partial(self._copy, j, to) for j in range(self.rows)]

    def _copy(self, j: int, to: Expr) -> None:
        """The chunk of the thread's j-th row. to: where that of its first row goes."""
        offset = self.plan.memory["pixels"].stride(2) * j * self.row_step
        if self.row_step % SWIZZLE_ROWS:  # it is swizzled otherwise than the first row
            to, offset = self.target[j] + self.writer.offset, 0
        source = T.address_of(self.block.operands[X][self.source[j] + self.moved.value])
        ptx.cp_async(
            ptx.offset(to, offset), source, CHUNK_BYTES, skip=self._outside(j), prefetch=True
        )

    def _outside(self, j: int) -> Expr | None:
        """The condition under which the j-th row's chunk is zeros; None where it never is."""
        outside = []
        if self.masked:
            outside.append(tirx.EQ(self.taps[j] & self.bit.value, T.uint32(0)))
        if self.plan.ends_within:
            outside.append(self.tap.value >= self.plan.gemm.reduction.outer)
        if self.plan.gemm.i_pad > self.w.group_c:
            outside.append(self.i.value + self._channel >= self.w.group_c)
        return tirx.any(*outside) if outside else None


@dataclass(frozen=True)
class _Place:
    """A chunk of packed weights: its address, where it goes, its row of tiles."""

    source: Expr
    to: Expr
    row: Expr


class _Weights:
    """Rows of packed tiles, one row for each fragment of the reduction.

    A tile has 16 rows of two chunks, swizzled: chunks 0 to 7 lie in order, 8 to 15 swapped in
    pairs (9, 8, 11, 10, ...), and so on.
    """

    def __init__(self, block: Block, writer: AsyncWriter) -> None:
        self.block, self.plan, self.writer = block, block.plan, writer
        config, tile, vector = self.plan.config, self.plan.tile, self.plan.vector
        #: Elements of a row of tiles in memory, and the chunks of a row that the block takes.
        self.row_elements = self.plan.gemm.weight_columns * self.plan.depth
        self.across = tile.k * self.plan.depth // vector
        self.count = tile.i * tile.k // vector // config.threads
        self.row = Variable("row", block.first_step * config.chunk)
        row = block.group * self.plan.fragments + self.row.value
        self.first = Variable("first", row * self.row_elements + block.k * self.plan.depth)

    def advance(self) -> None:
        """On to the rows of the next step."""
        chunk = self.plan.config.chunk
        self.row.set(self.row.value + chunk)
        self.first.set(self.first.value + chunk * self.row_elements)

    def copies(self) -> list[Copy]:
        """The thread's copies of the step."""
        number, threads = self.block.thread.number, self.plan.config.threads
        if threads % self.across and self.across % threads:
            places = [self._place(number + j * threads) for j in range(self.count)]
            return [partial(self._copy, place, 0, 0) for place in places]
        # Whole rows of tiles, or whole parts of one: all copies of a thread look alike.
        first = self._place(number)
        return [
            partial(self._copy, first, *divmod(j * threads, self.across)) for j in range(self.count)
        ]

    def _place(self, number: Expr) -> _Place:
        """The `number`-th chunk of the step."""
        plan, row, rest = self.plan, number // self.across, number % self.across
        tile_chunks = FRAGMENT * plan.fragment_chunks
        tile, chunk = rest // tile_chunks, rest % tile_chunks
        chunk = swizzled(chunk // plan.fragment_chunks, chunk, plan.fragment_chunks)
        to = plan.memory["weights"].at(0, row, tile) + chunk * CHUNK_BYTES
        source = self.first.value + row * self.row_elements + rest * plan.vector
        return _Place(
            bind("source", T.address_of(self.block.operands[WEIGHT][source])),
            bind("to", self.block.shared.address + T.cast(to, "uint32") + self.writer.offset),
            self.row.value + row,
        )

    def _copy(self, place: _Place, rows: int, chunks: int) -> None:
        """The copy so many rows and chunks past a place; zeros past the end of the reduction."""
        size = self.plan.operand.bytes
        past = place.row + rows >= self.plan.fragments if self.plan.ends_within else None
        to = self.plan.memory["weights"].stride(2) * rows + chunks * CHUNK_BYTES
        source = rows * self.row_elements * size + chunks * CHUNK_BYTES
        ptx.cp_async(
            ptx.offset(place.to, to),
            ptx.offset(place.source, source),
            CHUNK_BYTES,
            skip=past,
            prefetch=True,
        )
