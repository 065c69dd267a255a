"""Split a transposed convolution into dense ones, one for each phase of its stride.

Before:  y = conv2d_transpose(x, weight, stride=s)
After:   s * s convolutions of stride 1, each over the taps that meet its pixels, each writing
         every s-th row and column of y
Requires: a constant weight
Formula: y[p] = sum over r of x[(p + pad - r * dilation) / s] * weight[r], where that is a whole
         number: pixels p of one remainder by s share their taps (Shi et al. 2016, "Is the
         deconvolution layer the same as a convolutional layer?")
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.conv.workload import ceil_div
from tvmconv.passes.regions.region import Region


@dataclass(frozen=True)
class Taps:
    """Along one dimension: output pixels ``first + i * step``, i < count, read x at
    ``i - pad + j * dilation`` times the filter's tap ``taps[j]``; a tap of None is zero."""

    first: int
    step: int
    count: int
    pad: int
    dilation: int
    taps: tuple[int | None, ...]


@dataclass(frozen=True)
class Phase:
    """One dense convolution: its filter (K, C/groups, R, S), and its taps along both sides."""

    weight: NDArray[Any]
    rows: Taps
    columns: Taps


def phases(region: Region) -> list[Phase]:
    """The dense convolutions of a transposed one. None of them is empty."""
    c, group_k, r, s = region.weight.shape
    grouped = region.weight.reshape(region.groups, c // region.groups, group_k, r, s)
    dense = grouped.transpose(0, 2, 1, 3, 4).reshape(region.k, c // region.groups, r, s)
    along = [
        _along(region.pixels[axis], taps, region.stride[axis], region.padding[axis],
               region.dilation[axis])
        for axis, taps in enumerate((r, s))
    ]  # fmt: skip
    return [
        Phase(_selected(_selected(dense, 2, rows.taps), 3, columns.taps), rows, columns)
        for rows in along[0]
        for columns in along[1]
    ]


def _along(size: int, taps: int, stride: int, pad: int, dilation: int) -> list[Taps]:
    """The phases of one dimension with ``size`` outputs."""
    found = []
    for first in range(min(stride, size)):
        count = ceil_div(size - first, stride)
        # Last tap first: it reads the first row.
        met = [r for r in reversed(range(taps)) if (first + pad - r * dilation) % stride == 0]
        if not met:
            found.append(Taps(first, stride, count, 0, 1, (None,)))
            continue
        start = (first + pad - met[0] * dilation) // stride
        between = dilation // math.gcd(dilation, stride)
        found.append(Taps(first, stride, count, -start, between, tuple(met)))
    return found


def _selected(weight: NDArray[Any], axis: int, taps: tuple[int | None, ...]) -> NDArray[Any]:
    """The filter with these of its taps, in this order."""
    if taps == (None,):
        return np.zeros_like(np.take(weight, [0], axis))
    return np.take(weight, [tap for tap in taps if tap is not None], axis)
