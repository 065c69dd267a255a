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
from tvmconv.passes.graph import shape
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.quantization import EIGHT_BITS
from tvmconv.passes.regions.region import Region


def choose_operands(
    regions: Mapping[relax.Var, Region], chooser: Chooser
) -> dict[relax.Var, Region]:
    """The regions, each quantised one in the form that costs least."""
    chosen = {}
    for region in regions.values():
        best = min(_forms(region), key=lambda form: _cost(form, region, chooser))
        chosen[best.output] = best
    return chosen


def _forms(region: Region) -> list[Region]:
    """Returns the forms that the region may have: of integers or floats, with the quantisation of
    its result or without.

    Kernels of floats do not write their sums as integers.
    """
    whole = [region] if region.unquantised is None else [region, region.unquantised]
    floats = [one for one in whole if one.result != dtypes.INT32.name]
    return [replace(one, integers=True) for one in whole if one.scale is not None] + floats


def _cost(form: Region, whole: Region, chooser: Chooser) -> tuple[bool, float]:
    """Returns whether a kernel is of last resort, and the estimated microseconds of all kernels,
    with one that quantises the result if these do not."""
    place = Place(form.output, 0, form.k)
    kernels = [w for w, _ in workloads(form, place, NHWC, NHWC, NHWC, chooser.precision)]
    us = sum(chooser.cost(form.name, w) for w in kernels)
    last = any(chooser.estimated(form.name, w).family.last_resort for w in kernels)
    if whole.result in EIGHT_BITS and not form.result:
        elements = math.prod(shape(form.output))
        card, read = chooser.hardware.card, chooser.precision.result
        us += copy_cost(elements, card, read, whole.result).us
    return last, us
