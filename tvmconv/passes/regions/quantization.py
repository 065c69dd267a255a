"""Multiply whole numbers, and write whole numbers, where the model is quantised.

Before:  x = (float(q) - z) * s; y = conv(x, weight)
         p = int8(min(max(round(y * t) + o, -128), 127)), or int32(y) where s and t are 1
After:   the kernel reads q and writes p: a region with a `Region.scale`, and with a `Region.result`
Requires: reading: a weight with a scale for each output channel (`fold_weights`), one scale and a
          whole zero point for all of q, padding or not; not before a transposed convolution unless
          z = 0, as not every output has every tap. Writing: no other reader of y, or of what is
          between
Formula: conv(x, weight) = s * scale * conv(q - z, numbers), where weight = scale * numbers
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from intrinsics import dtypes
from schedules.conv.activations import IDENTITY, Activation
from tvmconv.passes.graph import Dataflow, array, dtype, shape
from tvmconv.passes.regions.absorb_scale import by_channel, scaled
from tvmconv.passes.regions.region import Region

#: How far a zero point may be from a whole number: it is a quotient of fp32 numbers.
WHOLE = 1e-3
Constant = TypeVar("Constant")
EIGHT_BITS = (dtypes.INT8.name, dtypes.UINT8.name)


@dataclass(frozen=True)
class Dequantised:
    """The real values (numbers - zero) * scale of a tensor of 8-bit numbers."""

    numbers: relax.Var
    scale: float
    zero: int


@dataclass(frozen=True)
class Affine(Generic[Constant]):
    """Real values, numbers * scale + shift. scale, shift: None where it does nothing."""

    numbers: relax.Var
    scale: Constant | None
    shift: Constant | None


def affine(
    value: relax.Expr | None, flow: Dataflow, read: Callable[[relax.Expr], Constant | None]
) -> Affine[Constant] | None:
    """The tensor whose cast to floats is scaled and shifted to a value, or None.

    `scale_and_shift` has brought arithmetic to this form. read: gives the value of a constant, or
    None for a constant of another shape.
    """
    found: dict[str, Constant] = {}
    for op in ("relax.add", "relax.multiply"):
        if isinstance(value, relax.Var) and flow.op(value) == op:
            first, second = flow.values[value].args
            constant = read(second)
            if constant is None or shape(first) != shape(value):
                return None
            found[op], value = constant, first
    if not isinstance(value, relax.Var) or flow.op(value) != "relax.astype":
        return None
    numbers = flow.values[value].args[0]
    if not isinstance(numbers, relax.Var):
        return None
    return Affine(numbers, found.get("relax.multiply"), found.get("relax.add"))


def dequantised(value: relax.Expr | None, flow: Dataflow) -> Dequantised | None:
    """The numbers whose real values a tensor has, or None."""
    found = affine(value, flow, _number)
    if found is None or dtype(found.numbers) not in EIGHT_BITS:
        return None
    scale = 1.0 if found.scale is None else found.scale
    shift = 0.0 if found.shift is None else found.shift
    if scale <= 0:
        return None
    zero = round(-shift / scale)
    limits = np.iinfo(dtypes.get(dtype(found.numbers)).numpy)
    if abs(zero + shift / scale) > WHOLE or not limits.min <= zero <= limits.max:
        return None
    return Dequantised(found.numbers, scale, zero)


def numbers_before(
    region: Region, flow: Dataflow, weight_scale: NDArray[np.float64] | None
) -> Region:
    """The region, reading and multiplying whole numbers if x and weight are; else unchanged."""
    x = dequantised(region.x, flow)
    if x is None or weight_scale is None or (region.transposed and x.zero):
        return region
    numbers = np.rint(scaled(region, 1 / weight_scale))
    return replace(region, x=x.numbers, x_zero=x.zero, weight=numbers, scale=weight_scale * x.scale)


def quantised_after(region: Region, flow: Dataflow) -> Region | None:
    """The region with the quantisation of its result, or None."""
    if region.result:
        return None
    var = flow.sole_reader(region.output)
    scale = zero = None
    if var is not None and flow.op(var) == "relax.multiply":
        scale = _other(region, var, region.output, flow)
        var = flow.sole_reader(var) if scale is not None else None
    if var is None or flow.op(var) != "relax.round":
        return None
    rounded, var = var, flow.sole_reader(var)
    if var is not None and flow.op(var) == "relax.add":
        zero = _other(region, var, rounded, flow)
        var = flow.sole_reader(var) if zero is not None else None
    bounds = []
    for op in ("relax.maximum", "relax.minimum"):
        if var is None or flow.op(var) != op:
            return None
        bounds.append(_number(flow.values[var].args[1]))
        var = flow.sole_reader(var)
    if var is None or flow.op(var) != "relax.astype" or dtype(var) not in EIGHT_BITS:
        return None
    limits = np.iinfo(dtypes.get(dtype(var)).numpy)
    if bounds != [limits.min, limits.max]:
        return None
    found = replace(
        region,
        output=var,
        result=dtype(var),
        result_scale=np.ones(region.k) if scale is None else scale,
        result_zero=np.zeros(region.k) if zero is None else zero,
        unquantised=region,
    )
    return without_bounds(found)


def sums_after(region: Region, flow: Dataflow) -> Region | None:
    """The region with the cast of its sums of whole numbers to int32, or None."""
    if region.scale is None or not region.linear or region.bias is not None or region.x_zero:
        return None
    reader = flow.sole_reader(region.output)
    int32 = dtypes.INT32.name
    if reader is None or flow.op(reader) != "relax.astype" or dtype(reader) != int32:
        return None
    if (region.scale != 1).any():
        return None
    return replace(region, output=reader, result=int32, unquantised=region)


def without_bounds(region: Region) -> Region:
    """The region without an activation that only keeps values in bounds which saturation keeps.

    Where it keeps the upper bound of a clip from 0 on, what is left is a ReLU. That is the same on
    scaled values, so that the result's scale is folded into the convolution's.
    """
    activation, last = region.activation, region.residual is not None and region.residual_last
    if activation.bounds is None or last:
        return region
    bounds = (0.0, np.inf) if activation.kind == "relu" else activation.bounds
    assert region.result_scale is not None
    assert region.result_zero is not None
    limits = np.iinfo(dtypes.get(region.result).numpy)
    low, high = (np.rint(bound * region.result_scale) + region.result_zero for bound in bounds)
    if (high < limits.max).any():
        return region
    if (low <= limits.min).all():
        return replace(region, activation=IDENTITY)
    return replace(region, activation=Activation("relu")) if bounds[0] == 0 else region


def _other(
    region: Region, var: relax.Var, of: relax.Var, flow: Dataflow
) -> NDArray[np.float64] | None:
    """The constant operand beside `of`, one for each output channel; else None."""
    first, second = flow.values[var].args
    other = second if first.same_as(of) else first
    return by_channel(other, region.k) if shape(var) == shape(of) else None


def _number(value: relax.Expr) -> float | None:
    """A constant of one number; else None."""
    numbers = array(value)
    return float(numbers.reshape(-1)[0]) if numbers is not None and numbers.size == 1 else None
