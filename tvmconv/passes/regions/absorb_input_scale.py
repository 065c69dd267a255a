"""Fold the scaling of fed 8-bit numbers into the weight of the convolution that reads them.

Before:  x = add(multiply(float(q), scale), shift); y = conv(x, weight)
After:   y = conv(float(q) * x_scale, weight * scale / x_scale) + sum(weight * shift)
Requires: q is an input of the network, in 8 bits; scale and shift have one value for each input
          channel, or one for all; a weight of floats; no other reader of x. With a shift other than
          0 no padding and no transposed convolution, as then not every output has every tap
Formula: as above, in float64. x_scale is the power of two next to the largest scale, by which whole
         numbers are multiplied exactly, so that the weight stays in the range of fp16
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from intrinsics import dtypes
from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.regions.absorb_input_quantization import is_fed
from tvmconv.passes.regions.absorb_scale import by_channel
from tvmconv.passes.regions.region import Region

Array = NDArray[np.float64]
#: Exponents of x_scale: 1 and 255 times it are normal numbers of fp16.
EXPONENTS = (dtypes.FP16.least_exponent, 7)


def input_scale_before(region: Region, flow: Dataflow) -> Region:
    """The region, reading the numbers that are fed to the network; else unchanged."""
    x = region.x
    if region.scale is not None or not isinstance(x, relax.Var) or flow.sole_reader(x) is None:
        return region
    found = _fed(x, region.x_shape[-1], flow)
    if found is None:
        return region
    numbers, scale, shift = found
    if shift.any() and (region.transposed or any(region.padding)):
        return region
    largest = float(np.abs(scale).max())
    if not (np.isfinite(scale).all() and np.isfinite(shift).all() and largest > 0):
        return region
    exponent = min(max(math.frexp(largest)[1], EXPONENTS[0]), EXPONENTS[1])
    x_scale = math.ldexp(1.0, exponent)
    bias = region.bias
    if shift.any():
        bias = (0.0 if bias is None else bias) + _by_input(region, shift).sum(axis=(1, 2, 3))
    weight = _by_input(region, scale / x_scale)
    return replace(region, x=numbers, x_scale=x_scale, weight=weight, bias=bias)


def _fed(x: relax.Var, channels: int, flow: Dataflow) -> tuple[relax.Var, Array, Array] | None:
    """The numbers of which x is scale * numbers + shift, each (C,); None if they are not fed, or if
    nothing is scaled."""
    scale, shift = np.ones(channels), np.zeros(channels)
    value: relax.Expr = x
    for op, at in (("relax.add", 1), ("relax.multiply", 0)):
        if not isinstance(value, relax.Var) or flow.op(value) != op:
            continue
        first, second = flow.values[value].args
        numbers = by_channel(second, channels)
        if numbers is None or shape(first) != shape(value):
            return None
        scale, shift = (scale, numbers) if at else (numbers, shift)
        value = first
    if value.same_as(x) or not isinstance(value, relax.Var) or flow.op(value) != "relax.astype":
        return None
    found = flow.values[value].args[0]
    return (found, scale, shift) if isinstance(found, relax.Var) and is_fed(found, flow) else None


def _by_input(region: Region, values: Array) -> Array:
    """The weight, the part of input channel c multiplied by values[c]."""
    if region.transposed:
        return np.asarray(region.weight * values[:, None, None, None])
    k, group_c, r, s = region.weight.shape
    grouped = region.weight.reshape(region.groups, k // region.groups, group_c, r, s)
    by_group = values.reshape(region.groups, 1, group_c, 1, 1)
    return np.asarray((grouped * by_group).reshape(region.weight.shape))
