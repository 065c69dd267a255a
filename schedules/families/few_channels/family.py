"""Convolutions of few input channels (a network's first) on mma.sync, at the speed of memory.

A block computes a tile of output rows and columns for all channels. It copies the patch of the
input that the tile reads to shared memory as it is, in vectors of up to 16 bytes, zeros where it is
padding. A register of the instruction's first operand is a pair of adjacent halves of a patch row,
which a thread reads from there at an address that is the pixel's plus the pair's: the latter is a
table of offsets in registers. So the gather of an implicit GEMM is never written anywhere. The sums
stay in registers through the epilogue; the filter's columns are packed in such an order that a
thread's are adjacent output channels, which it writes 16 bytes at a time.

With ``blocks``, a block computes several tiles, and copies the next patch while it computes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes
from schedules.conv.precision import Precision
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.families.few_channels import config as few_channels_config
from schedules.families.few_channels.config import FewChannelsConfig, check, default
from schedules.families.few_channels.footprint import footprint
from schedules.families.few_channels.geometry import (
    GROUP,
    PAIRS,
    POOL_STEP,
    POOL_TAPS,
    ROWS,
    Geometry,
    PooledGeometry,
    geometry,
)
from schedules.families.few_channels.kernel import Kernel
from schedules.families.few_channels.pool import PooledKernel
from schedules.family import Family, Given, Match, Reject, alone, fitting, other_precision
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: With more input channels the other families copy in whole vectors, and waste nothing.
MOST_CHANNELS = 4
#: In narrower images more than half of every instruction would be padding.
FEWEST_COLUMNS = 8
#: cp.async and m16n8k16 are there from Ampere on.
MIN_SM = 80


class FewChannelsFamily(Family):
    """NHWC to NHWC, at most `MOST_CHANNELS` input channels."""

    name = "few_channels"
    tensorized = True
    config_type: type = FewChannelsConfig
    version = 2
    default_measured = True

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        reason = _mismatch(w, hardware)
        if reason:
            return Reject(self.name, reason)
        return fitting(self.name, default(w, hardware), hardware)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[FewChannelsConfig]:
        return few_channels_config.space(w, hardware)

    def check(self, w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> None:
        check(w, config, hardware)

    def footprint(
        self, w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware
    ) -> Footprint:
        return footprint(w, config)

    def schedule(
        self, w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware
    ) -> tirx.PrimFunc:
        check(w, config, hardware)
        g = geometry(w, config)
        return (PooledKernel(g) if isinstance(g, PooledGeometry) else Kernel(g)).function()

    def padded_macs(self, w: ConvWorkload, config: FewChannelsConfig) -> int:
        g = geometry(w, config)
        pixels = g.computed * config.rows * config.across * ROWS
        return pixels * g.groups * GROUP * g.steps * PAIRS * 2

    def signature(self, w: ConvWorkload, config: FewChannelsConfig) -> Signature:
        """Returns the operands; the weight has ``Geometry.weight_shape``."""
        return Geometry(w, config).signature

    def pack(
        self, w: ConvWorkload, config: FewChannelsConfig, given: Given
    ) -> dict[str, NDArray[Any]]:
        """Packs the weight as the instruction's second operand, lane by lane."""
        g = Geometry(w, config)
        dtype = dtypes.get(w.precision.operands[1]).numpy
        rows = np.zeros((w.r, 2 * g.row_pairs, g.groups * GROUP), dtype)
        taps = given[WEIGHT].transpose(2, 3, 1, 0).reshape(w.r, w.s * w.c, w.k)
        rows[:, g.lead : g.lead + w.s * w.c, : w.k] = taps
        pairs = np.zeros((g.steps * PAIRS, 2, g.groups * GROUP), dtype)
        pairs[: w.r * g.row_pairs] = rows.reshape(w.r * g.row_pairs, 2, -1)
        # pair (step, upper, t), element; channel (group, n / 2, tile / 2, tile % 2, n % 2)
        split = pairs.reshape(g.steps, 2, 4, 2, g.groups, 4, 2, 2, 2)
        # group, step, tile / 2, lane = (n / 2, n % 2, t), tile % 2, upper, element
        packed = split.transpose(4, 0, 6, 5, 8, 2, 7, 1, 3).reshape(g.weight_shape).copy()
        return g.signature.pack(given, weight=packed)


def _mismatch(w: ConvWorkload, hardware: Hardware) -> str:
    """Why the family does not take `w`; empty where it does."""
    if w.prologue is not None:
        return alone(w)
    if w.c > MOST_CHANNELS:
        return f"{w.c} input channels; it is for at most {MOST_CHANNELS}"
    if hardware.kind != "cuda":
        return "written in instructions of a GPU"
    if hardware.sm < MIN_SM:
        return f"mma.sync m16n8k16 and cp.async need sm_{MIN_SM}, this is {hardware.name}"
    if w.groups != 1:
        return f"{w.groups} groups"
    if w.in_layout.packed or w.out_layout.packed:
        return f"reads and writes NHWC, not {w.in_layout} and {w.out_layout}"
    if w.q < FEWEST_COLUMNS:
        return f"{w.q} columns, an instruction takes {ROWS} pixels of a row"
    if w.dilation != (1, 1):
        return f"dilation {w.dilation}: columns of the filter are not adjacent"
    if w.k % 8 or w.precision.result != w.precision.x:
        return f"writes eight channels at a time, not {w.k} {w.precision.result}"
    if reason := other_precision(w, Precision()):
        return reason
    if w.epilogue.residual or w.window is not None:
        return "adds no residual and writes a tensor of its own"
    pool = w.epilogue.pool
    wanted = ((POOL_TAPS,) * 2, (POOL_STEP,) * 2)
    if pool is not None and ((pool.kernel, pool.stride) != wanted or max(pool.padding) > 1):
        return f"pools 3x3 windows at stride 2, padded by at most 1, not {pool}"
    return ""
