"""The kernel of `few_channels`, step by step; `schedules.families.few_channels.family` says how it
works."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from schedules.conv.activations import IDENTITY
from schedules.conv.signature import BIAS, SLOPE, WEIGHT, X, Y
from schedules.conv.workload import ceil_div
from schedules.expressions.compute import finished
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.geometry import GROUP, ROWS, Geometry
from schedules.threads.gpu_lanes import GpuLanes


@dataclass(frozen=True)
class Lane:
    """A thread's place. `row` and `pair` are its row and pair of the instruction's operands."""

    thread: Any
    lane: Any
    column: Any
    part: Any
    floor: Any
    row: Any
    pair: Any

    @classmethod
    def of(cls, thread: Any, config: FewChannelsConfig) -> Lane:
        warp, lane = thread // 32, thread % 32
        column, part = warp % config.across, warp // config.across % config.parts
        floor = warp // (config.across * config.parts)
        return cls(thread, lane, column, part, floor, lane // 4, lane % 4)


class Kernel:
    """Writes the kernel of one geometry; each method emits one step of all threads."""

    def __init__(self, geometry: Geometry) -> None:
        self.g, self.w, self.config = geometry, geometry.w, geometry.config
        self.lanes = GpuLanes(self.config.threads, self.config.resident)
        epilogue = self.w.epilogue
        #: Is left to the last, when two results are in a register: that rounds to the same.
        self.relu = epilogue.activation.kind == "relu"
        bare = replace(epilogue, activation=IDENTITY) if self.relu else epilogue
        self.bare = replace(self.w, epilogue=bare)

    def function(self) -> tirx.PrimFunc:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            self._parameters()
            with self.lanes.blocks(self.g.blocks) as block:
                self._allocate()
                self._kernel(block)
        return builder.get()

    def _parameters(self) -> None:
        found = {
            one.name: T.arg(one.name, T.buffer(one.shape, one.dtype)) for one in self.g.signature
        }
        self.x, self.weight, self.y = (found[name] for name in (X, WEIGHT, Y))
        self.bias, self.slope = (found.get(name) for name in (BIAS, SLOPE))

    def _allocate(self) -> None:
        g, down, new = self.g, self.config.down, self.lanes.registers
        self.patches = g.stages * g.copies * g.patch_words
        self.shared = self.lanes.shared(g.shared_bytes // 4)
        self.offset = new((2 * g.steps,), "int32")
        steps = g.steps if self.config.weights == "registers" else 1
        self.filter = new((steps, g.part_groups, 8), "uint32")
        self.pixels = new((4 * down,), "uint32")
        self.sums = new((down, g.part_groups, 4, 4), "float32")
        self.channels = [
            None if buffer is None else new((8 * g.part_groups,), "float32")
            for buffer in (self.bias, self.slope)
        ]
        self.result = new((4,), "uint32")

    def _kernel(self, block: Any) -> None:
        g = self.g
        total = math.prod(g.tiles)
        self._copy_patch(g.tile(block, 0), 0)
        self._load_filter()
        self.lanes.commit()
        self._load_channels()
        self._number_pairs()
        with T.serial(g.rounds) as turn:
            tile, stage = g.tile(block, turn), turn % g.stages
            self._await(turn)
            if g.copies == 2:
                self._shift_patch(stage)
            if g.rounds > 1:
                following = g.tile(block, turn + 1)
                with T.If(g.follows(following, turn)), T.Then():
                    self._copy_patch(following, (turn + 1) % 2)
                self.lanes.commit()
            if g.uneven:
                with T.If(tile < total), T.Then():
                    self._compute(tile, turn, stage)
            else:
                self._compute(tile, turn, stage)

    def _await(self, turn: Any) -> None:
        """Until the patch is there, and nobody reads the one before it."""
        self.lanes.wait()

    @contextmanager
    def _each(self) -> Iterator[Lane]:
        with self.lanes.each() as thread:
            yield Lane.of(thread, self.config)

    @contextmanager
    def _grid(self, *counts: int) -> Iterator[tuple[Any, ...]]:
        """Nested loops over registers."""
        with ExitStack() as stack:
            yield tuple(stack.enter_context(self.lanes.loop(count)) for count in counts)

    @contextmanager
    def _shared_out(self, count: int) -> Iterator[Any]:
        """The numbers below `count`, shared out among the threads."""
        with self._each() as lane, self._grid(ceil_div(count, self.config.threads)) as (turn,):
            number = turn * self.config.threads + lane.thread
            with T.If(number < count), T.Then():
                yield number

    # -------------------------------------------------------- before the sums

    def _at(self, tile: Any) -> tuple[Any, Any, Any]:
        """Image, first output row and first output column of a tile."""
        _, down, across = self.g.tiles
        return (
            tile // (down * across),
            tile // across % down * self.config.rows + self.g.first_row,
            tile % across * (self.config.across * ROWS),
        )

    def _copy_patch(self, tile: Any, stage: Any) -> None:
        """The rows that a tile reads, as they lie in memory, zeros where there are none."""
        g, w = self.g, self.w
        n, p, q = self._at(tile)
        with self._shared_out(g.patch_rows * g.vectors) as number:
            row, vector = number // g.vectors, number % g.vectors
            h = p * w.stride[0] - w.padding[0] + row
            half = q * g.pixel + g.first_half + vector * g.vector
            inside = tirx.all(h >= 0, h < w.h, half >= 0, half < w.w * w.c)
            to = 2 * (stage * (g.copies * g.patch_words) + row * g.pitch) + vector * g.vector

            def source(i: Any) -> Any:
                return self.x[n, h, (half + i) // w.c, (half + i) % w.c]

            self.lanes.copy(self.shared, to, source, g.vector, inside)

    def _shift_patch(self, stage: Any) -> None:
        """The second copy of a patch: every word as it starts one half later."""
        g = self.g
        width = g.vectors * g.vector // 2
        with self._shared_out(g.patch_rows * width) as number:
            column = number % width
            at = stage * (2 * g.patch_words) + number // width * g.pitch + column
            after = tirx.if_then_else(column + 1 < width, self.shared[at + 1], T.uint32(0))
            word = (self.shared[at] >> T.uint32(16)) | (after << T.uint32(16))
            self.shared.set(word, at + g.patch_words)
        self.lanes.barrier()

    def _load_filter(self) -> None:
        """To shared memory, or straight to registers."""
        g, steps = self.g, self.g.steps
        if self.config.weights == "shared":
            with self._shared_out(g.weight_words // 4) as n:

                def source(i: Any) -> Any:
                    return self.weight[n // (64 * steps), n // 64 % steps, n // 32 % 2, n % 32, i]

                self.lanes.copy(self.shared, 2 * self.patches + n * 8, source, 8)
            return
        with self._each() as lane, self._grid(steps, g.part_groups, 2) as (step, group, half):
            at = (lane.part * g.part_groups + group, step, half, lane.lane)
            with T.vectorized(8) as v:
                self.filter.set_halves(self.weight[(*at, v)], step, group, half * 8 + v)

    def _load_channels(self) -> None:
        """Bias and slopes of the channels that a thread writes."""
        for source, local in zip((self.bias, self.slope), self.channels, strict=True):
            if source is None or local is None:
                continue
            with self._each() as lane, self._grid(self.g.part_groups, 2) as (group, half):
                first = self._channel(lane, group)
                with T.If(first < self.w.k), T.Then(), T.vectorized(4) as v:
                    local.set(source[first + half * 4 + v], group * 8 + half * 4 + v)

    def _channel(self, lane: Lane, group: Any) -> Any:
        """The first of the eight channels of a group that a thread writes."""
        return (lane.part * self.g.part_groups + group) * GROUP + lane.pair * 8

    def _number_pairs(self) -> None:
        """Where each pair of the reduction lies, in words from a pixel's first."""
        g = self.g
        pairs = self.w.r * g.row_pairs
        with self._each() as lane, self._grid(2 * g.steps) as (i,):
            pair = lane.pair + 4 * i
            at = pair // g.row_pairs * g.pitch + pair % g.row_pairs
            # The weights past the last pair are zeros.
            self.offset.set(T.Select(pair < pairs, at, 0), i)

    # -------------------------------------------------------- the sums

    def _compute(self, tile: Any, turn: Any, stage: Any) -> None:
        self._step(0, stage, first=True)
        if self.g.steps > 1:
            with self._grid(self.g.steps - 1) as (before,):
                self._step(before + 1, stage)
        self._write(tile, turn)

    def _step(self, step: Any, stage: Any, first: bool = False) -> None:
        """Of the reduction; the first overwrites the sums."""
        self._load_pixels(step, stage)
        if self.config.weights == "shared":
            self._load_step(step)
        kept = step if self.config.weights == "registers" else 0
        with self._grid(self.config.down, self.g.part_groups, 4) as at:
            self._multiply(first, kept, *at)
        self.lanes.fence()

    def _multiply(self, first: bool, kept: Any, row: Any, group: Any, column: Any) -> None:
        self.lanes.mma(
            self.sums,
            self.pixels,
            self.filter,
            lambda i: (row, group, column, i),
            lambda i: (row * 4 + i,),
            lambda i: (kept, group, column * 2 + i),
            first=first,
        )

    def _load_pixels(self, step: Any, stage: Any) -> None:
        """The instruction's rows: pixels `row` and `row` + 8, pairs of the lower and upper half."""
        g = self.g
        with self._each() as lane:
            half = (lane.column * ROWS + lane.row) * g.pixel + g.start
            top = lane.floor * (self.config.down * self.w.stride[0] * g.pitch)
            base = stage * (g.copies * g.patch_words) + top + half // 2
            if g.copies == 2:
                base = base + half % 2 * g.patch_words
            with self._grid(2, self.config.down, 2) as (upper, row, eight):
                at = row * self.w.stride[0] * g.pitch + eight * 4 * g.pixel
                word = self.shared[base + self.offset[2 * step + upper] + at]
                self.pixels.set(word, row * 4 + upper * 2 + eight)

    def _load_step(self, step: Any) -> None:
        g = self.g
        with self._each() as lane, self._grid(g.part_groups, 2) as (group, half):
            number = (lane.part * g.part_groups + group) * g.steps + step
            at = self.patches + ((number * 2 + half) * 32 + lane.lane) * 4
            with T.vectorized(4) as v:
                self.filter.set(self.shared[at + v], 0, group, half * 4 + v)

    # -------------------------------------------------------- after the sums

    def _write(self, tile: Any, turn: Any) -> None:
        """Epilogue in registers, then 16 bytes a store."""
        w, g = self.w, self.g
        n, p, q = self._at(tile)
        down = self.config.down
        with self._each() as lane, self._grid(down, 2, g.part_groups) as (row, eight, group):
            first = self._channel(lane, group)
            column = q + lane.column * ROWS + lane.row + 8 * eight
            line = p + lane.floor * down + row
            inside = tirx.all(column < w.q, line < w.p, first < w.k)
            with T.If(inside), T.Then():
                self._finish(row, eight, group)
                if self.relu:
                    with self._grid(4) as (i,):
                        self.lanes.maximum(self.result, T.uint32(0), i)
                with T.vectorized(8) as v:
                    T.buffer_store(self.y, self.result.half(v), [n, line, column, first + v])

    def _finish(self, row: Any, eight: Any, group: Any) -> None:
        """The results of eight channels of a pixel, but for `relu`."""
        with self._grid(8) as (i,):
            total = self.sums[row, group, i // 2, eight * 2 + i % 2]
            bias, slope = (None if one is None else one[group * 8 + i] for one in self.channels)
            value = finished(self.bare, total, bias, slope, None)
            self.result.set_halves(value, i)
