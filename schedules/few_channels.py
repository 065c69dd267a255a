"""Convolutions of few input channels (a network's first) on mma.sync, at the speed of memory.

A block computes a tile of output rows and columns for all channels. It copies the patch of the
input that the tile reads to shared memory as it is, in vectors of up to 16 bytes, zeros where it is
padding. A register of the instruction's first operand is a pair of adjacent halves of a patch row,
which a thread reads from there at an address that is the pixel's plus the pair's: the latter is a
table of offsets in registers. So the gather of an implicit GEMM is never written anywhere. The sums
stay in registers through the epilogue; the filter's columns are packed in such an order that a
thread's are adjacent output channels, which it writes 16 bytes at a time.

With ``blocks``, a block computes several tiles, and copies the next patch while it computes one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from schedules import few_channels_config
from schedules.compute import Operands, finish
from schedules.family import Match, Reject
from schedules.few_channels_config import (
    GROUP,
    PAIRS,
    ROWS,
    FewChannelsConfig,
    Geometry,
    check,
    default,
)
from schedules.hardware import Hardware
from schedules.lanes import lanes
from schedules.workload import ConvWorkload, ceil_div

#: With more input channels the other families copy in whole vectors, and waste nothing.
MOST_CHANNELS = 4
#: cp.async and m16n8k16 are there from Ampere on.
MIN_SM = 80


class FewChannelsFamily:
    """NHWC to NHWC, at most `MOST_CHANNELS` input channels."""

    name = "few_channels"
    tensorized = True

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        reason = _mismatch(w, hardware)
        if reason:
            return Reject(self.name, reason)
        config = default(w, hardware)
        if config is None:
            return Reject(self.name, f"no configuration fits {hardware.name}")
        return Match(self.name, config)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[FewChannelsConfig]:
        return few_channels_config.space(w, hardware)

    def schedule(
        self, w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware
    ) -> tirx.PrimFunc:
        check(w, config, hardware)
        return _Kernel(Geometry(w, config), hardware.kind).function()

    def padded_macs(self, w: ConvWorkload, config: FewChannelsConfig) -> int:
        g = Geometry(w, config)
        pixels = math.prod(g.tiles) * config.down * config.across * ROWS
        return pixels * g.groups * GROUP * g.steps * PAIRS * 2

    def pack(
        self, w: ConvWorkload, config: FewChannelsConfig, weight: NDArray[Any]
    ) -> NDArray[Any]:
        """weight as fp16 ``Geometry.weight_shape``: the second operand, lane by lane."""
        g = Geometry(w, config)
        rows = np.zeros((w.r, 2 * g.row_pairs, g.groups * GROUP), np.float16)
        taps = weight.transpose(2, 3, 1, 0).reshape(w.r, w.s * w.c, w.k)
        rows[:, g.lead : g.lead + w.s * w.c, : w.k] = taps
        pairs = np.zeros((g.steps * PAIRS, 2, g.groups * GROUP), np.float16)
        pairs[: w.r * g.row_pairs] = rows.reshape(w.r * g.row_pairs, 2, -1)
        # pair (step, upper, t), element; channel (group, n / 2, tile / 2, tile % 2, n % 2)
        split = pairs.reshape(g.steps, 2, 4, 2, g.groups, 4, 2, 2, 2)
        # group, step, tile / 2, lane = (n / 2, n % 2, t), tile % 2, upper, element
        return split.transpose(4, 0, 6, 5, 8, 2, 7, 1, 3).reshape(g.weight_shape).copy()


def _mismatch(w: ConvWorkload, hardware: Hardware) -> str:
    """Why the family does not take `w`; empty where it does."""
    if w.c > MOST_CHANNELS:
        return f"{w.c} input channels; it is for at most {MOST_CHANNELS}"
    if hardware.kind == "cuda" and hardware.sm < MIN_SM:
        return f"mma.sync m16n8k16 and cp.async need sm_{MIN_SM}, this is {hardware.name}"
    if w.groups != 1:
        return f"{w.groups} groups"
    if w.in_layout.packed or w.out_layout.packed:
        return f"reads and writes NHWC, not {w.in_layout} and {w.out_layout}"
    if w.dilation != (1, 1):
        return f"dilation {w.dilation}: columns of the filter are not adjacent"
    if w.k % 8 or w.epilogue.out_dtype != "float16":
        return f"writes eight fp16 channels at a time, not {w.k} {w.epilogue.out_dtype}"
    if w.accumulator_dtype != "float32":
        return f"sums in fp32, not {w.accumulator_dtype}"
    if w.epilogue.residual or w.window is not None:
        return "adds no residual and writes a tensor of its own"
    return ""


# ---------------------------------------------------------------- the kernel, step by step


@dataclass(frozen=True)
class _Lane:
    """A thread's place. `row` and `pair` are its row and pair of the instruction's operands."""

    thread: Any
    lane: Any
    column: Any
    part: Any
    row: Any
    pair: Any

    @classmethod
    def of(cls, thread: Any, config: FewChannelsConfig) -> _Lane:
        warp, lane = thread // 32, thread % 32
        column, part = warp % config.across, warp // config.across
        return cls(thread, lane, column, part, lane // 4, lane % 4)


class _Kernel:
    """Writes the kernel of one geometry; each method emits one step of all threads."""

    def __init__(self, geometry: Geometry, kind: str) -> None:
        self.g, self.w, self.config = geometry, geometry.w, geometry.config
        self.lanes = lanes(kind, self.config.threads)

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
        self.weight = T.arg("weight", T.buffer(self.g.weight_shape, "float16"))
        slopes = epilogue.activation.kind == "prelu"
        self.bias = T.arg("bias", T.buffer((w.k,), "float32")) if epilogue.bias else None
        self.slope = T.arg("slope", T.buffer((w.k,), "float32")) if slopes else None
        self.y = T.arg("y", T.buffer(w.out_shape, "float16"))

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
        self.result = new((8,), "float16")

    def _kernel(self, block: Any) -> None:
        g = self.g
        total = math.prod(g.tiles)
        self._copy_patch(block, 0)
        self._load_filter()
        self.lanes.commit()
        self._load_channels()
        self._number_pairs()
        with T.serial(g.rounds) as turn:
            tile, stage = block + turn * g.blocks, turn % g.stages
            self.lanes.wait()
            if g.copies == 2:
                self._shift_patch(stage)
            if g.rounds > 1:
                with T.If(tile + g.blocks < total), T.Then():
                    self._copy_patch(tile + g.blocks, (turn + 1) % 2)
                self.lanes.commit()
            if total % g.blocks:
                with T.If(tile < total), T.Then():
                    self._compute(tile, stage)
            else:
                self._compute(tile, stage)

    @contextmanager
    def _each(self) -> Iterator[_Lane]:
        with self.lanes.each() as thread:
            yield _Lane.of(thread, self.config)

    @contextmanager
    def _shared_out(self, count: int) -> Iterator[Any]:
        """The numbers below `count`, shared out among the threads."""
        with self._each() as lane, T.unroll(ceil_div(count, self.config.threads)) as turn:
            number = turn * self.config.threads + lane.thread
            with T.If(number < count), T.Then():
                yield number

    # -------------------------------------------------------- before the sums

    def _at(self, tile: Any) -> tuple[Any, Any, Any]:
        """Image, first output row and first output column of a tile."""
        _, down, across = self.g.tiles
        return (
            tile // (down * across),
            tile // across % down * self.config.down,
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
        with self._each() as lane:
            for step, group, half in np.ndindex(steps, g.part_groups, 2):
                at = (lane.part * g.part_groups + group, step, half, lane.lane)
                with T.vectorized(8) as v:
                    self.filter.set_halves(self.weight[(*at, v)], step, group, half * 8 + v)

    def _load_channels(self) -> None:
        """Bias and slopes of the channels that a thread writes."""
        for source, local in zip((self.bias, self.slope), self.channels, strict=True):
            if source is None:
                continue
            with self._each() as lane:
                for group in range(self.g.part_groups):
                    first = self._channel(lane, group)
                    with T.If(first < self.w.k), T.Then():
                        for half in (0, 4):
                            with T.vectorized(4) as v:
                                local.set(source[first + half + v], group * 8 + half + v)

    def _channel(self, lane: _Lane, group: int) -> Any:
        """The first of the eight channels of a group that a thread writes."""
        return (lane.part * self.g.part_groups + group) * GROUP + lane.pair * 8

    def _number_pairs(self) -> None:
        """Where each pair of the reduction lies, in words from a pixel's first."""
        g = self.g
        pairs = self.w.r * g.row_pairs
        with self._each() as lane:
            for i in range(2 * g.steps):
                pair = lane.pair + 4 * i
                at = pair // g.row_pairs * g.pitch + pair % g.row_pairs
                if 4 * i + 3 >= pairs:  # the weights past the last are zeros
                    at = T.Select(pair < pairs, at, 0)
                self.offset.set(at, i)

    # -------------------------------------------------------- the sums

    def _compute(self, tile: Any, stage: Any) -> None:
        g, down = self.g, self.config.down
        with self._each():
            for index in np.ndindex(down, g.part_groups, 4, 4):
                self.sums.set(T.float32(0), *index)
        for step in range(g.steps):
            self._load_pixels(step, stage)
            if self.config.weights == "shared":
                self._load_step(step)
            kept = step if self.config.weights == "registers" else 0
            for at in np.ndindex(down, g.part_groups, 4):
                self._multiply(kept, *at)
        self._write(tile)

    def _multiply(self, kept: int, row: int, group: int, column: int) -> None:
        self.lanes.mma(
            self.sums,
            self.pixels,
            self.filter,
            lambda i: (row, group, column, i),
            lambda i: (row * 4 + i,),
            lambda i: (kept, group, column * 2 + i),
        )

    def _load_pixels(self, step: int, stage: Any) -> None:
        """The instruction's rows: pixels `row` and `row` + 8, pairs of the lower and upper half."""
        g = self.g
        with self._each() as lane:
            half = (lane.column * ROWS + lane.row) * g.pixel + g.start
            base = stage * (g.copies * g.patch_words) + half // 2
            if g.copies == 2:
                base = base + half % 2 * g.patch_words
            for upper, row, eight in np.ndindex(2, self.config.down, 2):
                at = row * self.w.stride[0] * g.pitch + eight * 4 * g.pixel
                word = self.shared[base + self.offset[2 * step + upper] + at]
                self.pixels.set(word, row * 4 + upper * 2 + eight)

    def _load_step(self, step: int) -> None:
        g = self.g
        with self._each() as lane:
            for group, half in np.ndindex(g.part_groups, 2):
                number = (lane.part * g.part_groups + group) * g.steps + step
                at = self.patches + ((number * 2 + half) * 32 + lane.lane) * 4
                with T.vectorized(4) as v:
                    self.filter.set(self.shared[at + v], 0, group, half * 4 + v)

    # -------------------------------------------------------- after the sums

    def _write(self, tile: Any) -> None:
        """Epilogue in registers, then 16 bytes a store."""
        w, g = self.w, self.g
        n, p, q = self._at(tile)
        operands = Operands(None, None, *self.channels, None)
        with self._each() as lane:
            for row, eight, group in np.ndindex(self.config.down, 2, g.part_groups):
                first = self._channel(lane, group)
                column = q + lane.column * ROWS + lane.row + 8 * eight
                inside = tirx.all(column < w.q, p + row < w.p, first < w.k)
                with T.If(inside), T.Then():
                    for i in range(8):
                        total = self.sums[row, group, i // 2, eight * 2 + i % 2]
                        value = finish(w, operands, total, (0, 0, 0, group * 8 + i))
                        self.result.set(value, i)
                    with T.vectorized(8) as v:
                        T.buffer_store(self.y, self.result[v], [n, p + row, column, first + v])
