"""Add another tensor in the epilogue.

Before:  y = add(conv(x), residual)
After:   the kernel adds it to its fp32 accumulators, before or after the activation
Requires: another tensor of the same shape; no other reader of conv(x)
         A residual of 8-bit numbers is read as such, if its zero point can be a part of the bias
Formula: y = activation(conv + bias + residual), or activation(conv + bias) + residual
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import relax

from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.regions.quantization import dequantised
from tvmconv.passes.regions.region import Region


def residual_after(region: Region, flow: Dataflow) -> Region | None:
    """The region with the sum that follows, or None."""
    reader = flow.sole_reader(region.output)
    if (
        region.residual is not None
        or region.result
        or reader is None
        or flow.op(reader) != "relax.add"
    ):
        return None
    others = [arg for arg in flow.values[reader].args if not arg.same_as(region.output)]
    if len(others) != 1 or not isinstance(others[0], relax.Var):
        return None
    if shape(others[0]) != shape(region.output):
        return None
    last = region.activation.kind != "none"
    whole = replace(region, output=reader, residual=others[0], residual_last=last)
    numbers = dequantised(others[0], flow)
    if numbers is None or (last and numbers.zero):
        return whole
    bias = region.bias
    if numbers.zero:
        bias = (np.zeros(region.k) if bias is None else bias) - numbers.zero * numbers.scale
    return replace(whole, residual=numbers.numbers, residual_scale=numbers.scale, bias=bias)
