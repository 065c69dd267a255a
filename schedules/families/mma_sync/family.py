"""Convolution as an implicit GEMM on mma.sync, in a kernel written thread by thread.

    config      the knobs; space: which of them fit, and are worth trying
    plan        a workload and a configuration in numbers, and the layout of shared memory
    kernel      the kernel: its main loop, for a `block`
    copies      pixels and weights to shared memory, stages ahead
    fragments   operands from shared memory to registers, and their products
    epilogue    accumulators to the output
    footprint   what the kernel takes of a GPU

A block computes a tile of outputs. Its threads copy k-blocks to shared memory by cp.async, 16 bytes
at a time: for each row of the tile the channels that a filter tap reads (the gather), and the
weights as they are packed. Each warp loads fragments with ldmatrix, one ahead of the
multiplications, and keeps its accumulators in registers to the end.

A schedule can't say what makes it fast: a row's place in the image is computed once and then
stepped, a mask of valid taps stands for the conditions of the padding, and copies and loads are
dealt out between multiplications.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes
from intrinsics.mma_sync import M16N8K16
from schedules.conv.gemm import Reduction, pack_weight
from schedules.conv.precision import FP16, INT8, UINT8
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.families.mma_sync import space as mma_sync_space
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.footprint import footprint
from schedules.families.mma_sync.kernel import kernel
from schedules.families.mma_sync.plan import (
    CHUNK_BYTES,
    UNIT_COLUMNS,
    Plan,
    adjacent_channel,
)
from schedules.families.mma_sync.space import check
from schedules.family import Family, Given, Match, Reject, alone, fitting, other_operands
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: Filter taps that a row's mask of valid taps has bits for.
MOST_TAPS = 32


class MmaSyncFamily(Family):
    """NHWC to NHWC, or to a window of NHWC, on GPUs from Ampere on."""

    name = "mma_sync"
    tensorized = True
    config_type: type = MmaSyncConfig
    version = 1
    default_measured = True

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Returns the best guess, or why the family declines."""
        reason = _unsuited(w, hardware)
        if reason:
            return Reject(self.name, reason)
        return fitting(self.name, next(mma_sync_space.guesses(w, hardware), None), hardware)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[MmaSyncConfig]:
        """Returns the configurations worth trying, the best guess first."""
        return mma_sync_space.space(w, hardware)

    def check(self, w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)

    def footprint(self, w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> Footprint:
        """Returns what the kernel takes of a GPU."""
        return footprint(w, config)

    def schedule(self, w: ConvWorkload, config: MmaSyncConfig, hardware: Hardware) -> tirx.PrimFunc:
        """Returns the kernel. Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)
        return kernel(w, config)

    def padded_macs(self, w: ConvWorkload, config: MmaSyncConfig) -> int:
        """Returns the multiply-adds that the instructions carry out."""
        plan = Plan(w, config)
        return w.groups * plan.gemm.m_pad * plan.gemm.k_pad * plan.steps * plan.tile.i

    def signature(self, w: ConvWorkload, config: MmaSyncConfig) -> Signature:
        """Returns the operands; the weight has `Plan.weight_shape`."""
        return Plan(w, config).signature

    def pack(self, w: ConvWorkload, config: MmaSyncConfig, given: Given) -> dict[str, NDArray[Any]]:
        """Packs the weight as the WMMA families do, so that buckets can share it. Bytes lie with
        channels innermost, output channels in the order of `adjacent_channel`."""
        plan = Plan(w, config)
        weight = pack_weight(w, plan.gemm.tile, given[WEIGHT])
        if plan.adjacent:
            *outer, tiles, depth, columns = weight.shape
            rows = weight.swapaxes(-1, -2).reshape(*outer, -1, UNIT_COLUMNS, depth)
            order = adjacent_channel(np.arange(UNIT_COLUMNS))
            weight = rows[..., order, :].reshape(*outer, tiles, columns, depth)
        return plan.signature.pack(given, weight=weight)


def _unsuited(w: ConvWorkload, hardware: Hardware) -> str:
    """Why the family does not take `w`; empty if it does."""
    if more := alone(w):
        return more
    if hardware.kind != "cuda":
        return "written in instructions of a GPU"
    if hardware.sm < M16N8K16.min_sm:
        return f"{hardware.name} lacks mma.sync m16n8k16 and cp.async"
    layouts = [w.in_layout, w.out_layout] + [w.epilogue.residual_layout] * w.epilogue.residual
    for layout in layouts:
        if layout.packed:
            return f"everything has to be NHWC, and something is {layout}"
    width = CHUNK_BYTES // dtypes.get(w.precision.x).bytes
    if w.group_c % width or Reduction.of(w).by_rows:
        return f"copies take {CHUNK_BYTES} bytes, so {width} channels, and a group has {w.group_c}"
    if w.r * w.s > MOST_TAPS:
        return f"{w.r * w.s} filter taps, and the mask of valid ones has {MOST_TAPS} bits"
    if max(math.prod(shape) for shape in (w.in_shape, w.buffer_shape, w.residual_shape)) >= 2**31:
        return "elements are numbered in 32 bits, and a tensor has more"
    return other_operands(w, FP16, INT8, UINT8)
