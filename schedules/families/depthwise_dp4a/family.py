"""Depthwise convolutions of 8-bit integers, four taps in an instruction (dp4a), NHWC.

With channels last a register that is loaded holds four channels of a pixel. Transposed by byte
permutations, it holds four columns of one channel, and one instruction multiplies them by the taps
of a filter row. A thread computes a tile of a few rows and columns, for four channels or more, so
that each row is loaded and transposed once. What adjacent tiles share comes from L1 and L2.

    config       the knobs; space: which of them fit, and are worth trying
    plan         a workload and a configuration in numbers; how taps are packed
    kernel       the kernel, of a `tile`: from the `patch` to the sums
    epilogue     from the sums to memory
    footprint    what the kernel takes of a GPU
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes
from schedules.conv.precision import INT8, UINT8
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload, round_up
from schedules.families.depthwise_dp4a import space as dp4a_space
from schedules.families.depthwise_dp4a.config import DepthwiseDp4aConfig
from schedules.families.depthwise_dp4a.footprint import footprint
from schedules.families.depthwise_dp4a.kernel import kernel
from schedules.families.depthwise_dp4a.plan import QUAD, Plan
from schedules.families.depthwise_dp4a.space import adjacent, check, default
from schedules.family import Family, Given, Match, Reject, alone, fitting, other_operands
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware
from schedules.threads.byte_products import MOST

#: dp4a is there from sm_61 on; kernels of `schedules.threads` run from here on.
MIN_SM = 80
#: With more taps a sum of products of 8 bits may be too large for the epilogue.
MOST_TAPS = MOST // (255 * 128)


class DepthwiseDp4aFamily(Family):
    """Takes NHWC convolutions of 8-bit integers with one filter for each channel."""

    name = "depthwise_dp4a"
    version = 1
    default_measured = False
    config_type: type = DepthwiseDp4aConfig
    tensorized = False

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Returns the first of the space, or why the family declines."""
        if reason := _mismatch(w, hardware):
            return Reject(self.name, reason)
        return fitting(self.name, default(w, hardware), hardware)

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[DepthwiseDp4aConfig]:
        """Yields tiles of several shapes and block sizes."""
        return dp4a_space.space(w, hardware)

    def check(self, w: ConvWorkload, config: DepthwiseDp4aConfig, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)

    def footprint(
        self, w: ConvWorkload, config: DepthwiseDp4aConfig, hardware: Hardware
    ) -> Footprint:
        """Returns what the kernel takes of a GPU."""
        return footprint(w, config)

    def schedule(
        self, w: ConvWorkload, config: DepthwiseDp4aConfig, hardware: Hardware
    ) -> tirx.PrimFunc:
        """Returns the kernel. Raises `ConfigError` if `config` does not fit."""
        check(w, config, hardware)
        return kernel(w, config)

    def padded_macs(self, w: ConvWorkload, config: DepthwiseDp4aConfig) -> int:
        """Returns the multiply-adds that the instructions carry out, by taps of zero as well."""
        columns = sum(len(Plan(w, config).terms(column)) for column in range(config.columns))
        tiles = Plan(w, config).total * Plan(w, config).channels
        return tiles * config.rows * w.r * columns * QUAD

    def signature(self, w: ConvWorkload, config: DepthwiseDp4aConfig) -> Signature:
        """Returns the operands; the weight has one register for each of `Plan.packings`."""
        return Plan(w, config).signature

    def pack(
        self, w: ConvWorkload, config: DepthwiseDp4aConfig, given: Given
    ) -> dict[str, NDArray[Any]]:
        """Packs the weight (C, 1, R, S) as (C/4, R, packings, 4 channels, 4 taps)."""
        plan = Plan(w, config)
        dtype = dtypes.get(w.precision.operands[1]).numpy
        taps = given[WEIGHT][:, 0].reshape(w.c // QUAD, QUAD, w.r, w.s).transpose(0, 2, 1, 3)
        packed = np.zeros(plan.signature[WEIGHT].shape, dtype)
        for number, (lead, piece) in enumerate(plan.packings):
            row = np.zeros((*taps.shape[:-1], round_up(lead + w.s, QUAD)), dtype)
            row[..., lead : lead + w.s] = taps
            packed[:, :, number] = row[..., QUAD * piece :][..., :QUAD]
        return plan.signature.pack(given, weight=packed)


def _mismatch(w: ConvWorkload, hardware: Hardware) -> str:
    """Why the family does not take `w`; empty where it does."""
    if reason := alone(w):
        return reason
    if reason := other_operands(w, INT8, UINT8):
        return reason
    if hardware.kind != "cuda":
        return "written in instructions of a GPU"
    if hardware.sm < MIN_SM:
        return f"for sm_{MIN_SM} and later, this is {hardware.name}"
    if not w.depthwise:
        return f"not depthwise: {w.groups} groups of {w.group_c} channels"
    if w.k != w.c:
        return f"{w.k // w.c} output channels per input channel"
    for layout in (w.in_layout, w.out_layout, w.epilogue.residual_layout):
        if layout.packed:
            return f"NHWC only, not {layout}"
    if adjacent(w) % QUAD:
        return f"loads and stores {QUAD} channels at a time"
    if w.dilation[1] != 1:
        return f"dilation {w.dilation}: columns of the filter are not adjacent"
    if w.r * w.s > MOST_TAPS:
        return f"{w.r * w.s} taps; it is for at most {MOST_TAPS}"
    return ""
