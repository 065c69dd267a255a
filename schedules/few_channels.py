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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script import tirx as script
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
from schedules.workload import ConvWorkload

#: With more input channels the other families copy in whole vectors, and waste nothing.
MOST_CHANNELS = 4
#: cp.async and m16n8k16 are there from Ampere on.
MIN_SM = 80
MMA = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"


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
        return _Kernel(Geometry(w, config)).function()

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
    if hardware.kind != "cuda" or hardware.sm < MIN_SM:
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


def _ptx(name: str, *operands: Any) -> None:
    T.evaluate(script.ptx[name](*operands))


def _store(buffer: Any, value: Any, *index: Any) -> None:
    T.buffer_store(buffer, value, list(index))


@dataclass(frozen=True)
class _Lane:
    """A thread's place. `row` and `pair` are its row and pair of the instruction's operands."""

    thread: Any
    lane: Any
    column: Any
    part: Any
    row: Any
    pair: Any


class _Kernel:
    """Writes the kernel of one geometry; each method emits one step."""

    def __init__(self, geometry: Geometry) -> None:
        self.g, self.w, self.config = geometry, geometry.w, geometry.config

    def function(self) -> tirx.PrimFunc:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            self._parameters()
            with (
                T.launch_thread("blockIdx.x", self.g.blocks) as block,
                T.launch_thread("threadIdx.x", self.config.threads) as thread,
            ):
                self.lane = self._place(thread)
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

    def _place(self, thread: Any) -> _Lane:
        warp, lane = thread // 32, thread % 32
        column, part = warp % self.config.across, warp // self.config.across
        return _Lane(thread, lane, column, part, lane // 4, lane % 4)

    def _allocate(self) -> None:
        g, down = self.g, self.config.down
        self.patches = g.stages * g.copies * g.patch_words
        self.shared = T.alloc_buffer((g.shared_bytes // 4,), "uint32", scope="shared.dyn")
        self.shared_halves = T.decl_buffer(
            (g.shared_bytes // 2,), "float16", data=self.shared.data, scope="shared.dyn"
        )
        self.offset = T.alloc_buffer((2 * g.steps,), "int32", scope="local")
        steps = g.steps if self.config.weights == "registers" else 1
        self.filter = T.alloc_buffer((steps, g.part_groups, 2, 8), "float16", scope="local")
        self.filter_words = T.decl_buffer(
            (steps, g.part_groups, 2, 4), "uint32", data=self.filter.data, scope="local"
        )
        self.pixels = T.alloc_buffer((4 * down,), "uint32", scope="local")
        self.sums = T.alloc_buffer((down, g.part_groups, 4, 4), "float32", scope="local")
        self.channels = [
            None if buffer is None else T.alloc_buffer((8 * g.part_groups,), "float32", scope="local")
            for buffer in (self.bias, self.slope)
        ]
        self.result = T.alloc_buffer((8,), "float16", scope="local")

    def _kernel(self, block: Any) -> None:
        g = self.g
        total = math.prod(g.tiles)
        self._copy_patch(block, 0)
        self._load_filter()
        _ptx("cp.async.commit_group")
        self._load_channels()
        self._number_pairs()
        with T.serial(g.rounds) as turn:
            tile = block + turn * g.blocks
            _ptx("cp.async.wait_group", 0)
            T.evaluate(T.tvm_storage_sync("shared.dyn"))
            if g.copies == 2:
                self._shift_patch(turn % g.stages)
            if g.rounds > 1:
                with T.If(tile + g.blocks < total), T.Then():
                    self._copy_patch(tile + g.blocks, (turn + 1) % 2)
                _ptx("cp.async.commit_group")
            if total % g.blocks:
                with T.If(tile < total), T.Then():
                    self._compute(tile, turn % g.stages)
            else:
                self._compute(tile, turn % g.stages)

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
        g, w, thread = self.g, self.w, self.lane.thread
        n, p, q = self._at(tile)
        for first in range(0, g.patch_rows * g.vectors, self.config.threads):
            number = thread + first
            row, vector = number // g.vectors, number % g.vectors
            h = p * w.stride[0] - w.padding[0] + row
            column = q * g.pixel + g.first_half + vector * g.vector
            inside = tirx.all(h >= 0, h < w.h, column >= 0, column < w.w * w.c)
            to = 2 * (stage * (g.copies * g.patch_words) + row * g.pitch) + vector * g.vector
            with T.If(number < g.patch_rows * g.vectors), T.Then():
                self._copy_vector(to, n, h, column, inside)

    def _copy_vector(self, to: Any, n: Any, h: Any, column: Any, inside: Any) -> None:
        """One vector to word `to`; of one half, to the half."""
        size = 2 * self.g.vector
        at = (n, h, column // self.w.c, column % self.w.c)
        if size == 2:
            value = tirx.if_then_else(inside, self.x[at], T.float16(0))
            _store(self.shared_halves, value, to)
            return
        source = T.address_of(self.x[at])
        count = T.Select(inside, T.uint32(size), T.uint32(0))
        target = T.address_of(self.shared_halves[to])
        _ptx("cp.async.ca.shared.global", target, source, size, count)

    def _shift_patch(self, stage: Any) -> None:
        """The second copy of a patch: every word as it starts one half later."""
        g = self.g
        width = g.vectors * g.vector // 2
        for first in range(0, g.patch_rows * width, self.config.threads):
            number = self.lane.thread + first
            column = number % width
            at = stage * (2 * g.patch_words) + number // width * g.pitch + column
            with T.If(number < g.patch_rows * width), T.Then():
                after = tirx.if_then_else(column + 1 < width, self.shared[at + 1], T.uint32(0))
                word = (self.shared[at] >> T.uint32(16)) | (after << T.uint32(16))
                _store(self.shared, word, at + g.patch_words)
        T.evaluate(T.tvm_storage_sync("shared.dyn"))

    def _load_filter(self) -> None:
        g, lane = self.g, self.lane
        if self.config.weights == "shared":
            for first in range(0, g.weight_words // 4, self.config.threads):
                number = lane.thread + first
                with T.If(number < g.weight_words // 4), T.Then():
                    source = T.address_of(self.weight[self._vector_index(number)])
                    to = T.address_of(self.shared[self.patches + number * 4])
                    _ptx("cp.async.cg.shared.global", to, source, 16)
            return
        for step in range(g.steps):
            for group in range(g.part_groups):
                for half in range(2):
                    with T.vectorized(8) as v:
                        at = (lane.part * g.part_groups + group, step, half, lane.lane, v)
                        _store(self.filter, self.weight[at], step, group, half, v)

    def _vector_index(self, number: Any) -> tuple[Any, ...]:
        steps = self.g.steps
        return (number // (64 * steps), number // 64 % steps, number // 32 % 2, number % 32, 0)

    def _load_channels(self) -> None:
        """Bias and slopes of the channels that this thread writes."""
        g, lane = self.g, self.lane
        for source, local in zip((self.bias, self.slope), self.channels, strict=True):
            for group in range(g.part_groups if source is not None else 0):
                first = self._channel(group)
                with T.If(first < self.w.k), T.Then():
                    for half in (0, 4):
                        with T.vectorized(4) as v:
                            _store(local, source[first + half + v], group * 8 + half + v)

    def _channel(self, group: int) -> Any:
        """The first of the eight channels of a group that this thread writes."""
        lane = self.lane
        return (lane.part * self.g.part_groups + group) * GROUP + lane.pair * 8

    def _number_pairs(self) -> None:
        """Where each pair of the reduction lies, in words from a pixel's first."""
        g = self.g
        for i in range(2 * g.steps):
            pair = self.lane.pair + 4 * i
            at = pair // g.row_pairs * g.pitch + pair % g.row_pairs
            if 4 * i + 3 >= self.w.r * g.row_pairs:  # its weights are zeros
                at = T.Select(pair < self.w.r * g.row_pairs, at, 0)
            _store(self.offset, at, i)

    # -------------------------------------------------------- the sums

    def _compute(self, tile: Any, stage: Any) -> None:
        g, down = self.g, self.config.down
        for index in np.ndindex(down, g.part_groups, 4, 4):
            _store(self.sums, T.float32(0), *index)
        base = self._base(stage)
        for step in range(g.steps):
            self._load_pixels(step, base)
            kept = step if self.config.weights == "registers" else 0
            if self.config.weights == "shared":
                self._load_step(step)
            for row, group, column in np.ndindex(down, g.part_groups, 4):
                sums = [self.sums[row, group, column, i] for i in range(4)]
                pixels = [self.pixels[row * 4 + i] for i in range(4)]
                words = [
                    self.filter_words[kept, group, column // 2, column % 2 * 2 + i]
                    for i in range(2)
                ]
                _ptx(MMA, *sums, *pixels, *words, *sums)
        self._write(tile)

    def _base(self, stage: Any) -> Any:
        """The word of this thread's first pixel."""
        g, lane = self.g, self.lane
        half = (lane.column * ROWS + lane.row) * g.pixel + g.start
        patch = stage * (g.copies * g.patch_words)
        if g.copies == 1:
            return patch + half // 2
        return patch + half % 2 * g.patch_words + half // 2

    def _load_pixels(self, step: int, base: Any) -> None:
        g, w = self.g, self.w
        for upper in range(2):
            for row in range(self.config.down):
                for eight in range(2):
                    at = row * w.stride[0] * g.pitch + eight * 4 * g.pixel
                    word = self.shared[base + self.offset[2 * step + upper] + at]
                    _store(self.pixels, word, row * 4 + upper * 2 + eight)

    def _load_step(self, step: int) -> None:
        g, lane = self.g, self.lane
        for group in range(g.part_groups):
            for half in range(2):
                number = (lane.part * g.part_groups + group) * g.steps + step
                at = self.patches + ((number * 2 + half) * 32 + lane.lane) * 4
                with T.vectorized(4) as v:
                    _store(self.filter_words, self.shared[at + v], 0, group, half, v)

    # -------------------------------------------------------- after the sums

    def _write(self, tile: Any) -> None:
        """Epilogue in registers, then 16 bytes a store."""
        w, g, lane = self.w, self.g, self.lane
        n, p, q = self._at(tile)
        operands = Operands(None, None, *self.channels, None)
        for row, eight, group in np.ndindex(self.config.down, 2, g.part_groups):
            first = self._channel(group)
            column = q + lane.column * ROWS + lane.row + 8 * eight
            conditions = [column < w.q]
            if w.p % self.config.down:
                conditions.append(p + row < w.p)
            if w.k % GROUP:
                conditions.append(first < w.k)
            with T.If(tirx.all(*conditions)), T.Then():
                for i in range(8):
                    total = self.sums[row, group, i // 2, eight * 2 + i % 2]
                    _store(self.result, finish(w, operands, total, (0, 0, 0, group * 8 + i)), i)
                with T.vectorized(8) as v:
                    _store(self.y, self.result[v], n, p + row, column, first + v)
