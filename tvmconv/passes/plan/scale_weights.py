"""Bring weights into the range of fp16, by a power of two for each output channel.

Before:  y = relu(conv(x, weight) + bias)                    weights around 1e-8
After:   y = relu(conv(x, weight * s) * (1 / s) + bias)      the largest of each channel around 1
Requires: a convolution that multiplies fp16, whose weights as a whole lose more in fp16 than
          rounding each to ten bits would, or overflow. Channels far below the others count by
          themselves where the network gives them as they are, and the result is then fp32; in
          between, training leaves many that are all but switched off
Formula: conv(x, weight * s) / s = conv(x, weight), s[k] = 2**-round(log2(max |weight[k]|)). The
         kernel multiplies its fp32 sums by 1 / s, as it does by the scales of integers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from intrinsics import dtypes
from schedules.conv.precision import Precision
from tvmconv.passes.graph import Dataflow, dtype
from tvmconv.passes.plan.balance_ranges import by_filter
from tvmconv.passes.plan.magnitudes import power_of_two
from tvmconv.passes.regions.absorb_scale import scaled
from tvmconv.passes.regions.region import Region

#: Operators that only move elements, or cast them.
MOVES = ("relax.permute_dims", "relax.reshape", "relax.astype")
#: Relative l2 error of weights in fp16 from which they are scaled: twice the most that rounding a
#: normal number is off by. A layer of a usual size comes close, so that this leaves it as it is.
LOST = 2.0**-10
#: Of weights with this root mean square fp16 keeps that: rounding is off by 2**-11 of a normal
#: number, and by 2**-25 of another.
USUAL = 2.0**-25 / (LOST - 2.0**-11)


def scale_weights(
    regions: Mapping[relax.Var, Region], flow: Dataflow, precision: Precision
) -> dict[relax.Var, Region]:
    """The same regions, some with a `Region.sum_scale`."""
    if precision.operands[1] != dtypes.FP16.name:
        return dict(regions)
    return {var: _scaled(region, _is_given(var, flow)) for var, region in regions.items()}


def _is_given(var: relax.Var, flow: Dataflow) -> bool:
    """True if a tensor is an output of the network, and is that alone."""
    if var in flow.outputs:
        return not flow.readers[var]
    moved = flow.readers[var]
    return bool(moved) and all(
        (flow.op(one) in MOVES or isinstance(flow.values[one], relax.Tuple))
        and _is_given(one, flow)
        for one in moved
    )


def _scaled(region: Region, given: bool) -> Region:
    """given: whether the network gives what the region writes."""
    if region.scale is not None or not np.isfinite(region.weight).all():
        return region  # whole numbers, or weights that no scale helps
    filters = by_filter(region)
    converted = region.x_scale != 1 and dtype(region.x) == dtypes.FP32.name
    if _kept(filters.reshape(1, -1)) and not converted:
        if not given or region.result or _kept(filters):
            return region
        region = replace(region, wide=True).noted("result in fp32")
    scale = power_of_two(np.abs(filters).max(axis=1).astype(np.float64))
    changed = replace(region, weight=scaled(region, scale), sum_scale=1 / scale)
    return changed.noted("weights by channel")


def _kept(filters: NDArray[Any]) -> bool:
    """True if fp16 holds every row within `LOST`."""
    norms = np.sqrt(np.einsum("ki,ki->k", filters, filters, dtype=np.float64))
    usual = norms.min() >= USUAL * np.sqrt(filters.shape[1])
    if usual and np.abs(filters).max() <= dtypes.FP16.largest:
        return True
    return bool(_lost(filters.astype(np.float64)).max() <= LOST)


def _lost(filters: NDArray[np.float64]) -> NDArray[np.float64]:
    """The relative l2 error of each row in fp16; infinite where it overflows, 0 of zeros."""
    size = np.abs(filters).max(axis=1, keepdims=True)
    size[size == 0] = 1.0
    with np.errstate(over="ignore"):
        error = filters.astype(np.float16).astype(np.float64) - filters
    norm = np.linalg.norm(filters / size, axis=1)
    return np.asarray(np.linalg.norm(error / size, axis=1) / np.maximum(norm, 1e-300))
