"""The depthwise filter as one operand of the kernel, with all that its epilogue has of a channel.

Of fp16, a row for each channel: every tap twice, as a packed pair; zeros; and in the last pair its
fp32 bias. Of 8-bit integers, a row for four adjacent channels, those of a lane:

    taps of a channel, zeros to whole vectors      four times
    constants, fp32                                four channels of each

so that one load takes a channel's taps, and one the same constant of four channels. The constants
are the bias and the scales; or, where a product with an addition may limit the result from 0 to 1
(`Between`), a factor and what is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.precision import RESULT_ZERO, SCALE
from schedules.conv.signature import BIAS, CHANNEL, WEIGHT, channel_operands
from schedules.conv.workload import ConvWorkload, round_up
from schedules.expressions.limits import WHOLE, Limits, is_short, range_of
from schedules.families.depthwise_projection.config import STEP

#: Bytes of a vector and of a register, and channels of a row of integers.
VECTOR, REGISTER, GROUP = 16, 4, 4


def depth(w: ConvWorkload) -> int:
    """Returns the channels of a step of either convolution."""
    return STEP // dtypes.get(w.precision.operands[1]).bytes


def filter_bytes(first: ConvWorkload) -> int:
    """Returns the bytes of a channel's taps, of a filter of integers."""
    return round_up(first.r * first.s, VECTOR)


@dataclass(frozen=True)
class Between:
    """The epilogue of sums of integers that are only scaled, shifted, rounded and limited to what
    is in `WHOLE`::

        min(max(sum * factor + shift, 0), 1) * range + low

    whole: the dtype of the number less `low`. sign: the bits in which four bytes of that differ
    from the result.
    """

    low: int
    whole: str
    sign: int

    @classmethod
    def of(cls, first: ConvWorkload) -> Between | None:
        """Returns None for a convolution whose results take more."""
        if not is_short(first) or RESULT_ZERO in first.precision.scales:
            return None
        limits = Limits.of(first).inner
        return cls(limits[0], *WHOLE[limits]) if limits in WHOLE else None

    @property
    def range(self) -> int:
        """A power of two, by which fp32 divides exactly."""
        return range_of(self.whole)

    def constants(self, given: Mapping[str, NDArray[Any]], channels: int) -> list[NDArray[Any]]:
        """Returns factor and shift, of arrays by name; a bias that is not there is 0, a scale 1."""
        scale, bias = (
            np.broadcast_to(np.asarray(given.get(name, default), np.float64), channels)
            for name, default in ((SCALE, 1.0), (BIAS, 0.0))
        )
        return [scale / self.range, (bias - self.low) / self.range]


def constants(first: ConvWorkload) -> int:
    """Returns how many constants of a channel the epilogue of a convolution of integers has."""
    return 2 if Between.of(first) is not None else len(channel_operands(first))


def prologue_shape(first: ConvWorkload) -> tuple[int, int]:
    """Returns the shape of the operand: (channel, element), or of integers (four channels, byte).

    Channels are padded to whole steps.
    """
    channels = round_up(first.c, depth(first))
    if dtypes.get(first.precision.operands[1]).integer:
        more = constants(first) * dtypes.get(CHANNEL).bytes
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
    between = Between.of(first)
    arrays = [given[name] for name in channel_operands(first)]
    if between is not None:
        arrays = between.constants(given, first.c)
    for number, array in enumerate(arrays):
        values = np.zeros(rows * GROUP, dtypes.get(CHANNEL).numpy)
        values[: first.c] = array
        at = GROUP * (size + number * values.itemsize)
        packed[:, at : at + GROUP * values.itemsize] = values.view(dtype.numpy).reshape(rows, -1)
    return packed
