"""The knobs of `depthwise_projection` and the numbers that follow from them.

A warp computes a tile of ``rows`` by 8 output pixels, as rows / 2 operands of mma.sync of two rows
each. All of a block's warps read one patch of the prologue's input, chunk by chunk of channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schedules.conv.signature import Signature
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.errors import require_none
from schedules.machine.hardware import Hardware

#: Columns of pixels of a warp, channels that one step multiplies, and columns of the instruction.
ACROSS, DEPTH, COLUMNS = 8, 16, 8
#: Halves of a copy, of 16 bytes.
VECTOR = 8
#: Output channels of a thread that are adjacent, at most: 16 bytes.
WIDEST = 8
#: Instructions' columns of which a thread's output channels are adjacent, tried in this order.
RUNS = (4, 2, 1)
#: Rows of a warp, and warps above each other and side by side, that are worth trying.
TILES = (
    (8, 1, 1), (8, 1, 2), (8, 2, 2), (8, 1, 4), (4, 1, 1), (4, 2, 1), (4, 1, 2), (4, 2, 2),
    (4, 7, 1), (2, 1, 1), (2, 2, 1), (2, 1, 2), (2, 4, 1), (2, 7, 1), (2, 7, 2), (14, 1, 2),
    (14, 2, 1), (14, 2, 2),
)  # fmt: skip
#: Pixels of an image that one block can have.
SMALL = 1024
#: Steps of 16 channels up to which all are worth copying at once.
MOST_STEPS = 12


@dataclass(frozen=True)
class DepthwiseProjectionConfig:
    """A block has ``down * across * deep`` warps."""

    #: Output rows of a warp, even.
    rows: int
    #: Warps above each other, and side by side.
    down: int = 1
    across: int = 1
    #: Warps that share the channels of a chunk, and add up their sums at the end.
    deep: int = 1
    #: Steps of 16 channels whose operands are copied at a time.
    chunk: int = 2
    #: Chunks in shared memory.
    stages: int = 2
    #: Blocks that share the output channels; each computes the prologue anew.
    parts: int = 1
    #: Blocks that are to fit on an SM at a time, a bound on their registers; 0 for none.
    resident: int = 0

    def __str__(self) -> str:
        text = f"{self.down}x{self.across} warps of {self.rows}x{ACROSS} pixels"
        text += f", {self.deep} deep" * (self.deep > 1)
        text += f", {self.chunk * DEPTH} channels, {self.stages} stages"
        text += f", {self.parts} parts" * (self.parts > 1)
        return text + f", {self.resident} an SM" * bool(self.resident)

    @property
    def warps(self) -> int:
        return self.down * self.across * self.deep

    @property
    def threads(self) -> int:
        return 32 * self.warps


@dataclass(frozen=True)
class Geometry:
    """Everything that `config` makes of `w`. Sizes in shared memory are in halves."""

    w: ConvWorkload
    config: DepthwiseProjectionConfig

    @property
    def first(self) -> ConvWorkload:
        """The prologue."""
        assert self.w.prologue is not None
        return self.w.prologue

    # -------------------------------------------------------- tiles of pixels

    @property
    def tile(self) -> tuple[int, int]:
        """Output rows and columns of a block."""
        return self.config.down * self.config.rows, self.config.across * ACROSS

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Of the images, of the rows, of the columns."""
        down, across = self.tile
        return self.w.n, ceil_div(self.w.p, down), ceil_div(self.w.q, across)

    @property
    def blocks(self) -> int:
        return math.prod(self.tiles) * self.config.parts

    @property
    def patch(self) -> tuple[int, int]:
        """Rows and columns of the prologue's input that a block reads."""
        (down, across), first = self.tile, self.first
        return (
            (down - 1) * first.stride[0] + first.r,
            (across - 1) * first.stride[1] + first.s,
        )

    # -------------------------------------------------------- shared memory

    @property
    def pitch(self) -> int:
        """Between pixels of the patch. An odd number of 16 bytes, so that the eight rows of a
        matrix are in different banks."""
        return self.config.chunk * DEPTH + VECTOR

    @property
    def phase(self) -> int:
        """Columns of the patch of one phase of the stride: those are kept side by side."""
        return ceil_div(self.patch[1], self.first.stride[1])

    def position(self, column: Any) -> Any:
        """Where a column of the patch is kept. Takes numbers or TVM expressions."""
        stride = self.first.stride[1]
        return column % stride * self.phase + column // stride

    @property
    def patch_pitch(self) -> int:
        """Between rows of the patch."""
        return self.phase * self.first.stride[1] * self.pitch

    @property
    def patch_halves(self) -> int:
        return self.patch[0] * self.patch_pitch

    @property
    def filter_halves(self) -> int:
        """Of one channel: each tap twice, zeros, and in the last word the bias."""
        return self.filter_shape[1]

    @property
    def step_halves(self) -> int:
        """Weights of 16 channels, for one part of the output channels."""
        return self.columns * COLUMNS * DEPTH

    @property
    def stage_halves(self) -> int:
        each = DEPTH * self.filter_halves + self.step_halves
        return self.patch_halves + self.config.chunk * each

    @property
    def stages(self) -> int:
        return min(self.config.stages, self.chunks)

    @property
    def shared_bytes(self) -> int:
        pixels = self.config.down * self.config.across * 32
        sums = 4 * pixels * (self.config.deep - 1) * self.fragments * self.columns * 4
        return max(2 * self.stages * self.stage_halves, sums)

    # -------------------------------------------------------- the reductions

    @property
    def taps(self) -> int:
        return self.first.r * self.first.s

    @property
    def steps(self) -> int:
        return ceil_div(self.w.c, DEPTH)

    @property
    def chunks(self) -> int:
        return ceil_div(self.steps, self.config.chunk)

    @property
    def columns(self) -> int:
        """Instructions along the output channels."""
        return self.w.k // COLUMNS // self.config.parts

    @property
    def run(self) -> int:
        """Instructions of which a thread's output channels are adjacent."""
        return next(run for run in RUNS if self.columns % run == 0)

    @property
    def pair(self) -> int:
        """Instructions whose weights a thread loads at a time."""
        return 1 + (self.columns % 2 == 0)

    @property
    def fragments(self) -> int:
        """Operands of 16 pixels that a warp has."""
        return self.config.rows // 2

    @property
    def patch_rows(self) -> int:
        """Rows of the prologue's input that the taps of a warp's tile read, to an even number."""
        return round_up((self.config.rows - 1) * self.first.stride[0] + self.first.r, 2)

    @property
    def matrices(self) -> int:
        """Of 8 pixels by 8 channels, that the taps of a warp's tile read: row by row for each
        column of the filter."""
        return self.patch_rows * self.first.s

    @property
    def spans(self) -> int:
        """Pairs of those rows that two output rows read."""
        return (self.first.stride[0] + self.first.r - 1) // 2 + 1

    @property
    def loads(self) -> int:
        """Instructions that load those, four at a time."""
        return ceil_div(self.matrices, 4)

    @property
    def registers(self) -> int:
        """At least, of a thread."""
        sums = self.fragments * (4 * self.columns + 10)
        return sums + 3 * self.loads + 4 * self.spans + self.taps + 36

    # -------------------------------------------------------- operands

    @property
    def filter_shape(self) -> tuple[int, int]:
        return prologue_shape(self.first)

    @property
    def signature(self) -> Signature:
        """The operands of the kernel."""
        return Signature.of(self.w, self.weight_shape, prologue_shape(self.first))

    @property
    def weight_shape(self) -> tuple[int, int]:
        """(step, halves): what lanes multiply, one after another, for each instruction."""
        return self.steps, self.w.k * DEPTH


def prologue_shape(first: ConvWorkload) -> tuple[int, int]:
    """Returns the shape of the packed prologue: for each channel its filter and bias."""
    words = round_up(first.r * first.s + 1, 4)
    return round_up(first.c, DEPTH), 2 * words


# ---------------------------------------------------------------- what fits


def problems(w: ConvWorkload, config: DepthwiseProjectionConfig, hardware: Hardware) -> list[str]:
    """Why `config` does not fit; empty where it does."""
    knobs = (config.down, config.across, config.deep, config.chunk, config.stages, config.parts)
    if min(knobs) < 1 or config.rows < 2 or config.rows % 2 or config.resident < 0:
        return [f"rows are even, every other knob is at least 1, resident at least 0: {config}"]
    if w.k // COLUMNS % config.parts:
        return [f"{w.k // COLUMNS} instructions of {COLUMNS} channels do not split in that many"]
    g = Geometry(w, config)
    found = []
    if config.chunk % config.deep:
        found.append(f"{config.chunk} steps of a chunk are no multiple of {config.deep} warps")
    if config.stages == 1 and g.chunks > 1:
        found.append(f"{g.chunks} chunks need a second stage")
    found += hardware.exceeded(
        config.threads,
        shared_bytes=g.shared_bytes,
        registers=g.registers,
        resident=max(config.resident, 1),
    )
    return found


def check(w: ConvWorkload, config: DepthwiseProjectionConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every reason why `config` does not fit."""
    require_none(problems(w, config, hardware), config, w, hardware.name)


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[DepthwiseProjectionConfig]:
    """Every configuration worth trying, each of which fits; none without a prologue."""
    columns, steps = ceil_div(w.q, ACROSS), ceil_div(w.c, DEPTH)
    # All channels at once read memory in the longest runs.
    chunks = {min(chunk, steps) for chunk in (2, 3, 4)}
    chunks |= {steps} if steps <= MOST_STEPS else set()
    parts = [part for part in (1, 2, 4, 5) if w.k // COLUMNS % part == 0]
    for (rows, down, across), deep, chunk, stages, part in itertools.product(
        TILES, (1, 2, 3, 4), sorted(chunks), (2, 1, 3), parts
    ):
        # Nothing wider or much taller than the image, and no fewer than two warps a block.
        if w.prologue is None or across > columns or rows * down > round_up(w.p, 2) + rows:
            continue
        if not 2 <= down * across * deep <= 16 or (stages == 1) != (chunk == steps):
            continue
        # Blocks share channels where warps do so already, and the image is small.
        if part > 1 and (deep == 1 or w.p * w.q > SMALL):
            continue
        config = DepthwiseProjectionConfig(rows, down, across, deep, chunk, stages, part)
        useful = stages <= ceil_div(steps, chunk) and (stages < 3 or chunk <= 2)
        if useful and not problems(w, config, hardware):
            yield config
