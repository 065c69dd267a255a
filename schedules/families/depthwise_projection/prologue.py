"""The depthwise filter as one operand of the kernel, with all that its epilogue has of a channel.

Of fp16, a row for each channel: every tap twice, as a packed pair; zeros; and in the last pair its
fp32 bias. Of 8-bit integers, a row for four adjacent channels, those of a lane:

    taps of a channel, zeros to whole vectors      four times
    constants, fp32                                four channels of each

so that one load takes a channel's taps, and one the same constant of four channels. The constants
are the bias and the scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.signature import BIAS, CHANNEL, WEIGHT, channel_operands
from schedules.conv.workload import ConvWorkload, round_up
from schedules.families.depthwise_projection.config import STEP

#: Bytes of a vector and of a register, and channels of a row of integers.
VECTOR, REGISTER, GROUP = 16, 4, 4


def depth(w: ConvWorkload) -> int:
    """Returns the channels of a step of either convolution."""
    return STEP // dtypes.get(w.precision.operands[1]).bytes


def filter_bytes(first: ConvWorkload) -> int:
    """Returns the bytes of a channel's taps, of a filter of integers."""
    return round_up(first.r * first.s, VECTOR)


def prologue_shape(first: ConvWorkload) -> tuple[int, int]:
    """Returns the shape of the operand: (channel, element), or of integers (four channels, byte).

    Channels are padded to whole steps.
    """
    channels = round_up(first.c, depth(first))
    if dtypes.get(first.precision.operands[1]).integer:
        more = len(channel_operands(first)) * dtypes.get(CHANNEL).bytes
        return channels // GROUP, GROUP * (filter_bytes(first) + more)
    return channels, 2 * round_up(first.r * first.s + 1, 4)


def pack_prologue(first: ConvWorkload, given: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Returns the operand, of `prologue_shape`.

    given: by name the weight (C, 1, R, S), and those of `channel_operands`, (C,).
    """
    dtype = dtypes.get(first.precision.operands[1])
    taps = given[WEIGHT].reshape(first.c, first.r * first.s).astype(dtype.numpy)
    packed = np.zeros(prologue_shape(first), dtype.numpy)
    if not dtype.integer:
        packed[: first.c, : 2 * taps.shape[1]] = np.repeat(taps, 2, axis=1)
        if first.epilogue.bias:
            packed.view(dtypes.get(CHANNEL).numpy)[: first.c, -1] = given[BIAS]
        return packed
    rows = packed.shape[0]
    size = filter_bytes(first)
    filters = np.zeros((rows * GROUP, size), dtype.numpy)
    filters[: first.c, : taps.shape[1]] = taps
    packed[:, : GROUP * size] = filters.reshape(rows, -1)
    for number, name in enumerate(channel_operands(first)):
        values = np.zeros(rows * GROUP, dtypes.get(CHANNEL).numpy)
        values[: first.c] = given[name]
        at = GROUP * (size + number * values.itemsize)
        packed[:, at : at + GROUP * values.itemsize] = values.view(dtype.numpy).reshape(rows, -1)
    return packed
