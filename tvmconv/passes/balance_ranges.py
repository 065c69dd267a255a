"""Keep activations between convolutions in the range of fp16, by moving powers of two.

Before:  t = relu(conv(x, a) + bias); y = conv(t, b)        t up to 150000, past fp16's 65504
After:   t' = relu(conv(x, a / 64) + bias / 64); y = conv(t', 64 * b)
Requires: t is written by one convolution without a residual, with an activation for which
          f(s * x) = s * f(x) (none, relu, leaky_relu, prelu), and read by convolutions alone, none
          of them as a residual; a's filters enlarge what they read, or make it smaller, eight times
          or more
Formula: f(conv(x, a * s) + bias * s) = s * t, conv(s * t, b / s) = conv(t, b): exact, as s is a
         power of two. It is the one nearest to 1 / max over k of the 2-norm of filter k, which is
         by how much independent inputs of one size grow (Meller et al. 2019, "Same, same but
         different", equalise ranges so).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow
from tvmconv.passes.readers import readers
from tvmconv.passes.regions import Region

#: Functions f for which f(s * x) = s * f(x), s > 0.
HOMOGENEOUS = ("none", "relu", "leaky_relu", "prelu")
#: Filters that enlarge less than so much are left as they are.
ENLARGED = 8.0
#: A scaled weight stays below this, far from where fp16 ends.
LARGEST = 1024.0


def balance_ranges(regions: Mapping[relax.Var, Region], flow: Dataflow) -> dict[relax.Var, Region]:
    """The same regions, some with weights and biases scaled against each other."""
    balanced = dict(regions)
    for var in regions:
        scale = _scale(balanced[var])
        after = _sole_readers(var, regions, flow)
        if scale == 1 or not after:
            continue
        largest = max(float(np.abs(balanced[one].weight).max()) / scale for one in after)
        if largest > LARGEST:
            continue
        balanced[var] = _scaled(balanced[var], scale)
        for one in after:
            balanced[one] = replace(balanced[one], weight=balanced[one].weight / scale)
    return balanced


def _scale(region: Region) -> float:
    """The power of two that undoes what the filters do to the size of what they read."""
    if region.residual is not None or region.activation.kind not in HOMOGENEOUS:
        return 1.0
    norm = float(_norms(region).max())
    if not math.isfinite(norm) or norm == 0 or 1 / ENLARGED < norm < ENLARGED:
        return 1.0
    return 2.0 ** -round(math.log2(norm))


def _norms(region: Region) -> NDArray[Any]:
    """The 2-norm of every output channel's filter."""
    weight = region.weight.astype(np.float64)
    axes = (0, 2, 3) if region.transposed else (1, 2, 3)
    return np.sqrt((weight**2).sum(axes))


def _sole_readers(
    var: relax.Var, regions: Mapping[relax.Var, Region], flow: Dataflow
) -> list[relax.Var]:
    """The outputs of the regions that read `var`; none if anything else does."""
    found = []
    for reader in readers(var, regions, flow):
        if isinstance(reader, str) or (
            reader.residual is not None and reader.residual.same_as(var)
        ):
            return []
        found.append(reader.output)
    return found


def _scaled(region: Region, scale: float) -> Region:
    bias = None if region.bias is None else region.bias * scale
    return replace(region, weight=region.weight * scale, bias=bias)
