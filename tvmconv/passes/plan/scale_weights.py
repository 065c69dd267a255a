"""Bring weights into the range of fp16, by a power of two for each output channel.

Before:  y = relu(conv(x, weight) + bias)                    weights around 1e-8
After:   y = relu(conv(x, weight * s) * (1 / s) + bias)      the largest of each channel around 1
Requires: a convolution that multiplies fp16, to which rounding its weights loses more than eleven
          bits of each would, or overflows; or in whose result, in fp32, one channel loses that
Formula: conv(x, weight * s) / s = conv(x, weight), s[k] = 2**-round(log2(max |weight[k]|)). The
         kernel multiplies its fp32 sums by 1 / s, as it does by the scales of integers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from intrinsics import dtypes
from schedules.conv.precision import Precision
from tvmconv.passes.graph import Dataflow, dtype
from tvmconv.passes.plan.balance_ranges import by_filter
from tvmconv.passes.plan.magnitudes import power_of_two
from tvmconv.passes.plan.readers import written
from tvmconv.passes.regions.absorb_scale import scaled
from tvmconv.passes.regions.region import Region

#: More than the relative l2 error of rounding normal numbers to fp16: each is off by 2**-11 / m at
#: most, where m is its mantissa, so by 2**-11 / sqrt(3) in the mean square where all m are 1.
LOST = 2.0**-11.5


def scale_weights(
    regions: Mapping[relax.Var, Region], flow: Dataflow, precision: Precision
) -> dict[relax.Var, Region]:
    """The same regions, some with a `Region.sum_scale`."""
    if precision.operands[1] != dtypes.FP16.name:
        return dict(regions)
    return {
        var: _scaled(region, written(region, var, regions, flow, precision).result)
        for var, region in regions.items()
    }


def _scaled(region: Region, result: str) -> Region:
    if region.scale is not None or not np.isfinite(region.weight).all():
        return region  # whole numbers, or weights that no scale helps
    filters = by_filter(region)
    lost = _lost(filters)
    # In fp16 a channel below the others is lost by itself.
    worst = lost.max() if result == dtypes.FP32.name else 0.0
    converted = region.x_scale != 1 and dtype(region.x) == dtypes.FP32.name
    if max(worst, float(_lost(filters.reshape(1, -1))[0])) <= LOST and not converted:
        return region
    scale = power_of_two(np.abs(filters).max(axis=1))
    return replace(
        region,
        weight=scaled(region, scale),
        sum_scale=1 / scale,
        kept=(*region.kept, "weights by channel"),
    )


def _lost(filters: NDArray[np.float64]) -> NDArray[np.float64]:
    """The relative l2 error of each row in fp16; infinite where it overflows, 0 of zeros."""
    size = np.abs(filters).max(axis=1, keepdims=True)
    size[size == 0] = 1.0
    with np.errstate(over="ignore"):
        error = filters.astype(np.float16).astype(np.float64) - filters
    norm = np.linalg.norm(filters / size, axis=1)
    return np.asarray(np.linalg.norm(error / size, axis=1) / np.maximum(norm, 1e-300))
