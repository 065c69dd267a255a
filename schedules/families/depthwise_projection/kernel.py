"""The kernel of `depthwise_projection`, step by step; its family says how it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from schedules.conv.signature import BIAS, PROLOGUE, RESIDUAL, WEIGHT, X, Y
from schedules.conv.workload import Epilogue
from schedules.expressions.compute import finished
from schedules.families.depthwise_projection.config import DEPTH, Geometry
from schedules.families.depthwise_projection.copies import Copies, Lane, grid
from schedules.threads.gpu_lanes import GpuLanes

#: fp32's smallest number, which fp16 rounds to zero. A GPU has one instruction for the larger of it
#: and another number, and two for that of zero, because of zero's sign.
LEAST = 2.0**-149


def between(epilogue: Epilogue) -> Epilogue:
    """What is left to do of a prologue's, whose bias is in the sums, before it is rounded."""
    activation = epilogue.activation
    if activation.kind == "clip" and activation.parameters[0] == 0:
        activation = replace(activation, parameters=(LEAST, activation.parameters[1]))
    return replace(epilogue, activation=activation)


class Kernel:
    """Writes the kernel of one geometry; each method emits one step of all threads."""

    def __init__(self, geometry: Geometry) -> None:
        self.g, self.w, self.config = geometry, geometry.w, geometry.config
        self.first = geometry.first
        self.lanes = GpuLanes(self.config.threads, self.config.resident)

    def function(self) -> tirx.PrimFunc:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            x, taps, weight = self._parameters()
            with self.lanes.blocks(self.g.blocks) as block:
                self._allocate()
                self.copies = Copies(self.g, self.lanes, self.shared, x, taps, weight)
                self._kernel(block)
        return builder.get()

    def _parameters(self) -> tuple[Any, Any, Any]:
        """Declares them; gives those that are copied to shared memory."""
        found = {
            one.name: T.arg(one.name, T.buffer(one.shape, one.dtype)) for one in self.g.signature
        }
        self.bias, self.residual = (found.get(name) for name in (BIAS, RESIDUAL))
        self.y = found[Y]
        return found[X], found[PROLOGUE], found[WEIGHT]

    def _allocate(self) -> None:
        g, new = self.g, self.lanes.registers
        self.shared = self.lanes.shared(g.shared_bytes // 4)
        self.place = new((g.loads,), "int32")
        self.diagonal = new((1,), "uint32")
        self.pixels = new((4 * g.loads,), "uint32")
        self.filter = new((g.filter_halves // 2,), "uint32")
        self.diagonals = new((4 * g.spans * g.first.s,), "uint32")
        self.products = new((g.fragments, 4), "float32")
        self.turned = new((g.fragments, 2), "uint32")
        self.between = new((g.fragments, 4), "uint32")
        self.columns = new((2 * g.pair,), "uint32")
        self.sums = new((g.fragments, g.columns, 4), "float32")
        self.last_bias = new((2 * g.columns,), "float32")
        self.others = new((2 * g.run,), "float16")
        self.result = new((2 * g.run,), "float16")

    def _kernel(self, block: Any) -> None:
        g = self.g
        self._number_rows()
        with self._each(), grid(self.lanes, g.fragments, g.columns, 4) as index:
            self.sums.set(T.float32(0), *index)
        for chunk in range(max(g.stages - 1, 1)):
            self.copies.copy(block, chunk, chunk)
            self.lanes.commit()
        with T.serial(g.chunks) as chunk:
            self.lanes.wait(max(g.stages - 2, 0))
            if g.stages > 1:
                after = chunk + g.stages - 1
                with T.If(after < g.chunks), T.Then():
                    self.copies.copy(block, after, after % g.stages)
                self.lanes.commit()
            with T.serial(self.config.chunk // self.config.deep) as step:
                self._multiply(chunk % g.stages * g.stage_halves, step)
        if self.config.deep > 1:
            self._add_up()
        self._write(block)

    @contextmanager
    def _each(self) -> Iterator[Lane]:
        with self.lanes.each() as thread:
            yield Lane.of(thread, self.config)

    def _number_rows(self) -> None:
        """Where in a stage the row of pixels lies that a thread names to each load, and which of a
        matrix's halves that it has lie on the diagonal."""
        g, first = self.g, self.first
        last = (self.config.rows - 1) * first.stride[0] + first.r - 1
        with self._each() as lane, self.lanes.loop(g.loads) as load:
            # Past the last matrix, or row, there is any, which meets zeros or nothing.
            matrix = tirx.min(load * 4 + lane.lane // 8, g.matrices - 1)
            row = lane.down * first.stride[0] + tirx.min(matrix % g.patch_rows, last)
            column = (lane.across + lane.lane % 8) * first.stride[1] + matrix // g.patch_rows
            self.place.set(row * g.patch_pitch + g.position(column) * g.pitch, load)
        with self._each() as lane:
            even = T.Select(lane.row == 2 * lane.pair, T.uint32(0x0000FFFF), T.uint32(0))
            mask = T.Select(lane.row == 2 * lane.pair + 1, T.uint32(0xFFFF0000), even)
            self.diagonal.set(mask, 0)

    # -------------------------------------------------------- the sums

    def _multiply(self, stage: Any, step: Any) -> None:
        """16 channels: the prologue's of every pixel, and their part of the convolution's sums."""
        g, deep = self.g, self.config.deep

        def mine(lane: Lane) -> Any:
            """The step of the chunk that is a warp's."""
            return step * deep + lane.deep

        with self.lanes.loop(2) as half:
            self._load_pixels(stage, mine, half)
            self._load_filter(stage, mine, half)
            self._depthwise()
            self._between(half)
        with self.lanes.loop(g.columns // g.pair) as number:
            self._load_weights(stage, mine, number)
            with grid(self.lanes, g.pair, g.fragments) as (one, fragment):
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
        with self.lanes.loop(self.g.loads) as load:

            def row() -> Any:
                lane = Lane.of(self.lanes.thread, self.config)
                return stage + mine(lane) * DEPTH + half * 8 + self.place[load]

            self.lanes.load_matrices(self.pixels, lambda i: (load * 4 + i,), self.shared, row)

    def _load_filter(self, stage: Any, mine: Any, half: Any) -> None:
        """Filters as first operands: of two output rows and two input rows each the diagonal matrix
        of the tap between them, if there is one."""
        g, first = self.g, self.first
        words = g.filter_halves // 2
        with self._each() as lane:
            base = (stage + g.patch_halves) // 2 + (mine(lane) * DEPTH + half * 8) * words
            with self.lanes.loop(words // 4) as number:
                at = base + lane.row * words + number * 4
                with T.vectorized(4) as v:
                    self.filter.set(self.shared[at + v], number * 4 + v)
            for s in range(first.s):
                for span in range(g.spans):
                    for i in range(4):
                        r = span * 2 + i // 2 - i % 2 * first.stride[0]
                        word = T.uint32(0)
                        if 0 <= r < first.r:
                            word = self.filter[r * first.s + s] & self.diagonal[0]
                        self.diagonals.set(word, (s * g.spans + span) * 4 + i)

    def _depthwise(self) -> None:
        """Of 8 channels: sums of two rows of 8 pixels, two input rows an instruction."""
        g, first = self.g, self.first
        with self._each(), grid(self.lanes, g.fragments, 4) as index:
            bias = T.float32(0)
            if first.epilogue.bias:
                bias = T.reinterpret("float32", self.filter[g.filter_halves // 2 - 1])
            self.products.set(bias, *index)
        for s in range(first.s):
            for span in range(g.spans):
                with self.lanes.loop(g.fragments) as fragment:
                    self._add_taps(fragment, s, span)

    def _add_taps(self, fragment: Any, s: int, span: int) -> None:
        g = self.g
        row = (fragment * self.first.stride[0] + span) * 2
        self.lanes.mma(
            self.products,
            self.diagonals,
            self.pixels,
            lambda i: (fragment, i),
            lambda i: ((s * g.spans + span) * 4 + i,),
            lambda i: (s * g.patch_rows + row + i,),
        )

    def _between(self, half: Any) -> None:
        """The prologue's results, channels by pixels, turned round to be the next first operand."""
        g = self.g
        first = replace(self.first, epilogue=between(self.first.epilogue))
        with self._each(), grid(self.lanes, g.fragments, 4) as (fragment, i):
            value = finished(first, self.products[fragment, i], None, None, None)
            self.turned.set_halves(value, fragment, i)
        with grid(self.lanes, g.fragments, 2) as (fragment, i):
            self.lanes.transpose(self.between, (fragment, half * 2 + i), self.turned, (fragment, i))

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

        def place(lane: Lane, deep: Any, fragment: Any, column: Any, i: Any) -> Any:
            number = (fragment * g.columns + column) * 4 + i
            return ((deep * tiles + lane.tile) * each + number) * 32 + lane.lane

        self.lanes.barrier()
        parts: tuple[int, ...] = (g.fragments, g.columns, 4)
        with self._each() as lane, T.If(lane.deep > 0), T.Then(), grid(self.lanes, *parts) as index:
            word = T.reinterpret("uint32", self.sums[index])
            self.shared.set(word, place(lane, lane.deep - 1, *index))
        self.lanes.barrier()
        parts = (config.deep - 1, *parts)
        with (
            self._each() as lane,
            T.If(lane.deep == 0),
            T.Then(),
            grid(self.lanes, *parts) as index,
        ):
            word = self.shared[place(lane, *index)]
            total = self.sums[index[1:]] + T.reinterpret("float32", word)
            self.sums.set(total, *index[1:])

    def _write(self, block: Any) -> None:
        """Epilogue in registers; a thread's channels are adjacent, up to 16 bytes of them."""
        w, g = self.w, self.g
        n, p, q, part = self.copies.at(block)
        width, runs = 2 * g.run, g.columns // g.run

        def channel(lane: Lane, run: Any) -> Any:
            return part * (g.columns * 8) + run * (width * 4) + lane.pair * width

        with self._each() as lane, T.If(lane.deep == 0), T.Then():
            if self.bias is not None:
                with grid(self.lanes, runs, g.run) as (run, two), T.vectorized(2) as v:
                    value = self.bias[channel(lane, run) + two * 2 + v]
                    self.last_bias.set(value, run * width + two * 2 + v)
            with grid(self.lanes, g.fragments, 2, runs) as (fragment, eight, run):
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
        with self.lanes.loop(width) as i:
            bias = None if self.bias is None else self.last_bias[run * width + i]
            residual = None if self.residual is None else self.others[i]
            total = self.sums[fragment, run * g.run + i // 2, eight * 2 + i % 2]
            self.result.set(finished(w, total, bias, None, residual), i)
        with T.vectorized(width) as v:
            T.buffer_store(self.y, self.result[v], [*pixel, k + v])
