"""Why layers of a quantised model multiply floats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmconv.passes.graph import Dataflow, array, dtype
from tvmconv.passes.plan.plan import Plan
from tvmconv.passes.regions.quantization import EIGHT_BITS, dequantised
from tvmconv.passes.regions.region import Region
from tvmconv.passes.simplify.runtime_scales import declined, runtime_of

#: What a DequantizeLinear becomes, from its result back to the numbers.
STEPS = ("relax.multiply", "relax.divide", "relax.add", "relax.subtract", "relax.astype")
MOVES = ("relax.permute_dims", "relax.reshape")
NOTHING = "neither its input nor its weight is quantised"
INPUT = "its input is not quantised"
CHANNELS = "its input has a scale for each channel"
WEIGHT = "its weight is not quantised"
MOVED = "its numbers are moved after they are dequantised"
TAPS = "a transposed convolution of numbers with a zero point: outputs differ in their taps"


def floats(plan: Plan, flow: Dataflow, weights: Mapping[str, str]) -> dict[str, str]:
    """The reason by name of layer, of a quantised model; none for layers that multiply integers.

    flow: the graph, its regions planned. weights: by name, why a quantised weight is not one of
    whole numbers, empty if it is (`weight_reasons`).
    """
    found: dict[str, str] = {}
    for planned in plan.values():
        for region in filter(None, (planned.region.prologue, planned.region)):
            if not region.integers:
                found[region.name] = region.floats_because or _cause(region, flow, weights)
    return found


def _cause(region: Region, flow: Dataflow, weights: Mapping[str, str]) -> str:
    """Why a region is not one of whole numbers."""
    x, of_weight = region.x, weights.get(region.name, WEIGHT)
    while isinstance(x, relax.Var) and flow.op(x) in MOVES:
        x = flow.values[x].args[0]
    runtime = runtime_of(x, flow)
    if runtime is not None:
        of_x = declined(region.transposed, any(region.padding), runtime, flow)
        return of_x or of_weight or MOVED
    numbers = dequantised(x, flow)
    if numbers is None:
        if _by_channel(x, flow):
            return CHANNELS
        return INPUT if region.name in weights else NOTHING
    if region.transposed and numbers.zero:
        return TAPS
    return of_weight or MOVED


def _by_channel(x: relax.Expr, flow: Dataflow) -> bool:
    """True for what a DequantizeLinear gives whose scale or zero point is a vector."""
    vectors = False
    while isinstance(x, relax.Var) and flow.op(x) in STEPS:
        first, *others = flow.values[x].args
        values = [array(one) for one in others]
        vectors |= any(one is not None and np.size(one) > 1 for one in values)
        x = first
        if dtype(x) in EIGHT_BITS:
            return vectors
    return False
