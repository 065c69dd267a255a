"""The knobs of `few_channels` and the numbers that follow from them: tiles, strides, offsets.

The reduction of a convolution with few channels is numbered in pairs of halves, for that is what a
register of an operand holds. A filter row of S columns and C channels is one run of memory in NHWC,
so it takes ``row_pairs`` pairs, the first of which starts on an even element:

    pair of row r: lead zeros, then (s, c) = (0, 0) ... (S - 1, C - 1), then zeros to an even number
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from schedules.errors import require_none
from schedules.hardware import Hardware
from schedules.machine_model import H200
from schedules.workload import ConvWorkload, ceil_div, round_up

#: mma.sync m16n8k16: rows, columns, and pairs of the reduction of one instruction.
ROWS, COLUMNS, PAIRS = 16, 8, 8
#: Output channels of four instructions, of which every thread holds eight adjacent ones: 16 bytes.
GROUP = 4 * COLUMNS
#: Where a filter can be kept.
WEIGHTS = ("shared", "registers")
#: Blocks of a grid whose blocks compute several tiles: two for each SM of an H200.
BLOCKS = 2 * H200.multiprocessors
#: Steps along the reduction up to which the arithmetic is no matter.
FEW_STEPS = 4


@dataclass(frozen=True)
class FewChannelsConfig:
    """A block has ``tall * across * parts`` warps; the tile it computes, ``tall * down`` rows."""

    #: Output rows that a warp computes at a time, 16 pixels of each.
    down: int
    #: Warps side by side, 16 pixels each.
    across: int
    #: Warps that share the output channels.
    parts: int = 1
    #: Warps above each other.
    tall: int = 1
    #: Where the filter is kept: ``"shared"`` memory, or ``"registers"``.
    weights: str = "shared"
    #: Blocks of the grid, each of which computes every so-manieth tile; 0 is a block a tile.
    blocks: int = 0
    #: Blocks that are to fit on an SM at a time, a bound on their registers; 0 for none.
    resident: int = 0

    def __str__(self) -> str:
        text = f"{self.down} rows, {self.tall}x{self.across}x{self.parts} warps"
        text += ", filter in registers" * (self.weights == "registers")
        text += f", {self.blocks} blocks" * bool(self.blocks)
        return text + f", {self.resident} an SM" * bool(self.resident)

    @property
    def threads(self) -> int:
        return 32 * self.across * self.parts * self.tall

    @property
    def rows(self) -> int:
        """Output rows of a tile."""
        return self.down * self.tall


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
        return (self.config.rows - 1) * self.w.stride[0] + self.w.r

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
        return w.n, ceil_div(w.p, config.rows), ceil_div(w.q, config.across * ROWS)

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
    knobs = (config.down, config.across, config.parts, config.tall)
    if min(knobs) < 1 or min(config.blocks, config.resident) < 0:
        return [f"every knob is at least 1, blocks and resident at least 0: {config}"]
    g = Geometry(w, config)
    found = []
    if config.weights not in WEIGHTS:
        found.append(f"the filter is in one of {WEIGHTS}, not in {config.weights!r}")
    if config.threads > hardware.max_threads:
        found.append(f"{config.threads} threads, a block has at most {hardware.max_threads}")
    if g.groups % config.parts:
        found.append(f"{g.groups} groups of {GROUP} channels are no multiple of {config.parts}")
    if g.shared_bytes > hardware.shared_bytes:
        have = hardware.shared_bytes
        found.append(f"{g.shared_bytes} bytes of shared memory, a block has {have}")
    threads = config.threads * max(config.resident, 1)
    most = min(hardware.registers_per_thread, hardware.registers_per_block // threads)
    if g.registers > most:
        found.append(f"{g.registers} registers, each of {threads} threads has {most}")
    return found


def check(w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> None:
    """Raises `ConfigError` that lists every reason why `config` does not fit."""
    require_none(problems(w, config, hardware), config, w, hardware.name)


def widest(w: ConvWorkload, most: int) -> int:
    """Warps side by side, at most so many, that leave the fewest columns idle."""
    columns = ceil_div(w.q, ROWS)
    return ceil_div(columns, ceil_div(columns, most))


def space(w: ConvWorkload, hardware: Hardware) -> Iterator[FewChannelsConfig]:
    """Every configuration worth trying, each of which fits."""
    for down, across, parts, tall, weights, (blocks, resident) in itertools.product(
        (2, 1, 4, 8),
        sorted({widest(w, most) for most in (8, 4, 2)}, reverse=True),
        (1, 2, 3),
        (1, 2),
        WEIGHTS,
        ((0, 0), (BLOCKS, 2), (BLOCKS // 2, 1)),
    ):
        config = FewChannelsConfig(down, across, parts, tall, weights, blocks, resident)
        if not problems(w, config, hardware):
            yield config


def default(w: ConvWorkload, hardware: Hardware) -> FewChannelsConfig | None:
    """The configuration that is used untuned; None where none fits.

    On an H200 a filter of many steps was fastest where blocks fetch the next tile meanwhile, one
    of few, which waits for memory only, in larger tiles; where tiles are few they are small.
    """
    across = widest(w, 8)
    small = FewChannelsConfig(1, across)
    geometry = Geometry(w, small)
    if math.prod(geometry.tiles) <= 2 * BLOCKS:
        wanted = [small]
    elif geometry.steps <= FEW_STEPS:
        wanted = [FewChannelsConfig(4, across), FewChannelsConfig(2, across), small]
    else:
        wanted = [FewChannelsConfig(2, across, blocks=BLOCKS, resident=2), small]
    fitting = (config for config in wanted if not problems(w, config, hardware))
    return next(fitting, None) or next(space(w, hardware), None)
