"""Convolutions of few input channels (a network's first) on mma.sync, at the speed of memory.

A block computes a tile of output rows and columns for all channels. The patch of the input that the
tile reads is copied to shared memory as it is, and the first operand gathered from there: the
gather of an implicit GEMM is written nowhere. Accumulators stay in registers through the epilogue.
Persistent blocks copy the next patch while they compute.

    config       the knobs; space: which of them fit, and are worth trying
    plan         a workload and a configuration in numbers, and the layout of shared memory
    kernel       the kernel, in a `block`: from the `patch` and the `weights` to the accumulators
    epilogue     from the accumulators to memory; pool: with the max pool that follows
    footprint    what the kernel takes of a GPU
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes
from schedules.conv.precision import FP16, INT8, UINT8
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.families.few_channels import space as few_channels_space
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.footprint import footprint
from schedules.families.few_channels.kernel import kernel
from schedules.families.few_channels.plan import (
    ADJACENT,
    GROUP,
    PACKS,
    POOL_STEP,
    POOL_TAPS,
    ROWS,
    Plan,
)
from schedules.families.few_channels.space import check, default
from schedules.family import Family, Given, Match, Reject, alone, fitting, other_operands
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
        """Returns the best guess, or why the family declines."""
        reason = _mismatch(w, hardware)
        if reason:
            return Reject(self.name, reason)
        return fitting(self.name, default(w, hardware), hardware)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[FewChannelsConfig]:
        """Returns the configurations worth trying, the best guess first."""
        return few_channels_space.space(w, hardware)

    def check(self, w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)

    def footprint(
        self, w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware
    ) -> Footprint:
        """Returns what the kernel takes of a GPU."""
        return footprint(w, config)

    def schedule(
        self, w: ConvWorkload, config: FewChannelsConfig, hardware: Hardware
    ) -> tirx.PrimFunc:
        """Returns the kernel. Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)
        return kernel(w, config)

    def padded_macs(self, w: ConvWorkload, config: FewChannelsConfig) -> int:
        """Returns the multiply-adds that the instructions carry out."""
        plan = Plan.of(w, config)
        pixels = plan.computed * config.rows * config.across * ROWS
        return pixels * plan.groups * GROUP * plan.steps * PACKS * plan.each

    def signature(self, w: ConvWorkload, config: FewChannelsConfig) -> Signature:
        """Returns the operands; the weight has `Plan.weight_shape`."""
        return Plan.of(w, config).signature

    def pack(
        self, w: ConvWorkload, config: FewChannelsConfig, given: Given
    ) -> dict[str, NDArray[Any]]:
        """Packs the weight as the instruction's second operand, lane by lane."""
        plan = Plan.of(w, config)
        dtype, each = dtypes.get(w.precision.operands[1]).numpy, plan.each
        rows = np.zeros((w.r, each * plan.row_packs, plan.groups * GROUP), dtype)
        taps = given[WEIGHT].transpose(2, 3, 1, 0).reshape(w.r, w.s * w.c, w.k)
        rows[:, plan.lead : plan.lead + w.s * w.c, : w.k] = taps
        packs = np.zeros((plan.steps * PACKS, each, plan.groups * GROUP), dtype)
        packs[: w.r * plan.row_packs] = rows.reshape(w.r * plan.row_packs, each, -1)
        # pack (step, upper, t), element; channel (group, n / 2, tile / 2, tile % 2, n % 2)
        split = packs.reshape(plan.steps, 2, 4, each, plan.groups, 4, 2, 2, 2)
        # group, step, tile / 2, lane = (n / 2, n % 2, t), tile % 2, upper, element
        packed = split.transpose(4, 0, 6, 5, 8, 2, 7, 1, 3).reshape(plan.weight_shape).copy()
        return plan.signature.pack(given, weight=packed)


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
    result = dtypes.get(w.precision.result)
    if w.k % ADJACENT or (result.bytes > 1 and result.name != FP16.result):
        return f"writes eight channels at a time, not {w.k} {result.name}"
    if reason := other_operands(w, FP16, INT8, UINT8):
        return reason
    if w.epilogue.residual or w.window is not None:
        return "adds no residual and writes a tensor of its own"
    pool = w.epilogue.pool
    wanted = ((POOL_TAPS,) * 2, (POOL_STEP,) * 2)
    if pool is not None and ((pool.kernel, pool.stride) != wanted or max(pool.padding) > 1):
        return f"pools 3x3 windows at stride 2, padded by at most 1, not {pool}"
    return ""
