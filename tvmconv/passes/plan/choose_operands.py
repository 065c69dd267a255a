"""Choose for each quantised convolution what its kernel multiplies and writes.

Before:  regions of whole numbers (`Region.scale`), regions with a quantised result
After:   `Region.integers` is True for int8 or uint8 by int8 with sums in int32; False for the same
         numbers, zero point subtracted, as floats, whose sums are exact below 2**24. A result is
         quantised by the kernel, or by another after it
Requires: estimated costs of all; a family of last resort comes after all others
Formula: the sums are the same numbers. A result that another kernel quantises is rounded to fp16
         first
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from intrinsics import dtypes
from schedules.conv.workload import NHWC
from schedules.machine.cost import copy_cost
from schedules.registry import family
from tvmconv.passes.graph import dtype, shape
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.quantised import is_quantised
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.quantization import EIGHT_BITS
from tvmconv.passes.regions.region import Region


def choose_operands(
    regions: Mapping[relax.Var, Region], chooser: Chooser
) -> dict[relax.Var, Region]:
    """The regions, each quantised one in the form that costs least."""
    chosen = {}
    for region in regions.values():
        if not is_quantised(region):
            chosen[region.output] = region
            continue
        after = region.x in regions  # a convolution's result, with no kernel between
        costs = [(_cost(form, region, chooser, after), form) for form in _forms(region)]
        cost, best = min(costs, key=lambda one: one[0])
        if best.scale is not None and not best.integers:
            other, form = min((one for one in costs if one[1].integers), key=lambda one: one[0])
            why = _why_floats(other, form, cost, chooser)
            best = replace(best, floats_because=why)
        chosen[best.output] = best
    return chosen


def _why_floats(
    cost: tuple[bool, float], form: Region, floats: tuple[bool, float], chooser: Chooser
) -> str:
    """Why the cheapest form of integers was not chosen. floats: the cost of what was."""
    if math.isinf(cost[1]):
        return "no family at hand multiplies its integers"
    if cost[0] == floats[0]:
        return f"estimated {cost[1]:.2f} us in integers, {floats[1]:.2f} in floats"
    place = Place(form.output, 0, form.k)
    w, _ = workloads(form, place, NHWC, NHWC, NHWC, chooser.precision)[0]
    choice = chooser.estimated(form.name, w)
    reasons = [
        f"{one.family}: {one.reason}" for one in choice.rejects if family(one.family).tensorized
    ]
    return f"only {choice.family.name} multiplies its integers; {'; '.join(reasons)}"


def _forms(region: Region) -> list[Region]:
    """Returns the forms that the region may have: of integers or floats, with the quantisation of
    its result or without.

    Kernels of floats do not write their sums as integers.
    """
    whole = [region] if region.unquantised is None else [region, region.unquantised]
    floats = [one for one in whole if one.result != dtypes.INT32.name]
    return [replace(one, integers=True) for one in whole if one.scale is not None] + floats


def _cost(form: Region, whole: Region, chooser: Chooser, after: bool) -> tuple[bool, float]:
    """Returns whether a kernel is of last resort, and the estimated microseconds of all kernels,
    with one that quantises the result if these do not, and one that pads or converts x if nothing
    but a convolution could do it: `after` that x is written by one."""
    place = Place(form.output, 0, form.k)
    kernels = [w for w, _ in workloads(form, place, NHWC, NHWC, NHWC, chooser.precision)]
    us = sum(chooser.cost(form.name, w) for w in kernels)
    if math.isinf(us):  # no family at hand takes it as NHWC
        return True, us
    last = any(chooser.estimated(form.name, w).family.last_resort for w in kernels)
    if whole.result in EIGHT_BITS and not form.result:
        elements = math.prod(shape(form.output))
        card, read = chooser.hardware.card, chooser.precision.result
        us += copy_cost(elements, card, read, whole.result).us
    if after and (form.reads_floats or any(form.widths)):
        elements = math.prod(form.x_shape)
        made = dtype(form.x) if form.integers else chooser.precision.x
        us += copy_cost(elements, chooser.hardware.card, dtype(form.x), made).us
    return last, us
