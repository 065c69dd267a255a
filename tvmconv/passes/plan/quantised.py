"""The precision and the constants of regions, of quantised ones in particular."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.precision import (
    RESIDUAL_SCALE,
    RESULT_SCALE,
    RESULT_ZERO,
    SCALE,
    SCALES,
    Precision,
)
from schedules.conv.signature import BIAS
from tvmconv.passes.graph import dtype
from tvmconv.passes.regions.quantization import EIGHT_BITS
from tvmconv.passes.regions.region import Region


def is_quantised(region: Region) -> bool:
    """True if a region reads or writes 8-bit numbers."""
    return region.scale is not None or bool(region.result) or _residual_numbers(region)


def precision(region: Region, base: Precision) -> Precision:
    """The precision of a region's kernels. base: that of the network's convolutions."""
    found = replace(base, result=region.result or base.result, scales=tuple(_scales(region)))
    if region.residual is not None and _residual_numbers(region):
        found = replace(found, residual=dtype(region.residual))
    elif region.residual is not None and region.integers:
        found = replace(found, residual=base.x)
    elif region.wide_residual:
        found = replace(found, residual=dtypes.FP32.name)
    if region.integers:
        # A pair's x is its first convolution's, and what this one reads is that one's result.
        first, int8 = region.prologue, dtypes.INT8.name
        x = dtype(region.x) if first is None else first.result
        found = replace(found, x=x, operands=(x, int8), accumulator=dtypes.INT32.name)
    return replace(found, residual="") if found.residual == found.x else found


def constants(region: Region) -> dict[str, NDArray[Any]]:
    """The bias and the scales of a region's kernels, by name, each (K,)."""
    after = 1.0 if region.result_scale is None else region.result_scale
    # A scale of the result goes before a function of which it is a scale of the operand.
    before = after if region.activation.homogeneous else 1.0
    scale = np.ones(region.k) if region.scale is None else region.scale
    if region.sum_scale is not None:
        scale = region.sum_scale
    found: dict[str, Any] = {
        SCALE: scale * before,
        RESIDUAL_SCALE: region.residual_scale * before,
        RESULT_SCALE: after,
        RESULT_ZERO: region.result_zero,
    }
    bias = region.bias
    if region.integers and region.x_zero:
        bias = (0.0 if bias is None else bias) - region.x_zero * scale * _sums(region)
    scales = _scales(region)
    named = {name: np.broadcast_to(found[name], (region.k,)) for name in scales}
    return named if bias is None else {BIAS: np.broadcast_to(bias * before, (region.k,)), **named}


def _scales(region: Region) -> list[str]:
    """Names of the scales that a region's kernels have, in order."""
    if region.result == dtypes.INT32.name:
        return []  # sums have no epilogue
    homogeneous = region.activation.homogeneous
    has = {
        SCALE: region.scale is not None
        or region.sum_scale is not None
        or (bool(region.result) and homogeneous),
        RESIDUAL_SCALE: region.residual is not None
        and (_residual_numbers(region) or (bool(region.result) and homogeneous)),
        RESULT_SCALE: bool(region.result) and not homogeneous,
        RESULT_ZERO: region.result_zero is not None and bool(region.result_zero.any()),
    }
    return [name for name in SCALES if has[name]]


def _residual_numbers(region: Region) -> bool:
    return region.residual is not None and dtype(region.residual) in EIGHT_BITS


def _sums(region: Region) -> NDArray[np.float64]:
    """The sum of the weight's numbers for each output channel, (K,)."""
    assert not region.transposed, "a transposed convolution's taps differ from output to output"
    return np.asarray(region.weight.sum(axis=(1, 2, 3)))
