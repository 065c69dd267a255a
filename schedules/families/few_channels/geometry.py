"""The numbers that follow from a workload and knobs of `few_channels`: tiles, strides, offsets.

The reduction of a convolution with few channels is numbered in pairs of halves, for that is what a
register of an operand holds. A filter row of S columns and C channels is one run of memory in NHWC,
so it takes ``row_pairs`` pairs, the first of which starts on an even element:

    pair of row r: lead zeros, then (s, c) = (0, 0) ... (S - 1, C - 1), then zeros to an even number
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx

from schedules.conv.max_pool import MaxPool
from schedules.conv.signature import Signature
from schedules.conv.workload import ConvWorkload, ceil_div, round_up

if TYPE_CHECKING:
    from schedules.families.few_channels.config import FewChannelsConfig

#: mma.sync m16n8k16: rows, columns, and pairs of the reduction of one instruction.
ROWS, COLUMNS, PAIRS = 16, 8, 8
#: Output channels of four instructions, of which every thread holds eight adjacent ones: 16 bytes.
GROUP = 4 * COLUMNS
#: Rows and columns from one pooled window to the next, and of a window.
POOL_STEP, POOL_TAPS = 2, 3
#: Pairs of pixels that are whole vectors in any image.
OVERLAP = 4


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
    def first_row(self) -> int:
        """Of the convolution's output, the row at which an image's first tile starts."""
        return 0

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
    def computed(self) -> int:
        """Tiles that all blocks together compute."""
        return math.prod(self.tiles)

    @property
    def uneven(self) -> bool:
        """Whether a block is left with no tile in its last turn."""
        return bool(math.prod(self.tiles) % self.blocks)

    def tile(self, block: Any, turn: Any) -> Any:
        """Which tile a block computes in its turn. Takes numbers or TVM expressions."""
        return block + turn * self.blocks

    def follows(self, tile: Any, turn: Any) -> Any:
        """Whether a block computes `tile` after its turn."""
        return tile < math.prod(self.tiles)

    @property
    def stages(self) -> int:
        """Patches in shared memory: the next tile's comes while one is computed."""
        return 2 if self.rounds > 1 else 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(group, step, half, lane, 8): what one lane multiplies, 16 bytes at a time."""
        return (self.groups, self.steps, 2, 32, 8)

    @property
    def signature(self) -> Signature:
        """The operands of the kernel."""
        return Signature.of(self.w, self.weight_shape)

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
        return 16 * groups * self.config.down + 2 * self.steps + 4 * self.config.down + kept + 20


@dataclass(frozen=True)
class PooledGeometry(Geometry):
    """With the max pool that follows, of 3x3 windows at stride 2 padded by 0 or 1.

    The last row of a tile belongs to the first windows of the tile below as well, so a block
    computes tiles below each other, and first the one above its own. Tiles side by side overlap.
    """

    @property
    def pool(self) -> MaxPool:
        assert self.w.epilogue.pool is not None
        return self.w.epilogue.pool

    @property
    def windows(self) -> int:
        """Above each other in a tile."""
        return self.config.rows // POOL_STEP

    @property
    def idle(self) -> int:
        """Tiles of an image that pool nothing: with no padding above, the first, of which only the
        last row is inside of the image."""
        return 1 - self.pool.padding[0]

    @property
    def first_row(self) -> int:
        return self.idle * (1 - self.config.rows)

    @property
    def overlap(self) -> int:
        """Pairs of columns that a tile has in common with that beside it: one is needed, but
        patches start on whole vectors."""
        pairs = self.config.across * ROWS // POOL_STEP
        columns = ceil_div(self.w.q, POOL_STEP)
        return 0 if pairs >= max(columns, self.pool.size[1]) else OVERLAP

    @property
    def columns(self) -> int:
        """Pooled columns of a tile."""
        return self.config.across * ROWS // POOL_STEP - self.overlap

    @property
    def skipped(self) -> int:
        """Pairs of columns of a tile before the first that it pools: where windows are padded at
        the left they take a column from the pair before them."""
        return self.overlap * self.pool.padding[1]

    @property
    def tiles(self) -> tuple[int, int, int]:
        rows = self.idle + ceil_div(self.pool.size[0], self.windows)
        return self.w.n, rows, ceil_div(self.pool.size[1], self.columns)

    @property
    def share(self) -> int:
        """Tiles of which a block writes the results."""
        total = math.prod(self.tiles)
        return ceil_div(total, min(self.config.blocks or total, total))

    @property
    def blocks(self) -> int:
        return ceil_div(math.prod(self.tiles), self.share)

    @property
    def rounds(self) -> int:
        return self.share + 1

    @property
    def computed(self) -> int:
        return math.prod(self.tiles) + self.blocks

    @property
    def uneven(self) -> bool:
        return False

    def tile(self, block: Any, turn: Any) -> Any:
        # The very first has none before it, and needs none.
        return tirx.max(block * self.share + turn - 1, 0)

    def follows(self, tile: Any, turn: Any) -> Any:
        return tirx.all(turn < self.share, tile < math.prod(self.tiles))

    @property
    def edge_words(self) -> int:
        """What warps side by side leave for each other: a column of each."""
        return self.windows * self.config.across * self.groups * GROUP // 2

    @property
    def edges(self) -> int:
        """Where in shared memory that is, twice as turns alternate: in words."""
        return super().shared_bytes // 4

    @property
    def shared_bytes(self) -> int:
        return super().shared_bytes + 2 * 4 * self.edge_words


def geometry(w: ConvWorkload, config: FewChannelsConfig) -> Geometry:
    return (Geometry if w.epilogue.pool is None else PooledGeometry)(w, config)
