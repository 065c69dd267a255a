"""What the kernel of `depthwise_projection` copies to shared memory, and where its threads are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from schedules.conv.workload import ceil_div
from schedules.families.depthwise_projection.config import (
    ACROSS,
    DEPTH,
    VECTOR,
    DepthwiseProjectionConfig,
    Geometry,
)
from schedules.threads.gpu_lanes import GpuLanes, Registers


@dataclass(frozen=True)
class Lane:
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
    def of(cls, thread: Any, config: DepthwiseProjectionConfig) -> Lane:
        warp, lane = thread // 32, thread % 32
        pixels = config.down * config.across
        tile = warp % pixels
        down, across = tile // config.across * config.rows, tile % config.across * ACROSS
        return cls(thread, lane, tile, warp // pixels, down, across, lane // 4, lane % 4)


@contextmanager
def grid(lanes: GpuLanes, *counts: int) -> Iterator[tuple[Any, ...]]:
    """Nested loops over registers."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(lanes.loop(count)) for count in counts)


@dataclass(frozen=True)
class Copies:
    """Of a chunk of channels into one of the stages of shared memory: its patch, then the filters
    of the prologue, then the weights. Zeros where there are no pixels or channels."""

    g: Geometry
    lanes: GpuLanes
    shared: Registers
    x: Any
    taps: Any
    weight: Any

    def at(self, block: Any) -> tuple[Any, Any, Any, Any]:
        """Image, first output row and column of a block's tile, and its part of the channels."""
        g = self.g
        _, down, across = g.tiles
        tile, part = block // g.config.parts, block % g.config.parts
        return (
            tile // (down * across),
            tile // across % down * g.tile[0],
            tile % across * g.tile[1],
            part,
        )

    def copy(self, block: Any, chunk: Any, stage: Any) -> None:
        to = stage * self.g.stage_halves
        self._patch(block, chunk, to)
        self._weights(block, chunk, to + self.g.patch_halves)

    @contextmanager
    def _shared_out(self, count: int) -> Iterator[Any]:
        """The numbers below `count`, shared out among the threads."""
        threads = self.g.config.threads
        with self.lanes.each() as thread, self.lanes.loop(ceil_div(count, threads)) as turn:
            number = turn * threads + thread
            if count % threads:
                with T.If(number < count), T.Then():
                    yield number
            else:
                yield number

    def _patch(self, block: Any, chunk: Any, to: Any) -> None:
        g, first = self.g, self.g.first
        n, p, q, _ = self.at(block)
        rows, columns = g.patch
        channels = g.config.chunk * DEPTH
        vectors = channels // VECTOR
        with self._shared_out(rows * columns * vectors) as number:
            vector, pixel = number % vectors, number // vectors
            row, column = pixel // columns, pixel % columns
            h = p * first.stride[0] - first.padding[0] + row
            v = q * first.stride[1] - first.padding[1] + column
            c = chunk * channels + vector * VECTOR
            inside = tirx.all(h >= 0, h < first.h, v >= 0, v < first.w, c < first.c)
            here = to + row * g.patch_pitch + g.position(column) * g.pitch + vector * VECTOR
            self.lanes.copy(self.shared, here, lambda i: self.x[n, h, v, c + i], VECTOR, inside)

    def _weights(self, block: Any, chunk: Any, to: Any) -> None:
        g, chunks = self.g, self.g.config.chunk
        part = self.at(block)[3]
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
