"""Choose the layout of every activation, together with the family of every convolution.

Before:  convolutions, each of which some families could compute, in some layouts
After:   a layout for every tensor that a convolution writes
Requires: a cost in microseconds for a convolution by a family, and for copying a tensor
Formula: the least sum of all costs, over every assignment of layouts: `minimise`, a shortest path
         through (operator, layout, family). A convolution costs what its cheapest family does; the
         gather reads and the epilogue writes either layout, so between convolutions nothing is
         converted. A packed tensor (NHWC16n16c) that another operator reads is copied once.
         Where the sums are equal, NHWC, which all operators read. Asked for packed, a build keeps
         NHWC only for tensors that no family at hand writes or reads packed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tvm import relax

from schedules.conv.precision import Precision
from schedules.conv.workload import NHWC, PACKED, Layout
from schedules.machine.cost import copy_cost
from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.minimise import Factor, minimise
from tvmconv.passes.plan.readers import readers, written
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.region import Region


@dataclass(frozen=True)
class Chosen:
    """A layout, why it is that one, and why the tensor is copied, if it is."""

    layout: Layout
    reason: str
    copied_for: str = ""


MATRIX = "relax.matmul"
#: Added for a layout that is not the one asked for: more than any network takes.
UNWANTED_US = 1e9
#: A kernel that no family computes. Finite, so that the least sum has the fewest of them.
IMPOSSIBLE_US = 1e15
PLAIN = Chosen(NHWC, "what every operator reads")


def choose_layouts(
    regions: Mapping[relax.Var, Region],
    places: Mapping[relax.Var, Place],
    flow: Dataflow,
    chooser: Chooser,
) -> dict[relax.Var, Chosen]:
    """The layout of every tensor that a region writes, by the variable that region computes.

    With `Chooser.layout` "packed", packed is what every tensor gets that some family can write and
    its readers' families can read so, whatever that costs.
    """
    plain: dict[relax.Expr | None, str] = {}
    for region in regions.values():
        reason = "read as a matrix" if region.op == MATRIX else "read by a pair of convolutions"
        if region.op == MATRIX or region.prologue is not None:
            plain |= {region.x: reason, region.residual: reason}
        elif region.gate is not None:
            plain |= dict.fromkeys((region.x, region.gate), "multiplied where it is read")
    barred = {
        var: plain.get(var) or _only_nhwc(region, places[var]) for var, region in regions.items()
    }
    others = {
        var: [one for one in readers(var, regions, flow) if isinstance(one, str)] for var in regions
    }
    domains = {var: (NHWC,) if barred[var] else (NHWC, PACKED) for var in regions}
    packed = chooser.layout == "packed"
    factors = [_kept(var, domains[var], others[var], packed, chooser) for var in regions]
    for var, region in regions.items():
        own = written(region, places[var].buffer, regions, flow, chooser.precision)
        factors.append(_computed(region, places[var], own, domains, chooser))
    found = minimise(domains, factors)
    return {var: _chosen(found[var], barred[var], others[var], packed) for var in regions}


def _chosen(layout: Layout, barred: str, others: list[str], packed: bool) -> Chosen:
    if layout == PACKED:
        why = "asked for" if packed else "costs least"
        return Chosen(PACKED, why, f"read by {others[0]}" if others else "")
    if barred:
        return Chosen(NHWC, barred)
    no_family = f"no family here writes or reads {PACKED}"
    return Chosen(NHWC, no_family if packed else f"costs no more than {PACKED}")


def _only_nhwc(region: Region, place: Place) -> str:
    """Why the output can't be packed; empty if it can."""
    batch, channels = region.x_shape[0], region.k
    if region.prologue is not None:
        return "written by a pair of convolutions"
    if region.groups != 1 or region.transposed:
        return "groups and transposed convolutions write NHWC"
    if place != Place(region.output, 0, channels):
        return "part of a larger tensor"
    if region.op == MATRIX:
        return "a matrix"
    if region.pool is not None:
        return "a kernel that pools writes NHWC"
    if region.wide:
        return "kept in fp32, and converted by its readers"
    if batch % PACKED.n:
        return f"a batch of {batch} is no multiple of {PACKED.n}"
    if channels % PACKED.c:
        return f"{channels} channels are no multiple of {PACKED.c}"
    return ""


def _kept(
    var: relax.Var,
    domain: tuple[Layout, ...],
    others: list[str],
    packed: bool,
    chooser: Chooser,
) -> Factor[relax.Var, Layout]:
    """Microseconds to keep `var` in a layout: packed, a copy for operators that read only NHWC."""
    copy = copy_cost(math.prod(shape(var)), chooser.hardware.card, chooser.precision.x)
    costs = {NHWC: UNWANTED_US if packed else 0.0, PACKED: copy.us if others else 0.0}
    return Factor((var,), {(layout,): costs[layout] for layout in domain})


def _computed(
    region: Region,
    place: Place,
    precision: Precision,
    domains: Mapping[relax.Var, tuple[Layout, ...]],
    chooser: Chooser,
) -> Factor[relax.Var, Layout]:
    """Microseconds of a region's kernels, by the layouts of the tensors it reads and writes."""
    tensors = [region.output, region.x, region.residual]
    variables = tuple(dict.fromkeys(v for v in tensors if v is not None and v in domains))
    costs = {}
    for layouts in itertools.product(*(domains[one] for one in variables)):
        known: dict[relax.Expr | None, Layout] = dict(zip(variables, layouts, strict=True))
        out, x, residual = (known.get(one, NHWC) for one in tensors)
        costs[layouts] = sum(
            min(chooser.cost(region.name, w), IMPOSSIBLE_US)
            for w, _ in workloads(region, place, x, residual, out, precision)
        )
    return Factor(variables, costs)
