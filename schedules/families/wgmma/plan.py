"""A convolution and a configuration of the WGMMA kernel in numbers: extents, tiles, memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes, wgmma
from intrinsics.dtypes import ElementType
from intrinsics.record import TensorIntrinsic
from schedules.conv.signature import Signature
from schedules.conv.workload import ConvWorkload, ceil_div, round_up
from schedules.families.wgmma.config import WgmmaConfig
from schedules.machine.hardware import Hardware
from schedules.threads.shared_layout import BARRIER, Part, SharedLayout

#: Elements that pad a row of accumulators in shared memory, against bank conflicts: where lanes
#: hold pairs of columns, and where they hold four.
ACCUMULATORS_PAD, ADJACENT_PAD = 4, 16
#: The longest row of a piece of the output: the longest that can be swizzled.
PIECE_BYTES = 128
#: A swizzle repeats after 8 rows of 128 bytes, and is computed from the address.
SWIZZLE_ALIGNMENT = 1024


def depth(w: ConvWorkload) -> int:
    """Channels of one step of the reduction: a row of 128, 64 or 32 bytes in shared memory.

    The widest that pads C by a third at most. It depends on C and its dtype alone, so that the
    packed weight is the same array for every batch and every configuration.
    """
    size = dtypes.get(w.precision.operands[0]).bytes
    wide, middle, narrow = (row // size for row in (128, 64, 32))
    for channels in (wide, middle):
        if 3 * round_up(w.c, channels) <= 4 * w.c:
            return channels
    return narrow


def corners(w: ConvWorkload) -> tuple[int, int, int, int]:
    """The box that a copy's first pixels stay in, relative to the image: its lower (W, H), then
    its upper (W, H) from the image's last pixel."""
    top, left, bottom, right = w.padding
    down, across = w.dilation[0] * (w.r - 1), w.dilation[1] * (w.s - 1)
    return -left, -top, right - across, bottom - down


@dataclass(frozen=True)
class Plan:
    """The implicit GEMM of M output pixels by K output channels, cut into tiles.

    The reduction runs over taps x `chunks` steps of `depth` channels.
    """

    w: ConvWorkload
    config: WgmmaConfig

    @property
    def operand(self) -> ElementType:
        """The element type of x, and of what is multiplied."""
        return dtypes.get(self.w.precision.x)

    @property
    def stored(self) -> ElementType:
        """The element type of y."""
        return dtypes.get(self.w.precision.result)

    @property
    def added(self) -> ElementType:
        """The element type of the residual."""
        return dtypes.get(self.w.precision.added)

    @property
    def adjacent(self) -> bool:
        """True where the rows of the weight are ordered so that a thread has adjacent columns
        (`wgmma.adjacent_row`): of all precisions with integers."""
        return dtypes.get(self.w.precision.accumulator).integer or self.stored.integer

    @property
    def instruction(self) -> TensorIntrinsic:
        """The wgmma instruction that multiplies."""
        precision = self.w.precision
        return wgmma.get(self.config.columns, precision.operands[0], precision.accumulator)

    @property
    def signature(self) -> Signature:
        """The operands of the kernel."""
        return Signature.of(self.w, self.weight_shape)

    # ---------------------------------------------------------------- extents

    @property
    def depth(self) -> int:
        """Channels of one step of the reduction."""
        return depth(self.w)

    @property
    def chunks(self) -> int:
        """Steps of the reduction for each tap."""
        return ceil_div(self.w.c, self.depth)

    @property
    def steps(self) -> int:
        """Steps of the reduction."""
        return self.w.r * self.w.s * self.chunks

    @property
    def m(self) -> int:
        """Output pixels."""
        return self.w.n * self.w.p * self.w.q

    @property
    def k_packed(self) -> int:
        """Rows of the packed weight: whole swizzles, or whole groups of adjacent columns."""
        return round_up(self.w.k, wgmma.ADJACENT if self.adjacent else wgmma.SWIZZLE_ROWS)

    @property
    def weight_rows(self) -> NDArray[np.intp]:
        """The row of the packed weight in which each output channel lies."""
        k = np.arange(self.w.k)
        if not self.adjacent:
            return k
        return k // wgmma.ADJACENT * wgmma.ADJACENT + wgmma.adjacent_row(k % wgmma.ADJACENT)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weight: (taps, chunks, K, depth)."""
        return (self.w.r * self.w.s, self.chunks, self.k_packed, self.depth)

    @property
    def flat(self) -> bool:
        """True where every input pixel is an output's, in order: the gather is a matrix's rows."""
        w = self.w
        return w.r == w.s == 1 and w.stride == (1, 1) and not any(w.padding)

    # ---------------------------------------------------------------- tiles

    @property
    def tiles_k(self) -> int:
        """Tiles side by side along K."""
        return ceil_div(self.w.k, self.config.columns)

    @property
    def tiles(self) -> int:
        """Tiles of the output."""
        return ceil_div(self.m, self.config.rows) * self.tiles_k

    @property
    def clustered(self) -> bool:
        """True where every tile has a cluster of its own, whose blocks add their accumulators up
        through shared memory and store without the copy engine; else blocks are persistent."""
        return self.config.split > 1 or bool(self.engine_problems)

    @property
    def engine_problems(self) -> list[str]:
        """Why the copy engine can't store the output (or load the residual); empty if it can."""
        w, window = self.w, self.w.window
        run = wgmma.CHUNK_BYTES // self.stored.bytes
        problems = []
        if self.stored.bytes > 2 if self.adjacent else self.stored != self.operand:
            problems.append(f"{w.precision.result} output")
        if w.epilogue.residual and self.added.bytes != self.stored.bytes:
            problems.append(f"{w.precision.added} residual of {w.precision.result} output")
        if w.k % run:
            problems.append(f"output channels no multiple of {run}")
        if window is not None:
            whole = (window.rows, window.columns) == (w.p, w.q)
            if not whole or window.shuffle > 1 or window.channels % run or window.channel % run:
                problems.append("the output is a scattered part of a tensor")
        return problems

    def grid(self, hardware: Hardware) -> int:
        """Blocks of the launch: a cluster for each tile, or as many persistent blocks as all
        multiprocessors hold at once."""
        if self.clustered:
            return self.tiles * self.config.split
        return min(self.tiles, hardware.card.multiprocessors * self.config.resident)

    @property
    def piece(self) -> int:
        """Columns that leave through shared memory at a time: at most 128 bytes."""
        most = PIECE_BYTES // self.stored.bytes
        return next((p for p in (128, 64, 32, 16) if p <= most and self.config.columns % p == 0), 0)

    @property
    def gate_registers(self) -> int:
        """Registers of a consumer's thread for the gate of its part of a step; 0 without one."""
        rows = self.config.group_rows * self.row_bytes // wgmma.WARPGROUP
        return rows // 4 if self.w.gate else 0

    @property
    def pieces(self) -> int:
        """Pieces in which a warpgroup's part of a tile leaves."""
        return self.config.fragments * self.config.columns // self.piece

    # ---------------------------------------------------------------- shared memory

    @property
    def row_bytes(self) -> int:
        """Bytes of `depth` channels: a row of an operand in shared memory, swizzled."""
        return self.depth * self.operand.bytes

    @cached_property
    def memory(self) -> SharedLayout:
        """Shared memory of a block: stages, what a tile leaves through, mbarriers.

        Persistent blocks have buffers for each consumer, in which pieces of its tile leave while
        the next stages arrive. Clustered blocks have one tile: accumulators lie over stages.
        """
        config, dtype = self.config, self.operand.name
        multiplied = dtypes.get(self.w.precision.operands[1]).stored
        pixels = Part("pixels", dtype, (config.stages, config.rows, self.depth))
        weights = Part("weights", multiplied, (config.stages, config.columns, self.depth))
        pad = ADJACENT_PAD if self.adjacent else ACCUMULATORS_PAD
        tile = (config.rows, config.columns + pad)
        buffers = (config.warpgroups, config.buffers)
        piece = (*buffers, wgmma.M, self.piece)
        leaves = (
            Part("accumulators", self.w.precision.accumulator, tile, over="pixels")
            if self.clustered
            else Part("pieces", self.stored.name, piece, align=SWIZZLE_ALIGNMENT)
        )
        return SharedLayout(
            pixels,
            weights,
            leaves,
            Part("full", BARRIER, (config.stages,)),
            Part("empty", BARRIER, (config.stages,), align=8),
            Part("residual", BARRIER, buffers, align=8),
        )

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a stage's pixels."""
        return self.memory["pixels"].stride(1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of a stage's weights."""
        return self.memory["weights"].stride(1)

    @property
    def piece_bytes(self) -> int:
        """Bytes of a piece of the output, or of the residual."""
        return wgmma.M * self.piece * self.stored.bytes
