"""The copies of the mma.sync kernel: from memory to shared memory, 16 bytes at a time.

What a thread needs to know of where its copies come from and go to is worked out once, before the
loop. From step to step it only moves on, by additions: the loop has few instructions that are not
multiplications.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.conv.gemm import Gemm, pixel
from schedules.conv.workload import ConvWorkload
from schedules.families.mma_sync.build import VECTOR, Parameters, Thread, bind, local, ptx
from schedules.families.mma_sync.config import MmaSyncConfig, fragments_i, stage_halves

COPY = "cp.async.cg.shared.global.L2::128B"


def turned(config: MmaSyncConfig, row: Any, chunk: Any) -> Any:
    """Which 16 bytes of its row in shared memory the 16 bytes numbered `chunk` take, so that eight
    rows below each other lie in different banks."""
    across = config.tile.i // VECTOR
    return chunk ^ (row // max(1, VECTOR // across) % min(VECTOR, across))


class Counter:
    """A variable of a thread, kept in a register."""

    def __init__(self, name: str, value: Any, dtype: str = "int32") -> None:
        self.buffer = local(name, (1,), dtype)
        self.set(value)

    @property
    def value(self) -> Any:
        return self.buffer[0]

    def set(self, value: Any) -> None:
        T.buffer_store(self.buffer, value, [0])


class Ring:
    """Which stage is in turn, as an offset in bytes."""

    def __init__(self, name: str, config: MmaSyncConfig, first: int) -> None:
        self.bytes = stage_halves(config) * 2
        self.end = config.stages * self.bytes
        self.counter = Counter(name, T.uint32(first * self.bytes), "uint32")

    @property
    def offset(self) -> Any:
        return self.counter.value

    def advance(self) -> None:
        last = tirx.EQ(self.offset, T.uint32(self.end - self.bytes))
        self.counter.set(T.Select(last, T.uint32(0), self.offset + T.uint32(self.bytes)))


class Copies:
    """All copies of a step: the gather's, and the weights'."""

    def __init__(
        self,
        w: ConvWorkload,
        gemm: Gemm,
        config: MmaSyncConfig,
        thread: Thread,
        parameters: Parameters,
        start: Any,
        begin: Any,
    ) -> None:
        self.stage = Ring("written", config, 0)
        self.gather = _Gather(w, gemm, config, thread, parameters.x, start, begin, self.stage)
        self.weights = _Weights(gemm, config, thread, parameters.weight, start, begin, self.stage)

    def copy(self, part: int, parts: int) -> None:
        """One part in `parts` of a step."""
        for one in [*self.gather.parts(), *self.weights.parts()][part::parts]:
            one()

    def advance(self) -> None:
        """On to the next step."""
        self.gather.advance()
        self.weights.advance()
        self.stage.advance()


class _Gather:
    """Of each row of the tile, the channels of the pixel that a filter tap reads; zeros where
    there is none."""

    def __init__(
        self,
        w: ConvWorkload,
        gemm: Gemm,
        config: MmaSyncConfig,
        thread: Thread,
        x: Any,
        start: Any,
        begin: Any,
        stage: Ring,
    ) -> None:
        self.w, self.gemm, self.config, self.x, self.stage = w, gemm, config, x, stage
        across = config.tile.i // VECTOR
        self.rows_apart = config.threads // across
        self.rows = config.tile.m // self.rows_apart
        self.partial = fragments_i(gemm) % config.chunk > 0
        self.masked = w.r * w.s > 1 or any(w.padding) or gemm.m_pad > gemm.m or self.partial
        first = bind("first", thread.number // across)
        self.chunk = bind("chunk", thread.number % across)
        self.source = local("source", (self.rows,), "int32")
        self.taps = local("taps", (self.rows,), "uint32")
        self.target = local("target", (self.rows,), "uint32")
        for j in range(self.rows):
            self._row(thread, j, first + j * self.rows_apart, start)
        self._begin(begin)

    def _row(self, thread: Thread, j: int, row: Any, start: Any) -> None:
        """Where the row begins in the image, which taps of it are inside, where it goes."""
        w = self.w
        m = bind("m", thread.m + row)
        n, p, q = pixel(w, m)
        h = bind("h", p * w.stride[0] - w.padding[0])
        v = bind("v", q * w.stride[1] - w.padding[1])
        channel = thread.group * w.group_c + self.chunk % 2 * VECTOR
        T.buffer_store(self.source, ((n * w.h + h) * w.w + v) * w.c + channel, [j])
        if self.masked:
            T.buffer_store(self.taps, self._valid_taps(m, h, v), [j])
        here = row * self.config.tile.i + turned(self.config, row, self.chunk) * VECTOR
        T.buffer_store(self.target, start + T.cast(here * 2, "uint32"), [j])

    def _valid_taps(self, m: Any, h: Any, v: Any) -> Any:
        """One bit for each filter tap that reads inside the image; none past the last row."""
        w, zero = self.w, T.uint32(0)
        columns = zero
        for s in range(w.s):
            at = v + s * w.dilation[1]
            columns |= T.Select(tirx.all(at >= 0, at < w.w), T.uint32(1 << s), zero)
        columns, valid = bind("columns", columns), zero
        for r in range(w.r):
            at = h + r * w.dilation[0]
            valid |= T.Select(tirx.all(at >= 0, at < w.h), columns << T.uint32(r * w.s), zero)
        return T.Select(m < self.gemm.m, valid, zero) if self.gemm.m_pad > self.gemm.m else valid

    def _begin(self, begin: Any) -> None:
        """The tap and the channel of the fragment that the thread copies first."""
        in_tap = self.gemm.i_pad // 16
        fragment = bind("fragment", begin * self.config.chunk + self.chunk // 2)
        self.tap = Counter("tap", fragment // in_tap)
        self.column = Counter("column", self.tap.value % self.w.s)
        self.i = Counter("i", fragment % in_tap * 16)
        self.moved = Counter("moved", self._moved(self.tap.value) + self.i.value)
        self.bit = Counter("bit", T.uint32(1) << T.cast(self.tap.value, "uint32"), "uint32")

    def _moved(self, tap: Any) -> Any:
        """How far from a row's beginning in the image a filter tap reads."""
        w = self.w
        return (tap // w.s * w.dilation[0] * w.w + tap % w.s * w.dilation[1]) * w.c

    def advance(self) -> None:
        """To the fragment of the next step, which may be of another tap."""
        step, inside = self.config.tile.i, self.gemm.i_pad
        if self.w.r * self.w.s == 1 and not self.partial:
            self.i.set(self.i.value + step)
            self.moved.set(self.moved.value + step)
            return
        i = bind("next_i", self.i.value + step)
        if step > inside:  # several taps on
            tap = bind("next_tap", self.tap.value + i // inside)
            self.i.set(i % inside)
            self.tap.set(tap)
            self.moved.set(self._moved(tap) + self.i.value)
            self.bit.set(T.uint32(1) << T.cast(tap, "uint32"))
            return
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
        if self.partial:
            self.tap.set(self.tap.value + T.Select(over, 1, 0))

    def parts(self) -> list[Callable[[], None]]:
        to = bind("to", self.target[0] + self.stage.offset)
        return [partial(self._copy, j, to) for j in range(self.rows)]

    def _copy(self, j: int, to: Any) -> None:
        offset = j * self.rows_apart * self.config.tile.i * 2
        if self.rows_apart % VECTOR:  # its row is turned otherwise than the first
            to, offset = self.target[j] + self.stage.offset, 0
        outside = [tirx.EQ(self.taps[j] & self.bit.value, T.uint32(0))] * self.masked
        outside += [self.tap.value >= self.gemm.reduction.outer] * self.partial
        if self.gemm.i_pad > self.w.group_c:
            outside += [self.i.value + self.chunk % 2 * VECTOR >= self.w.group_c]
        source = T.address_of(self.x[self.source[j] + self.moved.value])
        zero = [T.ptx.pred(tirx.any(*outside))] if outside else []
        ptx(COPY, T.ptx.addr(to, offset), source, 16, *zero)


class _Weights:
    """Rows of packed 16 x 16 tiles, one row for each 16 of i. Which half of its row of a tile 16
    bytes take is turned, against bank conflicts."""

    def __init__(
        self,
        gemm: Gemm,
        config: MmaSyncConfig,
        thread: Thread,
        weight: Any,
        start: Any,
        begin: Any,
        stage: Ring,
    ) -> None:
        self.gemm, self.config, self.weight, self.stage = gemm, config, weight, stage
        self.thread, self.start = thread, start
        self.rows, self.row_halves = fragments_i(gemm), gemm.weight_columns * 16
        self.across = config.tile.k * 16 // VECTOR
        self.count = config.tile.i * config.tile.k // VECTOR // config.threads
        self.row = Counter("row", begin * config.chunk)
        of_group = thread.group * self.rows + self.row.value
        self.first = Counter("first", of_group * self.row_halves + thread.k * 16)

    def advance(self) -> None:
        self.row.set(self.row.value + self.config.chunk)
        self.first.set(self.first.value + self.config.chunk * self.row_halves)

    def parts(self) -> list[Callable[[], None]]:
        first = self._place(self.thread.number)
        threads = self.config.threads
        # Whole rows of tiles, or whole parts of one: then all copies of a thread look alike.
        if threads % self.across and self.across % threads:
            return [
                partial(self._copy, self._place(self.thread.number + j * threads), 0, 0)
                for j in range(self.count)
            ]
        return [
            partial(self._copy, first, *divmod(j * threads, self.across)) for j in range(self.count)
        ]

    def _place(self, number: Any) -> tuple[Any, Any, Any]:
        """Of the copy with that number: where from, where to, in which row."""
        tile = self.config.tile
        row, rest = number // self.across, number % self.across
        in_tile = rest % 32 ^ rest % 32 // 8 % 2
        here = tile.m * tile.i + row * tile.k * 16 + rest // 32 * 256 + in_tile * VECTOR
        source = self.first.value + row * self.row_halves + rest * VECTOR
        return (
            bind("source", T.address_of(self.weight[source])),
            bind("to", self.start + T.cast(here * 2, "uint32") + self.stage.offset),
            self.row.value + row,
        )

    def _copy(self, place: tuple[Any, Any, Any], rows_on: int, pieces_on: int) -> None:
        """The copy so many rows and pieces of 16 bytes past a place."""
        source, to, row = place
        past = []
        if self.rows % self.config.chunk:
            past = [T.ptx.pred(row + rows_on >= self.rows)]
        here = (rows_on * self.config.tile.k * 16 + pieces_on * VECTOR) * 2
        there = (rows_on * self.row_halves + pieces_on * VECTOR) * 2
        ptx(COPY, T.ptx.addr(to, here), T.ptx.addr(source, there), 16, *past)
