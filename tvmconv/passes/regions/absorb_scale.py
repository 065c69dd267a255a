"""Fold scales and shifts by channel into weight and bias.

Before:  y = add(multiply(conv(x, weight) + bias, scale), shift)
After:   y = conv(x, weight * scale) + (bias * scale + shift)
Requires: constants of one value for each output channel, or one for all; only such steps between
          them and the convolution
Formula: as above, in float64; `scale_and_shift` has turned batch norms into this form
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow, array, op_name, shape
from tvmconv.passes.regions.region import Region

Array = NDArray[np.float64]


def scale_after(region: Region, flow: Dataflow) -> Region | None:
    """The region with the step that follows folded in, or None."""
    reader = flow.sole_reader(region.output)
    if reader is None or not region.linear:
        return None
    step = _step(region, flow.values[reader])
    if step is None:
        return None
    scale, shift = step
    shifted = (0.0 if region.bias is None else region.bias) * scale + shift
    bias = shifted if region.bias is not None or shifted.any() else None
    if region.scale is not None:  # the weight is whole numbers
        return replace(region, output=reader, scale=region.scale * scale, bias=bias)
    return replace(region, output=reader, weight=scaled(region, scale), bias=bias)


def scaled(region: Region, scale: Array) -> NDArray[Any]:
    """The region's weight with output channel k multiplied by scale[k]."""
    if not region.transposed:
        return region.weight * scale[:, None, None, None]
    c, group_k, r, s = region.weight.shape
    grouped = region.weight.reshape(region.groups, c // region.groups, group_k, r, s)
    by_group = scale.reshape(region.groups, 1, group_k, 1, 1)
    return (grouped * by_group).reshape(region.weight.shape)


def scaled_by_input(region: Region, scale: Array) -> NDArray[Any]:
    """The region's weight with its part of input channel c multiplied by scale[c]."""
    if region.transposed:
        return region.weight * scale[:, None, None, None]
    k, group_c, r, s = region.weight.shape
    grouped = region.weight.reshape(region.groups, k // region.groups, group_c, r, s)
    by_group = scale.reshape(region.groups, 1, group_c, 1, 1)
    return (grouped * by_group).reshape(region.weight.shape)


def _step(region: Region, value: relax.Expr) -> tuple[Array, Array] | None:
    """(scale, shift), each (K,), of a call that only scales and shifts; else None."""
    op = op_name(value)
    if op not in ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
        return None
    if shape(value) != shape(region.output):
        return None
    first = value.args[0].same_as(region.output)
    other = by_channel(value.args[1] if first else value.args[0], region.k)
    if other is None:
        return None
    one, zero = np.ones(region.k), np.zeros(region.k)
    if op == "relax.add":
        return one, other
    if op == "relax.multiply":
        return other, zero
    if op == "relax.subtract":
        return (one, -other) if first else (-one, other)
    return (1 / other, zero) if first and other.all() else None


def by_channel(value: relax.Expr, channels: int) -> Array | None:
    """A constant of one value for each of the innermost channels, or for all; else None."""
    numbers = array(value)
    if numbers is None or numbers.size not in (1, channels):
        return None
    if numbers.size == channels > 1 and numbers.shape[-1] != channels:
        return None
    return np.broadcast_to(numbers.astype(np.float64).reshape(-1), (channels,))
