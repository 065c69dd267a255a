"""Keep what is between two convolutions in the range of fp16, by moving powers of two.

Before:  t = relu(conv(x, a) + bias); y = conv(t, b)        t up to 150000, past fp16's 65504
After:   t' = relu(conv(x, a / 64) + bias / 64); y = conv(t', 64 * b)
Requires: t is written by one convolution without a residual, with an activation for which
          f(s * x) = s * f(x) (none, relu, leaky_relu, prelu), and read by convolutions alone, none
          of them as a residual. Channels of t are made smaller whose filter enlarges what it reads
          eight times or more. Made larger is t where no weight of a is a normal fp16 number, if its
          bias stays small.
Formula: f(conv(x, a * s) + bias * s) = s * t, conv(s * t, b / s) = conv(t, b), with a power of two
         s for each channel, so exact but for numbers that fp16 can't hold on either side. To make
         smaller it is the one nearest to 1 / (2-norm of the filter), by which independent inputs
         grow (Meller et al. 2019, "Same, same but different", equalise channels so).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.readers import readers
from tvmconv.passes.regions.absorb_scale import scaled
from tvmconv.passes.regions.region import Region

#: Functions f for which f(s * x) = s * f(x), s > 0.
HOMOGENEOUS = ("none", "relu", "leaky_relu", "prelu")
#: Filters that enlarge less than so much are left as they are.
ENLARGED = 8.0
#: A scaled weight stays below this, far from where fp16 ends.
LARGEST = 1024.0
#: The smallest normal number of fp16, and what weights that are all below it are raised to.
SMALLEST, RAISED = 2.0**-14, 2.0**-8
#: A bias that is raised with them stays below this.
LARGEST_BIAS = 64.0


def balance_ranges(regions: Mapping[relax.Var, Region], flow: Dataflow) -> dict[relax.Var, Region]:
    """The same regions, some with weights and biases scaled against each other."""
    balanced = dict(regions)
    for var in regions:
        scale = _scale(balanced[var])
        after = _sole_readers(var, regions, flow)
        if (scale == 1).all() or not after:
            continue
        read = {one: _read_scaled(balanced[one], scale) for one in after}
        if max(float(np.abs(region.weight).max()) for region in read.values()) > LARGEST:
            continue
        region = balanced[var]
        bias = None if region.bias is None else region.bias * scale
        balanced[var] = replace(region, weight=scaled(region, scale), bias=bias)
        balanced.update(read)
    return balanced


def _scale(region: Region) -> NDArray[np.float64]:
    """For every output channel the power of two that undoes what its filter does to sizes."""
    ones = np.ones(region.k)
    if region.residual is not None or region.activation.kind not in HOMOGENEOUS:
        return ones
    largest = float(np.abs(region.weight).max())
    if not np.isfinite(region.weight).all() or largest == 0:
        return ones
    if largest < SMALLEST:
        raised = 2.0 ** np.floor(np.log2(RAISED / largest))
        bias = 0.0 if region.bias is None else float(np.abs(region.bias).max())
        return ones * raised if np.isfinite(raised) and bias * raised <= LARGEST_BIAS else ones
    norms = _norms(region)
    return np.where(norms >= ENLARGED, 2.0 ** -np.round(np.log2(np.maximum(norms, 1))), ones)


def _by_filter(region: Region) -> NDArray[Any]:
    """The weight as (K, whatever each output channel multiplies)."""
    weight = region.weight.astype(np.float64)
    if region.transposed:
        c, group_k, r, s = weight.shape
        grouped = weight.reshape(region.groups, c // region.groups, group_k, r, s)
        weight = grouped.transpose(0, 2, 1, 3, 4)
    return weight.reshape(region.k, -1)


def _norms(region: Region) -> NDArray[Any]:
    """The 2-norm of every output channel's filter."""
    return np.asarray(np.linalg.norm(_by_filter(region), axis=1))


def _read_scaled(region: Region, scale: NDArray[np.float64]) -> Region:
    """The region, reading channels that were multiplied by `scale`, (C,)."""
    weight = region.weight
    if region.transposed:
        return replace(region, weight=weight / scale[:, None, None, None])
    k, group_c, r, s = weight.shape
    grouped = weight.reshape(region.groups, k // region.groups, group_c, r, s)
    by_group = scale.reshape(region.groups, 1, group_c, 1, 1)
    return replace(region, weight=(grouped / by_group).reshape(weight.shape))


def _sole_readers(
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
