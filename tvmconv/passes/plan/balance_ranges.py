"""Keep activations in the range of fp16, by moving powers of two between two convolutions.

Before:  t = relu(conv(x, a) + bias); y = conv(t, b)        t up to 150000, past fp16's 65504
After:   t' = relu(conv(x, a / 64) + bias / 64); y = conv(t', 64 * b)
Requires: t is written by one convolution without a residual, with an activation for which
          f(s * x) = s * f(x) (none, relu, leaky_relu, prelu), and read by convolutions alone, none
          of them as a residual. A channel of t is scaled down if its filter amplifies its input
          eight times or more. All of t is scaled up if no weight of a is a normal fp16 number and
          the bias stays small.
Formula: f(conv(x, a * s) + bias * s) = s * t, conv(s * t, b / s) = conv(t, b), with a power of two
         s for each channel, so exact except for numbers that fp16 can't hold on either side. To
         scale down, s is the one nearest to 1 / (2-norm of the filter), the gain for independent
         inputs (channel equalisation, Meller et al. 2019, "Same, same but different").
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.quantised import is_quantised
from tvmconv.passes.plan.readers import readers
from tvmconv.passes.regions.absorb_scale import scaled, scaled_by_input
from tvmconv.passes.regions.region import Region

#: The least gain of a filter that is scaled down.
ENLARGED = 8.0
#: Upper limit of a scaled weight, far below the largest fp16 number.
LARGEST = 1024.0
#: The smallest normal fp16 number, and the magnitude that weights all below it are scaled to.
SMALLEST, RAISED = 2.0**-14, 2.0**-8
#: A scale beyond this, or its inverse, is told in reports.
FAR = 2.0**8
#: Upper limit of a bias that is scaled up.
LARGEST_BIAS = 64.0


def balance_ranges(
    regions: Mapping[relax.Var, Region],
    flow: Dataflow,
    seen: Container[relax.Var] = (),
) -> dict[relax.Var, Region]:
    """The same regions, some with weights and biases scaled against each other.

    seen: tensors whose range is known, and left to `keep_ranges`.
    """
    balanced = dict(regions)
    for var in regions:
        scale = _scale(balanced[var])
        after = sole_readers(var, regions, flow)
        if (scale == 1).all() or not after or var in seen:
            continue
        changed = moved(var, scale, after, balanced)
        if max(float(np.abs(changed[one].weight).max()) for one in after) > LARGEST:
            continue
        if scale.max() > FAR or scale.min() < 1 / FAR:
            changed = {
                at: one.noted(f"{'result' if at is var else 'x'} by channel")
                for at, one in changed.items()
            }
        balanced.update(changed)
    return balanced


def moved(
    var: relax.Var,
    scale: NDArray[np.float64],
    after: Sequence[relax.Var],
    regions: Mapping[relax.Var, Region],
) -> dict[relax.Var, Region]:
    """The region of `var` with what it writes scaled, and those of `after`, which read it, with
    weights that undo that. scale: powers of two, (K,)."""
    region = regions[var]
    bias = None if region.bias is None else region.bias * scale
    found = {var: replace(region, weight=scaled(region, scale), bias=bias)}
    for one in after:
        found[one] = replace(regions[one], weight=scaled_by_input(regions[one], 1 / scale))
    return found


def may_scale(region: Region) -> bool:
    """True if a scale of what the region writes goes into its weights and bias."""
    plain = not is_quantised(region) and region.residual is None
    return plain and region.activation.homogeneous


def _scale(region: Region) -> NDArray[np.float64]:
    """The power of two for every output channel, (K,), that cancels its filter's gain."""
    ones = np.ones(region.k)
    if not may_scale(region):
        return ones
    largest = float(np.abs(region.weight).max())
    if not np.isfinite(region.weight).all() or largest == 0:
        return ones
    if largest < SMALLEST:
        raised = 2.0 ** np.floor(np.log2(RAISED / largest))
        bias = 0.0 if region.bias is None else float(np.abs(region.bias).max())
        return ones * raised if np.isfinite(raised) and bias * raised <= LARGEST_BIAS else ones
    norms = filter_norms(region)
    return np.where(norms >= ENLARGED, 2.0 ** -np.round(np.log2(np.maximum(norms, 1))), ones)


def by_filter(region: Region) -> NDArray[Any]:
    """The weight as (K, weights of an output channel)."""
    weight = region.weight
    if region.transposed:
        c, group_k, r, s = weight.shape
        grouped = weight.reshape(region.groups, c // region.groups, group_k, r, s)
        weight = grouped.transpose(0, 2, 1, 3, 4)
    return np.asarray(weight.reshape(region.k, -1))


def filter_norms(region: Region) -> NDArray[np.float64]:
    """The 2-norm of every output channel's filter."""
    filters = by_filter(region)
    return np.asarray(np.sqrt(np.einsum("ki,ki->k", filters, filters, dtype=np.float64)))


def sole_readers(
    var: relax.Var, regions: Mapping[relax.Var, Region], flow: Dataflow
) -> list[relax.Var]:
    """The outputs of the regions that read `var`; none if anything else does."""
    found = []
    for reader in readers(var, regions, flow):
        if isinstance(reader, str):
            return []
        if reader.residual is not None and reader.residual.same_as(var):
            return []
        found.append(reader.output)
    return found
