"""A convolution and a configuration of the mma.sync kernel in numbers: extents, steps, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from intrinsics import dtypes, mma_sync
from intrinsics.dtypes import ElementType
from intrinsics.record import TensorIntrinsic
from schedules.conv.gemm import Gemm, Tile
from schedules.conv.signature import Signature
from schedules.conv.workload import ConvWorkload, ceil_div
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.threads.shared_layout import Part, SharedLayout, Stages

#: Rows and columns of a fragment of the configuration, and bytes of its depth.
FRAGMENT, FRAGMENT_BYTES = 16, 32
#: Bytes of a chunk: what a copy moves, ldmatrix reads, and the swizzle permutes.
CHUNK_BYTES = 16
#: Rows below each other that the swizzle puts into different banks.
SWIZZLE_ROWS = 8
#: A unit of the epilogue: its rows and output channels.
UNIT_ROWS, UNIT_COLUMNS = 8, 32
#: Accumulators that pad a row of a unit in shared memory, against bank conflicts.
UNIT_PAD = 4
#: Channels of a unit that a lane stores.
WIDTH = 8


def swizzled(row: Any, chunk: Any, chunks: int) -> Any:
    """Returns the chunk of its row in which chunk `chunk` lies, in rows of so many chunks.

    Takes integers or TVM expressions.
    """
    return chunk ^ (row // max(1, SWIZZLE_ROWS // chunks) % min(SWIZZLE_ROWS, chunks))


def adjacent_channel(column: Any) -> Any:
    """Returns the output channel whose weights lie in a column of a unit where lanes are to hold
    adjacent channels.

    Of 8 columns lane l holds 2 (l % 4) and the next. So ordered, its columns of all four
    instructions are channels 8 (l % 4) to 8 (l % 4) + 7. Takes integers or arrays.
    """
    return column % 8 // 2 * WIDTH + column // 8 * 2 + column % 2


@dataclass(frozen=True)
class Plan:
    """The implicit GEMM of output pixels by output channels, cut into tiles and k-blocks.

    The reduction is a row of fragments: those of the first filter tap's channels, of the second's,
    and so on. A k-block is `config.chunk` of them, wherever taps end.
    """

    w: ConvWorkload
    config: MmaSyncConfig

    @property
    def operand(self) -> ElementType:
        """The element type of x, and of what is multiplied."""
        return dtypes.get(self.w.precision.x)

    @property
    def adjacent(self) -> bool:
        """True if lanes hold adjacent channels, as weights are ordered so: those of integers, which
        no other family reads."""
        return self.operand.integer

    @property
    def depth(self) -> int:
        """Channels of a fragment."""
        return FRAGMENT_BYTES // self.operand.bytes

    @property
    def tile(self) -> Tile:
        """The output tile of a block, and the channels of a k-block."""
        return replace(self.config.tile, i=self.config.chunk * self.depth)

    @property
    def instruction(self) -> TensorIntrinsic:
        """The mma.sync instruction that multiplies. Raises ``LookupError`` where there is none."""
        precision = self.w.precision
        return mma_sync.get(self.depth, precision.operands[0], precision.accumulator)

    @cached_property
    def signature(self) -> Signature:
        """The operands of the kernel."""
        return Signature.of(self.w, self.weight_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weight: that of `gemm.pack_weight`, channels innermost if bytes,
        which ldmatrix does not transpose."""
        *outer, depth, columns = self.gemm.weight_shape
        return (*outer, columns, depth) if self.adjacent else self.gemm.weight_shape

    # ---------------------------------------------------------------- extents

    @cached_property
    def gemm(self) -> Gemm:
        """The implicit GEMM. Its taps are padded to a fragment each."""
        return Gemm.of(self.w, replace(self.config.tile, i=self.depth, fragment_i=self.depth))

    @property
    def tap_fragments(self) -> int:
        """Fragments along the channels of a filter tap."""
        return self.gemm.i_pad // self.depth

    @property
    def fragments(self) -> int:
        """Fragments along the whole reduction."""
        return self.gemm.reduction.outer * self.tap_fragments

    @property
    def steps(self) -> int:
        """K-blocks of the whole reduction."""
        return ceil_div(self.fragments, self.config.chunk)

    @property
    def ends_within(self) -> bool:
        """True where the reduction ends within its last k-block."""
        return self.fragments % self.config.chunk > 0

    @property
    def units(self) -> int:
        """Units of the epilogue in an output tile."""
        tile = self.config.tile
        return tile.m // UNIT_ROWS * (tile.k // UNIT_COLUMNS)

    @property
    def warp_fragments(self) -> int:
        """Fragments along the reduction that a warp multiplies of each k-block."""
        return self.config.chunk // self.config.warps_i

    # ---------------------------------------------------------------- shared memory

    @property
    def vector(self) -> int:
        """Elements of a chunk."""
        return CHUNK_BYTES // self.operand.bytes

    @property
    def fragment_chunks(self) -> int:
        """Chunks of a row of a fragment."""
        return self.depth // self.vector

    @property
    def pixel_chunks(self) -> int:
        """Chunks of a row of pixels in a stage."""
        return self.config.chunk * self.fragment_chunks

    @cached_property
    def memory(self) -> SharedLayout:
        """Shared memory of a block: stages of the pipeline, and over them, at the end, the
        accumulators that are to be added.

        A stage has for each row of the tile the channels of a k-block, swizzled, and the weights
        as they are packed: tiles of 16 channels by 16 output channels, swizzled; of bytes, of 16
        output channels by 32 channels.
        """
        config, tile, precision = self.config, self.tile, self.w.precision
        weight, across = dtypes.get(precision.operands[1]).stored, tile.k // FRAGMENT
        stages = Stages(
            config.stages,
            Part("pixels", precision.x, (tile.m, tile.i)),
            Part("weights", weight, (config.chunk, across, *self.weight_shape[-2:])),
        )
        if not config.splits_reduction:
            return SharedLayout(stages)
        units = (config.warps_i, self.units, UNIT_ROWS, UNIT_COLUMNS + UNIT_PAD)
        accumulators = Part("accumulators", precision.accumulator, units, over="pixels")
        return SharedLayout(stages, accumulators)

    @property
    def stage_bytes(self) -> int:
        """Bytes from one stage to the next."""
        return self.memory["pixels"].outer
