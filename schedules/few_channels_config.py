"""The knobs of `few_channels` and the numbers that follow from them: tiles, strides, offsets.

The reduction of a convolution with few channels is numbered in pairs of halves, for that is what a
register of an operand holds. A filter row of S columns and C channels is one run of memory in NHWC,
so it takes ``row_pairs`` pairs, the first of which starts on an even element:

    pair of row r: lead zeros, then (s, c) = (0, 0) ... (S - 1, C - 1), then zeros to an even number
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from schedules.errors import require_none
from schedules.hardware import Hardware
from schedules.workload import ConvWorkload, ceil_div, round_up

#: mma.sync m16n8k16: rows, columns, and pairs of the reduction of one instruction.
ROWS, COLUMNS, PAIRS = 16, 8, 8
#: Output channels of four instructions, of which every thread holds eight adjacent ones: 16 bytes.
GROUP = 4 * COLUMNS


@dataclass(frozen=True)
class FewChannelsConfig:
    """A block has ``across * parts`` warps; each computes ``down`` rows of 16 pixels at a time."""

    #: Output rows of a tile, one instruction's rows each.
    down: int
    #: Warps side by side, 16 pixels each.
    across: int
    #: Warps that share the output channels.
    parts: int = 1
    #: Where the filter is kept: ``"shared"`` memory, or ``"registers"``.
    weights: str = "shared"
    #: Blocks of the grid, each of which computes every so-manieth tile; 0 is a block a tile.
    blocks: int = 0

    def __str__(self) -> str:
        loop = f", {self.blocks} blocks" if self.blocks else ""
        return (
            f"{self.down} rows, {self.across}x{self.parts} warps, filter in {self.weights}{loop}"
        )

    @property
    def threads(self) -> int:
        return 32 * self.across * self.parts


@dataclass(frozen=True)
class Geometry:
    """Everything that `config` makes of `w`, in halves and words (pairs of halves)."""

    w: ConvWorkload
    config: FewChannelsConfig

    @property
    def pixel(self) -> int:
        """Halves between adjacent output pixels' inputs."""
        return self.w.stride[1] * self.w.c

    @property
    def copies(self) -> int:
        """Where every second pixel starts on an odd element, a second copy is shifted by one."""
        return 1 + self.pixel % 2

    @property
    def vector(self) -> int:
        """Halves of a copy to shared memory: all rows of the input start on a multiple."""
        return math.gcd(self.w.w * self.w.c, 8)

    @property
    def _before(self) -> int:
        """Halves from the left edge of a tile's patch, on a whole vector, to its first input."""
        return -self.w.padding[1] * self.w.c % self.vector if self.vector > 1 else 0

    @property
    def lead(self) -> int:
        """Zero weights before each filter row, that make its first pair start even."""
        return self._before % 2

    @property
    def start(self) -> int:
        """Even half of a patch row at which the first pixel's first pair lies."""
        return self._before - self.lead

    @property
    def first_half(self) -> int:
        """Of an input row, the half at which the patch of the first tile starts."""
        return -self.w.padding[1] * self.w.c - self._before

    @property
    def row_pairs(self) -> int:
        return ceil_div(self.lead + self.w.s * self.w.c, 2)

    @property
    def steps(self) -> int:
        """Instructions along the reduction."""
        return ceil_div(self.w.r * self.row_pairs, PAIRS)

    @property
    def groups(self) -> int:
        return ceil_div(self.w.k, GROUP)

    @property
    def part_groups(self) -> int:
        """Groups of output channels that one warp computes."""
        return ceil_div(self.groups, self.config.parts)

    @property
    def patch_rows(self) -> int:
        return (self.config.down - 1) * self.w.stride[0] + self.w.r

    @property
    def vectors(self) -> int:
        """Vectors of a patch row."""
        last = (self.config.across * ROWS - 1) * self.pixel + 2 * self.row_pairs
        return ceil_div(self.start + last, max(self.vector, 2)) * max(2 // self.vector, 1)

    @property
    def pitch(self) -> int:
        """Words between rows of a patch: as if filter rows followed each other, modulo the 32
        banks of shared memory, so that pairs of two rows are as free of conflicts as of one."""
        least = round_up(self.vectors * self.vector, 8) // 2
        wanted = round_up(self.row_pairs, 4)
        return least + (wanted - least) % 32

    @property
    def patch_words(self) -> int:
        return self.patch_rows * self.pitch

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Of the images, of the rows, of the columns."""
        w, config = self.w, self.config
        return w.n, ceil_div(w.p, config.down), ceil_div(w.q, config.across * ROWS)

    @property
    def blocks(self) -> int:
        return min(self.config.blocks or math.prod(self.tiles), math.prod(self.tiles))

    @property
    def rounds(self) -> int:
        """Tiles that a block computes, one after another."""
        return ceil_div(math.prod(self.tiles), self.blocks)

    @property
    def stages(self) -> int:
        """Patches in shared memory: the next tile's comes while one is computed."""
        return 2 if self.rounds > 1 else 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(group, step, half, lane, 8): what one lane multiplies, 16 bytes at a time."""
        return (self.groups, self.steps, 2, 32, 8)

    @property
    def weight_words(self) -> int:
        return math.prod(self.weight_shape) // 2

    @property
    def shared_bytes(self) -> int:
        words = self.stages * self.copies * self.patch_words
        return 4 * (words + self.weight_words * (self.config.weights == "shared"))

    @property
    def registers(self) -> int:
        """At least, of a thread: sums, offsets of pairs, operands, and the filter if kept there."""
        groups = self.part_groups
        kept = 8 * groups * (self.steps if self.config.weights == "registers" else 1)
        return 16 * groups * self.config.down + 2 * self.steps + 4 * self.config.down + kept + 24


def problems(w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> list[str]:
    """Why `config` does not fit; empty where it does."""
    g = Geometry(w, config)
    found = []
    if min(config.down, config.across, config.parts) < 1 or config.blocks < 0:
        found.append(f"{config} has a part smaller than 1")
        return found
    if config.weights not in ("shared", "registers"):
        found.append(f"a filter is in shared memory or in registers, not in {config.weights!r}")
    if config.threads > hardware.max_threads:
        found.append(f"{config.threads} threads of at most {hardware.max_threads}")
    if g.groups % config.parts:
        found.append(f"{g.groups} groups of {GROUP} channels are no multiple of {config.parts}")
    if g.shared_bytes > hardware.shared_bytes:
        found.append(f"{g.shared_bytes} bytes of shared memory of {hardware.shared_bytes}")
    if g.registers > hardware.registers_per_thread:
        found.append(f"{g.registers} registers a thread of {hardware.registers_per_thread}")
    return found


def check(w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every reason why `config` does not fit."""
    require_none(problems(w, config, hardware), config, w, hardware.name)


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[FewChannelsConfig]:
    """Every configuration worth trying, each of which fits."""
    columns = ceil_div(w.q, ROWS)
    widths = sorted({ceil_div(columns, ceil_div(columns, most)) for most in (2, 4, 8)})
    for down in (1, 2, 4, 8):
        for across in widths:
            for parts in (1, 2):
                for weights in ("shared", "registers"):
                    for blocks in (0, 132, 264, 396, 528):
                        config = FewChannelsConfig(down, across, parts, weights, blocks)
                        if not problems(w, config, hardware):
                            yield config


def default(w: ConvWorkload, hardware: Hardware) -> FewChannelsConfig | None:
    """The configuration that is used untuned; None where none fits."""
    return next(space(w, hardware), None)
