"""Keep activations out of fp16 that it does not hold, or scale them by a power of two.

Before:  t = silu(conv(x, a)); y = conv(t, b)               x around 1e-8; t up to 1e6, past 65504
After:   t = silu(conv(x * 2**27, a / 2**27)), in fp32; y = conv(t / 2**20, b * 2**20)
Requires: convolutions that multiply fp16. A tensor's largest magnitude: on the feeds that a build
          is calibrated with, else as the filters that it comes from suggest where they are far from
          the usual; then x of the network counts as usual. Tensors of usual sizes stay in fp16
Formula: conv(s * x, a / s) = conv(x, a), with a power of two s for the whole tensor. s * x is
         computed in fp32, in the kernel that converts x to fp16. What a convolution writes for
         others alone is scaled by it, as `balance_ranges` does; else it is written in fp32, and so
         is what is added. Weights out of range are left to `scale_weights`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from tvm import relax

from intrinsics import dtypes
from schedules.conv.precision import Precision
from tvmconv.passes.graph import Dataflow, dtype
from tvmconv.passes.plan.balance_ranges import may_scale, moved, sole_readers
from tvmconv.passes.plan.magnitudes import Magnitudes
from tvmconv.passes.plan.quantised import is_quantised
from tvmconv.passes.regions.region import Region


def keep_ranges(
    regions: Mapping[relax.Var, Region],
    flow: Dataflow,
    precision: Precision,
    seen: Mapping[relax.Var, float],
) -> dict[relax.Var, Region]:
    """The same regions, some with scales or results in fp32.

    seen: the largest magnitudes of tensors on feeds; empty for a build without them.
    """
    kept = dict(regions)
    if precision.operands[1] != dtypes.FP16.name:
        return kept
    magnitudes = Magnitudes(regions, flow, seen)
    for var in regions:
        kept.update(_written(var, magnitudes.scale(var), kept, flow))
    for var, region in kept.items():
        if not is_quantised(region):
            kept[var] = _read(region, magnitudes, kept)
    return kept


def _written(
    var: relax.Var, scale: float, regions: Mapping[relax.Var, Region], flow: Dataflow
) -> dict[relax.Var, Region]:
    """The regions that change so that a result is in the range of fp16, or is not in fp16."""
    region = regions[var]
    if scale == 1 or (is_quantised(region) and region.result):
        return {}
    after = sole_readers(var, regions, flow)
    floats = not any(is_quantised(regions[one]) for one in after)
    if not after or not floats or not may_scale(region):
        return {var: replace(region, wide=True).noted("result in fp32")}
    changed = moved(var, np.full(region.k, scale), after, regions)
    changed[var] = changed[var].noted(f"result {times(scale)}")
    return changed | {one: changed[one].noted(f"x {times(scale)}") for one in after}


def _read(region: Region, magnitudes: Magnitudes, regions: Mapping[relax.Var, Region]) -> Region:
    """The region with x, and with its residual, as fp16 holds them."""
    scale, residual = magnitudes.scale(region.x), magnitudes.scale(region.residual)
    if scale != 1 and in_floats(region.x, regions):
        weight = region.weight.astype(np.float64) / scale
        region = replace(region, x_scale=scale, weight=weight).noted(f"x {times(scale)}")
    if residual != 1 and in_floats(region.residual, regions):
        region = replace(region, wide_residual=True).noted("residual in fp32")
    return region


def in_floats(tensor: relax.Expr | None, regions: Mapping[relax.Var, Region]) -> bool:
    """True if a tensor is in fp32 until it is converted for its reader."""
    if tensor is None or dtype(tensor) != dtypes.FP32.name:
        return False
    writer = regions.get(tensor) if isinstance(tensor, relax.Var) else None
    return writer is None or writer.wide


def times(scale: float) -> str:
    """Returns how a power of two is written, such as ``times 2**-13``."""
    return f"times 2**{round(math.log2(scale))}"
