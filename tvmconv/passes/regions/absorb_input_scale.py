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
from functools import partial

import numpy as np
from tvm import relax

from intrinsics import dtypes
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.regions.absorb_input_quantization import is_fed
from tvmconv.passes.regions.absorb_scale import by_channel, scaled_by_input
from tvmconv.passes.regions.quantization import affine
from tvmconv.passes.regions.region import Region

#: Exponents of x_scale: 1 and 255 times it are normal numbers of fp16.
EXPONENTS = (dtypes.FP16.least_exponent, 7)


def input_scale_before(region: Region, flow: Dataflow) -> Region:
    """The region, reading the numbers that are fed to the network; else unchanged."""
    x = region.x
    if region.scale is not None or not isinstance(x, relax.Var) or flow.sole_reader(x) is None:
        return region
    channels = region.x_shape[-1]
    found = affine(x, flow, partial(by_channel, channels=channels))
    if found is None or not is_fed(found.numbers, flow):
        return region
    if found.scale is None and found.shift is None:
        return region
    scale = np.ones(channels) if found.scale is None else found.scale
    shift = np.zeros(channels) if found.shift is None else found.shift
    if shift.any() and (region.transposed or any(region.padding)):
        return region
    largest = float(np.abs(scale).max())
    if not (np.isfinite(scale).all() and np.isfinite(shift).all() and largest > 0):
        return region
    exponent = min(max(math.frexp(largest)[1], EXPONENTS[0]), EXPONENTS[1])
    x_scale = math.ldexp(1.0, exponent)
    bias = region.bias
    if shift.any():
        bias = (0.0 if bias is None else bias) + scaled_by_input(region, shift).sum(axis=(1, 2, 3))
    weight = scaled_by_input(region, scale / x_scale)
    return replace(region, x=found.numbers, x_scale=x_scale, weight=weight, bias=bias)
