"""A convolution of few channels and a configuration in numbers: tiles, patch, shared memory.

A block computes tiles of output rows and columns for all channels. It copies the patch of the input
that a tile reads to shared memory as it lies in memory, and gathers the first operand of mma.sync
from there. A register of that operand is a pack, a pair of fp16 or four bytes, so the reduction is
numbered in packs. In NHWC a filter row of S columns and C channels is one run of memory, which
takes `row_packs` packs, of fp16:

    element of x's row   -16             -10  -9                           12
                          +---------------+----+----------------------------+----
    row of the patch      |     start     |lead|  S * C inputs of pixel 0   |
                          +---------------+----+----------------------------+----
    packs of pixel 0                      [   0   ][  1  ][  2  ]   ...  [ 10 ]

    (the first convolution of ResNet: S = 7, C = 3, padding 3, stride 2, vectors of 8 elements)

A patch row begins with a whole vector, so that copies are aligned, `before` elements ahead of the
first input of the tile's first pixel. Packs begin at even elements, so `before` is an even `start`
and `lead`, 0 or 1 elements that meet zero weights. The next pixel's packs begin `pixel` elements
further on. Where that is odd, every second pixel reads a second copy of the patch, shifted by one
element. Of bytes, packs begin at multiples of four: `lead` is up to 3, and pixels that are `pixel`
= 6 bytes apart read two copies, shifted by two bytes; where `pixel` is odd there are four copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from intrinsics import dtypes, mma_sync
from intrinsics.dtypes import ElementType
from intrinsics.record import TensorIntrinsic
from schedules.conv.max_pool import MaxPool
from schedules.conv.signature import Signature
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.threads import packed_integers
from schedules.threads.launch import WARP
from schedules.threads.shared_layout import Part, SharedLayout

#: mma.sync m16n8k16, or k32 of bytes: rows, columns, and packs of the reduction of an instruction.
ROWS, COLUMNS, PACKS = 16, 8, 8
#: Bytes of the widest access, and of the least that cp.async moves.
VECTOR_BYTES, LEAST_BYTES = 16, 4
#: Output channels of four instructions, of which every thread holds so many adjacent ones.
GROUP, ADJACENT = 4 * COLUMNS, 8
#: Banks of shared memory, of 4 bytes.
BANKS = 32
#: Rows and columns from one pooled window to the next, and of a window.
POOL_STEP, POOL_TAPS = 2, 3
#: Pairs of columns that are whole vectors in any image.
OVERLAP = 4


@dataclass(frozen=True)
class Plan:
    """The tiles, the patch and the shared memory of a kernel without a pool."""

    w: ConvWorkload
    config: FewChannelsConfig

    @staticmethod
    def of(w: ConvWorkload, config: FewChannelsConfig) -> Plan:
        """Returns the plan: a `PooledPlan` where a pool follows."""
        return (Plan if w.epilogue.pool is None else PooledPlan)(w, config)

    @property
    def operand(self) -> ElementType:
        """The element type of x and of what is multiplied, of 16 or 8 bits."""
        return dtypes.get(self.w.precision.x)

    @property
    def widest(self) -> int:
        """Elements of the widest access."""
        return VECTOR_BYTES // self.operand.bytes

    @property
    def each(self) -> int:
        """Elements of a pack: those that share a register."""
        return self.operand.per_register

    @property
    def instruction(self) -> TensorIntrinsic:
        """The mma.sync instruction that multiplies."""
        precision = self.w.precision
        return mma_sync.get(self.each * PACKS, precision.operands[0], precision.accumulator)

    @property
    def held(self) -> ElementType:
        """The element type of results in registers, of 16 bits: 8-bit integers are stored last."""
        result = dtypes.get(self.w.precision.result)
        return dtypes.get(packed_integers.ELEMENT) if result.integer else result

    # ---------------------------------------------------------------- a row of the patch

    @property
    def pixel(self) -> int:
        """Elements between the first inputs of adjacent output pixels."""
        return self.w.stride[1] * self.w.c

    @property
    def copies(self) -> int:
        """Copies of a patch: 2 where every second pixel begins in the middle of a pack, 4 where
        pixels begin at every byte of one."""
        return self.each // math.gcd(self.pixel, self.each)

    @property
    def vector(self) -> int:
        """Elements of a copy to shared memory: all rows of x begin at a multiple, and so do tiles.
        Bytes are copied one by one if not four by four."""
        vector = math.gcd(self.w.w * self.w.c, 2 * OVERLAP * self.pixel, self.widest)
        return vector if vector * self.operand.bytes >= LEAST_BYTES else 1

    @property
    def _before(self) -> int:
        """Elements of a patch row before the first input of the first pixel."""
        return -self.w.padding[1] * self.w.c % self.vector if self.vector > 1 else 0

    @property
    def lead(self) -> int:
        """Zero weights before each filter row, so that its first pack begins at a multiple."""
        return self._before % self.each

    @property
    def start(self) -> int:
        """Element of a patch row, a multiple of `each`, at which the first pixel's packs begin."""
        return self._before - self.lead

    @property
    def first_element(self) -> int:
        """Element of a row of x at which the patch of the first tile begins."""
        return -self.w.padding[1] * self.w.c - self._before

    @property
    def row_packs(self) -> int:
        """Packs of a filter row."""
        return ceil_div(self.lead + self.w.s * self.w.c, self.each)

    @property
    def steps(self) -> int:
        """Steps of the reduction, one instruction deep."""
        return ceil_div(self.w.r * self.row_packs, PACKS)

    @property
    def vectors(self) -> int:
        """Vectors of a patch row."""
        last = (self.config.across * ROWS - 1) * self.pixel + self.each * self.row_packs
        whole = ceil_div(self.start + last, max(self.vector, self.each))
        return whole * max(self.each // self.vector, 1)

    @property
    def patch_rows(self) -> int:
        """Rows of a patch."""
        return (self.config.rows - 1) * self.w.stride[0] + self.w.r

    @property
    def pitch(self) -> int:
        """Packs from one row of a patch to the next.

        As if filter rows followed each other, modulo the 32 banks of shared memory: so packs of two
        rows are as free of conflicts as those of one.
        """
        least = round_up(self.vectors * self.vector, self.widest) // self.each
        wanted = round_up(self.row_packs, 4)
        return least + (wanted - least) % BANKS

    @property
    def copy_rows(self) -> int:
        """Rows of a copy of a patch. Two copies of bytes, of which adjacent pixels read adjacent
        packs, are half of the banks apart where rows make that up."""
        found = range(self.patch_rows, self.patch_rows + BANKS)
        if self.operand.bytes > 1 or self.copies != 2:
            return self.patch_rows
        return next((n for n in found if n * self.pitch % BANKS == BANKS // 2), self.patch_rows)

    # ---------------------------------------------------------------- tiles

    @property
    def groups(self) -> int:
        """Groups of output channels."""
        return ceil_div(self.w.k, GROUP)

    @property
    def part_groups(self) -> int:
        """Groups of output channels that one warp computes."""
        return ceil_div(self.groups, self.config.parts)

    @property
    def first_row(self) -> int:
        """Output row, before the pool, at which the first tile of an image begins."""
        return 0

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles along the images, the rows and the columns."""
        w, config = self.w, self.config
        return w.n, ceil_div(w.p, config.rows), ceil_div(w.q, config.across * ROWS)

    @property
    def total(self) -> int:
        """Tiles of all images."""
        return math.prod(self.tiles)

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return min(self.config.blocks or self.total, self.total)

    @property
    def rounds(self) -> int:
        """Tiles that a block computes, one after another."""
        return ceil_div(self.total, self.blocks)

    @property
    def computed(self) -> int:
        """Tiles that all blocks together compute."""
        return self.total

    @property
    def uneven(self) -> bool:
        """True where some blocks have no tile in the last round."""
        return bool(self.total % self.blocks)

    # ---------------------------------------------------------------- operands, memory

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weight: (group, step, half, lane, `widest`).

        The last two axes are what the lanes multiply in two instructions, 16 bytes each.
        """
        return (self.groups, self.steps, 2, WARP, self.widest)

    @property
    def signature(self) -> Signature:
        """The operands of the kernel."""
        return Signature.of(self.w, self.weight_shape)

    @property
    def stages(self) -> int:
        """Patches in shared memory: the next tile's arrives while one is computed."""
        return 2 if self.rounds > 1 else 1

    @property
    def parts(self) -> list[Part]:
        """The parts of shared memory: patches, and the filter if it is kept there."""
        patch = (self.stages, self.copies, self.copy_rows, self.each * self.pitch)
        found = [Part("patches", self.operand.name, patch)]
        if self.config.weights == "shared":
            *fragments, lanes, vector = self.weight_shape
            shape = (math.prod(fragments), lanes, vector)
            found.append(Part("weights", self.w.precision.operands[1], shape))
        return found

    @cached_property
    def memory(self) -> SharedLayout:
        """Shared memory of a block."""
        return SharedLayout(*self.parts)

    @property
    def registers(self) -> int:
        """Registers that a thread has at least: for accumulators, offsets of packs, fragments, and
        the filter if it is kept there."""
        groups = self.part_groups
        kept = 8 * groups * (self.steps if self.config.weights == "registers" else 1)
        return 16 * groups * self.config.down + 2 * self.steps + 4 * self.config.down + kept + 20


@dataclass(frozen=True)
class PooledPlan(Plan):
    """The same with the max pool that follows: 3x3 windows at stride 2, padded by 0 or 1.

    The last row of a tile belongs to the first windows of the tile below as well. So a block
    computes tiles below each other, and first the one above its own, for its last row alone. Tiles
    side by side overlap.
    """

    @property
    def pool(self) -> MaxPool:
        """The pool."""
        assert self.w.epilogue.pool is not None
        return self.w.epilogue.pool

    @property
    def windows(self) -> int:
        """Windows above each other in a tile."""
        return self.config.rows // POOL_STEP

    @property
    def idle(self) -> int:
        """Tiles of an image, from above, that pool nothing: where no padding is above, one, of
        which only the last row is inside of the image."""
        return 1 - self.pool.padding[0]

    @property
    def first_row(self) -> int:
        """Output row, before the pool, at which the first tile of an image begins. The last row of
        an idle tile is the image's first."""
        return self.idle * (1 - self.config.rows)

    @property
    def overlap(self) -> int:
        """Pairs of columns that a tile has in common with the one beside it: one is needed, but
        patches begin with whole vectors."""
        pairs = self.config.across * ROWS // POOL_STEP
        columns = ceil_div(self.w.q, POOL_STEP)
        return 0 if pairs >= max(columns, self.pool.size[1]) else OVERLAP

    @property
    def columns(self) -> int:
        """Pooled columns of a tile."""
        return self.config.across * ROWS // POOL_STEP - self.overlap

    @property
    def skipped(self) -> int:
        """Pairs of columns of a tile before the first that it pools: windows padded at the left
        take a column from the pair before them."""
        return self.overlap * self.pool.padding[1]

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles along the images, the rows and the columns."""
        rows = self.idle + ceil_div(self.pool.size[0], self.windows)
        return self.w.n, rows, ceil_div(self.pool.size[1], self.columns)

    @property
    def share(self) -> int:
        """Tiles whose results a block writes."""
        return ceil_div(self.total, min(self.config.blocks or self.total, self.total))

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return ceil_div(self.total, self.share)

    @property
    def rounds(self) -> int:
        """Tiles that a block computes: its share, and the one above."""
        return self.share + 1

    @property
    def computed(self) -> int:
        """Tiles that all blocks together compute."""
        return self.total + self.blocks

    @property
    def uneven(self) -> bool:
        """False: a tile that does not exist is computed, and not stored."""
        return False

    @property
    def parts(self) -> list[Part]:
        """The same, and ``edges``: a column that each warp leaves for the one beside it, in two
        buffers, since rounds alternate."""
        edges = (2, self.windows, self.config.across, self.groups, GROUP)
        return [*super().parts, Part("edges", self.held.name, edges)]
