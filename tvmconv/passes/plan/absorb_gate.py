"""Multiply by the gate of squeeze-and-excite in the convolution that reads the product.

Before:  t = multiply(x, gate); y = conv(t, weight)     gate (N, 1, 1, C), a number for each channel
After:   y by one kernel that reads x and the gate: a region with a `Region.gate`
Requires: the convolution alone reads t; another one writes x, in the dtype that is multiplied;
          floats, nothing quantised or scaled to be in range; a family that multiplies by a gate;
          and that its kernel is estimated to take less than the fastest one of the convolution and
          a pass over x
Formula: the identity; t is rounded as it would be in memory, so bits stay what they were
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from schedules.conv.workload import NHWC
from schedules.machine.cost import copy_cost
from tvmconv import knobs
from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.quantised import is_quantised
from tvmconv.passes.plan.readers import readers, written
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.region import Region

CONV, PRODUCT = "relax.nn.conv2d", "relax.multiply"


def absorb_gates(
    regions: Mapping[relax.Var, Region],
    places: Mapping[relax.Var, Place],
    flow: Dataflow,
    chooser: Chooser,
) -> dict[relax.Var, Region]:
    """The regions, some of them with a gate."""
    absorbed = dict(regions)
    if chooser.layout is not None:
        return absorbed  # a gate's tensor is NHWC
    for var, region in regions.items():
        gated = gate_before(region, absorbed, flow, chooser)
        if gated is not None and _pays(region, gated, places[var], absorbed, flow, chooser):
            absorbed[var] = gated
    return absorbed


def gate_before(
    region: Region, regions: Mapping[relax.Var, Region], flow: Dataflow, chooser: Chooser
) -> Region | None:
    """The region with the product that it alone reads, or None."""
    t = region.x
    if region.op != CONV or region.groups != 1 or is_quantised(region) or region.x_scale != 1:
        return None
    if not isinstance(t, relax.Var) or flow.op(t) != PRODUCT:
        return None
    if [one is region for one in readers(t, regions, flow)] != [True]:
        return None
    if region.residual is not None and region.residual.same_as(t):
        return None
    first, second = flow.values[t].args
    for x, gate in ((first, second), (second, first)):
        if not isinstance(x, relax.Var) or not isinstance(gate, relax.Var):
            continue
        n, _, _, c = shape(t)
        if shape(x) != shape(t) or shape(gate) != (n, 1, 1, c):
            continue
        writer = regions.get(x)
        if writer is None:
            continue
        own = written(writer, x, regions, flow, chooser.precision)
        if not is_quantised(writer) and own.result == chooser.precision.x:
            return replace(region, x=x, gate=gate)
    return None


def _pays(
    region: Region,
    gated: Region,
    place: Place,
    regions: Mapping[relax.Var, Region],
    flow: Dataflow,
    chooser: Chooser,
) -> bool:
    """True if a family's kernel multiplies by the gate, and is estimated to take less than two
    kernels, or the knob asks for it."""
    own = written(region, place.buffer, regions, flow, chooser.precision)
    ((w, _),) = workloads(region, place, NHWC, NHWC, NHWC, own)
    ((both, _),) = workloads(gated, place, NHWC, NHWC, NHWC, own)
    together = chooser.cost(region.name, both)
    always = knobs.gate(chooser.hardware.kind)
    if always is not None:
        return always and math.isfinite(together)
    product = copy_cost(math.prod(w.in_shape), chooser.hardware.card, w.precision.x)
    return together < chooser.cost(region.name, w) + product.us
