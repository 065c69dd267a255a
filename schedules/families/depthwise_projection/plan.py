"""A pair of convolutions and a configuration in numbers: tiles, patch, shared memory, operands.

A warp computes a tile of `rows` x 8 output pixels, as rows / 2 fragments of mma.sync: two rows of 8
pixels each. All warps of a block read one patch of the input, chunk by chunk of channels. A step is
32 bytes of channels: 16 of fp16, 32 in 8 bits.

Eight pixels of a fragment read inputs that are `stride` columns apart. So that those are adjacent
in shared memory, the columns of a patch are kept phase by phase:

    stride 2          phase 0              phase 1
    column        0   2   4   6   8    1   3   5   7   9        a pixel is `pitch` elements
    position      0   1   2   3   4    5   6   7   8   9
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from intrinsics import dtypes, mma_sync
from intrinsics.dtypes import ElementType
from intrinsics.record import TensorIntrinsic
from schedules.conv.signature import Signature, channel_operands
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.families.depthwise_projection.config import (
    ACROSS,
    COLUMNS,
    DepthwiseProjectionConfig,
)
from schedules.families.depthwise_projection.prologue import (
    GROUP,
    REGISTER,
    VECTOR,
    depth,
    filter_bytes,
    prologue_shape,
)
from schedules.threads.launch import WARP
from schedules.threads.shared_layout import Part, SharedLayout, Stages

#: Output channels of a lane that are adjacent in one instruction.
PAIR = 2
#: Registers of what an epilogue reads up to which a thread has it from the first.
EARLY = 32
#: Instructions of which a thread's output channels are adjacent, tried in this order.
RUNS = (4, 2, 1)


@dataclass(frozen=True)
class Plan:
    """The tiles, the patch, the reductions and the shared memory of a kernel."""

    w: ConvWorkload
    config: DepthwiseProjectionConfig

    @property
    def prologue(self) -> ConvWorkload:
        """The depthwise convolution."""
        assert self.w.prologue is not None
        return self.w.prologue

    @property
    def operand(self) -> ElementType:
        """The element type of what is between, and of what is multiplied: of 16 bits, or of 8; of x
        it is one of the same size."""
        return dtypes.get(self.w.precision.x)

    @property
    def integer(self) -> bool:
        """True if 8-bit integers are multiplied."""
        return self.operand.integer

    @property
    def instruction(self) -> TensorIntrinsic:
        """The mma.sync instruction of the projection."""
        return self.instruction_of(self.w)

    def instruction_of(self, w: ConvWorkload) -> TensorIntrinsic:
        """The mma.sync instruction of one of the two convolutions. Of integers they may differ, as
        x and what is between have each a sign or none."""
        precision = w.precision
        return mma_sync.get(self.depth, precision.operands[0], precision.accumulator)

    @property
    def depth(self) -> int:
        """Channels of a step."""
        return depth(self.w)

    @property
    def vector(self) -> int:
        """Elements of 16 bytes."""
        return VECTOR // self.operand.bytes

    @property
    def pixel_vector(self) -> int:
        """Elements of x that a copy takes: 16 bytes, or eight where pixels are no multiples."""
        return math.gcd(self.vector, self.w.c)

    @property
    def each(self) -> int:
        """Elements of a register of what is multiplied."""
        return self.operand.per_register

    # ---------------------------------------------------------------- tiles of pixels

    @property
    def tile(self) -> tuple[int, int]:
        """Output rows and columns of a block."""
        return self.config.down * self.config.rows, self.config.across * ACROSS

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles along the images, the rows and the columns."""
        down, across = self.tile
        return self.w.n, ceil_div(self.w.p, down), ceil_div(self.w.q, across)

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return math.prod(self.tiles) * self.config.parts

    # ---------------------------------------------------------------- the patch

    @property
    def patch(self) -> tuple[int, int]:
        """Rows and columns of the input that a block reads."""
        (down, across), first = self.tile, self.prologue
        return (
            (down - 1) * first.stride[0] + first.r,
            (across - 1) * first.stride[1] + first.s,
        )

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Rows, positions of columns, and elements of a pixel of the patch in shared memory."""
        return self.patch[0], self.phase * self.prologue.stride[1], self.pitch

    @property
    def pitch(self) -> int:
        """Elements from one pixel of the patch to the next: an odd number of vectors, so that the
        eight rows of a matrix are in different banks."""
        return self.config.chunk * self.depth + self.vector

    @property
    def phase(self) -> int:
        """Columns of the patch in one phase of the stride."""
        return ceil_div(self.patch[1], self.prologue.stride[1])

    # ---------------------------------------------------------------- the reductions

    @property
    def taps(self) -> int:
        """Taps of the depthwise filter."""
        return self.prologue.r * self.prologue.s

    @property
    def steps(self) -> int:
        """Steps of the projection's reduction."""
        return ceil_div(self.w.c, self.depth)

    @property
    def chunks(self) -> int:
        """Chunks of steps."""
        return ceil_div(self.steps, self.config.chunk)

    @property
    def stages(self) -> int:
        """Chunks in shared memory."""
        return min(self.config.stages, self.chunks)

    @property
    def fragments(self) -> int:
        """Fragments of 16 pixels that a warp has."""
        return self.config.rows // 2

    @property
    def patch_rows(self) -> int:
        """Rows of the input that the taps of a warp's tile read, to an even number."""
        stride, r = self.prologue.stride[0], self.prologue.r
        return round_up((self.config.rows - 1) * stride + r, 2)

    @property
    def matrices(self) -> int:
        """Matrices of 8 pixels by 8 channels that the taps of a warp's tile read: row by row for
        each column of the filter."""
        return self.patch_rows * self.prologue.s

    @property
    def loads(self) -> int:
        """Instructions that load those, four at a time."""
        return ceil_div(self.matrices, 4)

    @property
    def spans(self) -> int:
        """Pairs of input rows that two output rows read."""
        return (self.prologue.stride[0] + self.prologue.r - 1) // 2 + 1

    @property
    def columns(self) -> int:
        """Instructions along the output channels."""
        return self.w.k // COLUMNS // self.config.parts

    @property
    def products(self) -> int:
        """Instructions of the depthwise convolution for a fragment and half of a step: of integers
        two for each pair of taps, see `integer_depthwise`."""
        return 2 * self.tap_pairs if self.integer else self.spans * self.prologue.s

    @property
    def tap_pairs(self) -> int:
        """Pairs of the filter's taps, the last of which may lack its second."""
        return ceil_div(self.taps, 2)

    @property
    def run(self) -> int:
        """Instructions of which a thread's output channels are adjacent: at most 16 bytes of them,
        of y or the residual."""
        own = self.w.precision
        stored = [own.result] + [own.added] * self.w.epilogue.residual
        most = VECTOR // max(dtypes.get(one).bytes for one in stored) // PAIR
        return next(run for run in RUNS if self.columns % run == 0 and run <= most)

    @property
    def together(self) -> int:
        """Instructions whose weights a thread loads at a time."""
        return 1 + (self.columns % 2 == 0)

    @property
    def early(self) -> bool:
        """True if what the epilogue reads is loaded before the main loop: of
        integers, by warps of one fragment, and few."""
        return self.integer and self.fragments == 1 and self._read_at_the_end <= EARLY

    @property
    def _read_at_the_end(self) -> int:
        """Registers of what the epilogue has of a thread's channels, and of the residual."""
        own = self.w.precision
        channels = PAIR * self.columns * len(channel_operands(self.w))
        residual = self.fragments * PAIR * PAIR * self.columns * dtypes.get(own.added).bytes
        return channels + residual // REGISTER * self.w.epilogue.residual

    @property
    def registers(self) -> int:
        """Registers that a thread has at least."""
        if self.integer:
            kept = self.fragments * (4 * self.columns + 4)
            filters = 2 * self.filter_bytes // REGISTER + GROUP * len(
                channel_operands(self.prologue)
            )
            early = self._read_at_the_end if self.early else 0
            return kept + early + 3 * self.tap_pairs + filters + 48
        accumulators = self.fragments * (4 * self.columns + 10)
        return accumulators + 3 * self.loads + 4 * self.spans + self.taps + 36

    # ---------------------------------------------------------------- operands, memory

    @property
    def prologue_shape(self) -> tuple[int, int]:
        """Shape of the packed depthwise filter, see `prologue`: (channel, element), or of integers
        (four channels, byte)."""
        return prologue_shape(self.prologue)

    @property
    def filter_elements(self) -> int:
        """Elements of a row of the packed depthwise filter."""
        return self.prologue_shape[1]

    @property
    def filter_rows(self) -> int:
        """Rows of the packed depthwise filter in a chunk."""
        return self.config.chunk * self.depth // (GROUP if self.integer else 1)

    @property
    def filter_bytes(self) -> int:
        """Bytes of one channel's taps, of a filter of integers."""
        return filter_bytes(self.prologue)

    @property
    def weight_shape(self) -> tuple[int, int]:
        """Shape of the packed weight: (step, element). The elements that lanes multiply are one
        after another, for each instruction."""
        return self.steps, self.w.k * self.depth

    @property
    def step_elements(self) -> int:
        """Elements of the weight in one step, for one part of the output channels."""
        return self.columns * COLUMNS * self.depth

    @property
    def signature(self) -> Signature:
        """The operands of the kernel."""
        return Signature.of(self.w, self.weight_shape, self.prologue_shape)

    @cached_property
    def memory(self) -> SharedLayout:
        """Shared memory of a block: stages of a chunk each, over which lie at the end the
        accumulators of those warps that hand them to another."""
        config, dtype = self.config, self.operand.name
        stages = Stages(
            self.stages,
            Part("pixels", dtype, self.patch_shape),
            Part("filters", dtype, (self.filter_rows, self.filter_elements)),
            Part("weights", dtype, (config.chunk, self.step_elements)),
        )
        if config.deep == 1:
            return SharedLayout(stages)
        each = (WARP, 4) if self.integer else (4, WARP)
        shape = (config.deep - 1, config.tiles, self.fragments, self.columns, *each)
        accumulators = Part("accumulators", self.w.precision.accumulator, shape, over="pixels")
        return SharedLayout(stages, accumulators)
