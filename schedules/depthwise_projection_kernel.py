"""The kernel of `depthwise_projection`, step by step; its family says how it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from schedules.compute import Operands, finish
from schedules.depthwise_projection_config import (
    ACROSS,
    DEPTH,
    VECTOR,
    DepthwiseProjectionConfig,
    Geometry,
)
from schedules.lanes import lanes
from schedules.workload import ceil_div


@dataclass(frozen=True)
class _Lane:
    """A thread's place. `row` and `pair` are its row and pair of the instruction's operands."""

    thread: Any
    lane: Any
    #: Which of the warps with the same channels, and which of those with the same pixels.
    tile: Any
    deep: Any
    #: First output row and column of its warp, in the block's tile.
    down: Any
    across: Any
    row: Any
    pair: Any

    @classmethod
    def of(cls, thread: Any, config: DepthwiseProjectionConfig) -> _Lane:
        warp, lane = thread // 32, thread % 32
        pixels = config.down * config.across
        tile = warp % pixels
        down, across = tile // config.across * config.rows, tile % config.across * ACROSS
        return cls(thread, lane, tile, warp // pixels, down, across, lane // 4, lane % 4)


class Kernel:
    """Writes the kernel of one geometry; each method emits one step of all threads."""

    def __init__(self, geometry: Geometry, kind: str) -> None:
        self.g, self.w, self.config = geometry, geometry.w, geometry.config
        self.first = geometry.first
        self.lanes = lanes(kind, self.config.threads, self.config.resident)

    def function(self) -> tirx.PrimFunc:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            self._parameters()
            with self.lanes.blocks(self.g.blocks) as block:
                self._allocate()
                self._kernel(block)
        return builder.get()

    def _parameters(self) -> None:
        w, epilogue = self.w, self.w.epilogue
        self.x = T.arg("x", T.buffer(w.in_shape, "float16"))
        self.taps = T.arg("taps", T.buffer(self.g.filter_shape, "float16"))
        self.weight = T.arg("weight", T.buffer(self.g.weight_shape, "float16"))
        self.bias = T.arg("bias", T.buffer((w.k,), "float32")) if epilogue.bias else None
        self.residual = (
            T.arg("residual", T.buffer(w.residual_shape, "float16")) if epilogue.residual else None
        )
        self.y = T.arg("y", T.buffer(w.out_shape, "float16"))

    def _allocate(self) -> None:
        g, new = self.g, self.lanes.registers
        self.shared = self.lanes.shared(g.shared_bytes // 4)
        self.place = new((g.loads,), "int32")
        self.diagonal = new((1,), "uint32")
        self.pixels = new((4 * g.loads,), "uint32")
        self.filter = new((g.filter_halves // 2,), "uint32")
        self.first_bias = new((2,), "float32")
        self.products = new((4,), "float32")
        self.between = new((g.fragments, 4), "uint32")
        self.columns = new((2 * g.pair,), "uint32")
        self.sums = new((g.fragments, g.columns, 4), "float32")
        self.last_bias = new((2 * g.columns,), "float32")
        self.others = new((2 * g.run,), "float16")
        self.result = new((2 * g.run,), "float16")

    def _kernel(self, block: Any) -> None:
        g = self.g
        self._number_rows()
        with self._each(), self._grid(g.fragments, g.columns, 4) as index:
            self.sums.set(T.float32(0), *index)
        for chunk in range(max(g.stages - 1, 1)):
            self._copy(block, chunk, chunk)
        with T.serial(g.chunks) as chunk:
            self.lanes.wait(max(g.stages - 2, 0))
            if g.stages > 1:
                after = chunk + g.stages - 1
                with T.If(after < g.chunks), T.Then():
                    self._copy_stage(block, after, after % g.stages)
                self.lanes.commit()
            with T.serial(self.config.chunk // self.config.deep) as step:
                self._multiply(chunk % g.stages * g.stage_halves, step)
        if self.config.deep > 1:
            self._add_up()
        self._write(block)

    @contextmanager
    def _each(self) -> Iterator[_Lane]:
        with self.lanes.each() as thread:
            yield _Lane.of(thread, self.config)

    @contextmanager
    def _grid(self, *counts: int) -> Iterator[tuple[Any, ...]]:
        """Nested loops over registers."""
        with ExitStack() as stack:
            yield tuple(stack.enter_context(self.lanes.loop(count)) for count in counts)

    @contextmanager
    def _shared_out(self, count: int) -> Iterator[Any]:
        """The numbers below `count`, shared out among the threads."""
        threads = self.config.threads
        with self._each() as lane, self._grid(ceil_div(count, threads)) as (turn,):
            number = turn * threads + lane.thread
            if count % threads:
                with T.If(number < count), T.Then():
                    yield number
            else:
                yield number

    # -------------------------------------------------------- before the sums

    def _at(self, block: Any) -> tuple[Any, Any, Any, Any]:
        """Image, first output row and column of a block's tile, and its part of the channels."""
        _, down, across = self.g.tiles
        tile, part = block // self.config.parts, block % self.config.parts
        return (
            tile // (down * across),
            tile // across % down * self.g.tile[0],
            tile % across * self.g.tile[1],
            part,
        )

    def _number_rows(self) -> None:
        """Where in a stage the row of pixels lies that a thread names to each load, and which of a
        filter's halves lie on the diagonal."""
        g, first = self.g, self.first
        with self._each() as lane, self._grid(g.loads) as (load,):
            # Past the last matrix there is any, which nobody reads.
            matrix = tirx.min(load * 4 + lane.lane // 8, g.matrices - 1)
            row = lane.down * first.stride[0] + matrix // first.s
            column = (lane.across + lane.lane % 8) * first.stride[1] + matrix % first.s
            self.place.set(row * g.patch_pitch + g.position(column) * g.pitch, load)
        with self._each() as lane:
            even = T.Select(lane.row == 2 * lane.pair, T.uint32(0x0000FFFF), T.uint32(0))
            mask = T.Select(lane.row == 2 * lane.pair + 1, T.uint32(0xFFFF0000), even)
            self.diagonal.set(mask, 0)

    def _copy(self, block: Any, chunk: Any, stage: Any) -> None:
        self._copy_stage(block, chunk, stage)
        self.lanes.commit()

    def _copy_stage(self, block: Any, chunk: Any, stage: Any) -> None:
        """The patch, the filters and the weights of a chunk of channels; zeros where there are no
        pixels or channels."""
        to = stage * self.g.stage_halves
        self._copy_patch(block, chunk, to)
        self._copy_weights(block, chunk, to + self.g.patch_halves)

    def _copy_patch(self, block: Any, chunk: Any, to: Any) -> None:
        g, first = self.g, self.first
        n, p, q, _ = self._at(block)
        rows, columns = g.patch
        vectors = self.config.chunk * DEPTH // VECTOR
        with self._shared_out(rows * columns * vectors) as number:
            vector, pixel = number % vectors, number // vectors
            row, column = pixel // columns, pixel % columns
            h = p * first.stride[0] - first.padding[0] + row
            v = q * first.stride[1] - first.padding[1] + column
            c = chunk * (self.config.chunk * DEPTH) + vector * VECTOR
            inside = tirx.all(h >= 0, h < first.h, v >= 0, v < first.w, c < first.c)
            here = to + row * g.patch_pitch + g.position(column) * g.pitch + vector * VECTOR
            self.lanes.copy(self.shared, here, lambda i: self.x[n, h, v, c + i], VECTOR, inside)

    def _copy_weights(self, block: Any, chunk: Any, to: Any) -> None:
        """Of the prologue, and after them those of the convolution."""
        g, chunks = self.g, self.config.chunk
        part = self._at(block)[3]
        length = g.filter_halves
        with self._shared_out(chunks * DEPTH * length // VECTOR) as number:
            at = number * VECTOR
            channel, half = chunk * (chunks * DEPTH) + at // length, at % length
            self.lanes.copy(
                self.shared, to + at, lambda i: self.taps[channel, half + i], VECTOR,
                channel < g.filter_shape[0],
            )  # fmt: skip
        to, length = to + chunks * DEPTH * g.filter_halves, g.step_halves
        with self._shared_out(chunks * length // VECTOR) as number:
            at = number * VECTOR
            step, half = chunk * chunks + at // length, part * length + at % length
            self.lanes.copy(
                self.shared, to + at, lambda i: self.weight[step, half + i], VECTOR, step < g.steps
            )

    # -------------------------------------------------------- the sums

    def _multiply(self, stage: Any, step: Any) -> None:
        """16 channels: the prologue's of every pixel, and their part of the convolution's sums."""
        g, deep = self.g, self.config.deep

        def mine(lane: _Lane) -> Any:
            """The step of the chunk that is a warp's."""
            return step * deep + lane.deep

        with self._grid(2) as (half,):
            self._load_pixels(stage, mine, half)
            self._load_filter(stage, mine, half)
            with self._grid(g.fragments) as (fragment,):
                self._depthwise(fragment, half)
        with self._grid(g.columns // g.pair) as (number,):
            self._load_weights(stage, mine, number)
            with self._grid(g.pair, g.fragments) as (one, fragment):
                self.lanes.mma(
                    self.sums,
                    self.between,
                    self.columns,
                    lambda i: (fragment, number * g.pair + one, i),
                    lambda i: (fragment, i),
                    lambda i: (one * 2 + i,),
                )

    def _load_pixels(self, stage: Any, mine: Any, half: Any) -> None:
        """All that the taps of a warp's pixels read of 8 channels, each 8 x 8 once."""
        with self._grid(self.g.loads) as (load,):

            def row() -> Any:
                lane = _Lane.of(self.lanes.thread, self.config)
                return stage + mine(lane) * DEPTH + half * 8 + self.place[load]

            self.lanes.load_matrices(self.pixels, lambda i: (load * 4 + i,), self.shared, row)

    def _load_filter(self, stage: Any, mine: Any, half: Any) -> None:
        """Filters as diagonal matrices, so that a product of matrices is one of each channel."""
        g = self.g
        words = g.filter_halves // 2
        with self._each() as lane:
            base = (stage + g.patch_halves) // 2 + (mine(lane) * DEPTH + half * 8) * words
            with self._grid(words // 4) as (number,):
                at = base + lane.row * words + number * 4
                with T.vectorized(4) as v:
                    self.filter.set(self.shared[at + v], number * 4 + v)
            with self._grid(words - 1) as (tap,):
                self.filter.set(self.filter[tap] & self.diagonal[0], tap)
            with self._grid(2) as (i,):
                word = self.shared[base + (lane.pair * 2 + i) * words + words - 1]
                self.first_bias.set(T.reinterpret("float32", word), i)

    def _depthwise(self, fragment: Any, half: Any) -> None:
        """Of 16 pixels and 8 channels: two taps an instruction, then the prologue's epilogue. Its
        sums are where the next product has its first operand."""
        g, first = self.g, self.first
        with self._each(), self._grid(4) as (i,):
            self.products.set(T.float32(0), i)
        with self._grid(ceil_div(g.taps, 2)) as (two,):

            def pixels(i: Any) -> tuple[Any]:
                # Past the last tap is a zero of the filter, and any pixels.
                tap = tirx.min(two * 2 + i // 2, g.taps - 1)
                row = (fragment * 2 + i % 2) * first.stride[0] + tap // first.s
                return (row * first.s + tap % first.s,)

            self.lanes.mma(
                self.products,
                self.pixels,
                self.filter,
                lambda i: (i,),
                pixels,
                lambda i: (two * 2 + i,),
            )
        operands = Operands(None, None, self.first_bias, None, None)
        if not first.epilogue.bias:
            operands = Operands(None, None, None, None, None)
        with self._each(), self._grid(4) as (i,):
            value = finish(first, operands, self.products[i], (0, 0, 0, i % 2))
            self.between.set_halves(value, fragment, (half * 2 + i // 2) * 2 + i % 2)

    def _load_weights(self, stage: Any, mine: Any, number: Any) -> None:
        """Of 8 output channels, or 16, as every lane multiplies them."""
        g = self.g
        words = 2 * g.pair
        start = g.patch_halves + self.config.chunk * DEPTH * g.filter_halves
        with self._each() as lane:
            at = (stage + start + mine(lane) * g.step_halves) // 2
            at = at + number * (32 * words) + lane.lane * words
            with T.vectorized(words) as v:
                self.columns.set(self.shared[at + v], v)

    # -------------------------------------------------------- after the sums

    def _add_up(self) -> None:
        """The sums of all warps that share pixels to the first of them, in the warps' order."""
        g, config = self.g, self.config
        each = g.fragments * g.columns * 4
        tiles = config.down * config.across

        def place(lane: _Lane, deep: Any, fragment: Any, column: Any, i: Any) -> Any:
            number = (fragment * g.columns + column) * 4 + i
            return ((deep * tiles + lane.tile) * each + number) * 32 + lane.lane

        self.lanes.barrier()
        parts: tuple[int, ...] = (g.fragments, g.columns, 4)
        with self._each() as lane, T.If(lane.deep > 0), T.Then(), self._grid(*parts) as index:
            word = T.reinterpret("uint32", self.sums[index])
            self.shared.set(word, place(lane, lane.deep - 1, *index))
        self.lanes.barrier()
        parts = (config.deep - 1, *parts)
        with self._each() as lane, T.If(lane.deep == 0), T.Then(), self._grid(*parts) as index:
            word = self.shared[place(lane, *index)]
            total = self.sums[index[1:]] + T.reinterpret("float32", word)
            self.sums.set(total, *index[1:])

    def _write(self, block: Any) -> None:
        """Epilogue in registers; a thread's channels are adjacent, up to 16 bytes of them."""
        w, g = self.w, self.g
        n, p, q, part = self._at(block)
        width, runs = 2 * g.run, g.columns // g.run

        def channel(lane: _Lane, run: Any) -> Any:
            return part * (g.columns * 8) + run * (width * 4) + lane.pair * width

        with self._each() as lane, T.If(lane.deep == 0), T.Then():
            if self.bias is not None:
                with self._grid(runs, g.run) as (run, two), T.vectorized(2) as v:
                    value = self.bias[channel(lane, run) + two * 2 + v]
                    self.last_bias.set(value, run * width + two * 2 + v)
            with self._grid(g.fragments, 2, runs) as (fragment, eight, run):
                line = p + lane.down + fragment * 2 + eight
                column = q + lane.across + lane.row
                at = (n, line, column, channel(lane, run))
                with T.If(tirx.all(line < w.p, column < w.q)), T.Then():
                    self._finish(at, fragment, eight, run)

    def _finish(self, at: tuple[Any, ...], fragment: Any, eight: Any, run: Any) -> None:
        w, g = self.w, self.g
        width = 2 * g.run
        *pixel, k = at
        if self.residual is not None:
            with T.vectorized(width) as v:
                self.others.set(self.residual[(*pixel, k + v)], v)
        with self._grid(width) as (i,):
            bias = None if self.bias is None else self.last_bias
            residual = None if self.residual is None else lambda *_: self.others[i]
            operands = Operands(None, None, bias, None, residual)
            total = self.sums[fragment, run * g.run + i // 2, eight * 2 + i % 2]
            self.result.set(finish(w, operands, total, (0, 0, 0, run * width + i)), i)
        with T.vectorized(width) as v:
            T.buffer_store(self.y, self.result[v], [*pixel, k + v])
