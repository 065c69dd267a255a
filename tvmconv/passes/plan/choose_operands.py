"""Choose for each quantised convolution whether its kernel multiplies integers or floats.

Before:  regions of whole numbers, `Region.scale`
After:   `Region.integers` is True for int8 or uint8 by int8 with sums in int32; False for the same
         numbers, zero point subtracted, as floats, whose sums are exact below 2**24
Requires: estimated costs of both; a family of last resort comes after all others
Formula: the sums are the same numbers, so are the results
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from schedules.conv.workload import NHWC
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.region import Region


def choose_operands(
    regions: Mapping[relax.Var, Region], places: Mapping[relax.Var, Place], chooser: Chooser
) -> dict[relax.Var, Region]:
    """The regions, those of whole numbers as integers unless floats cost less."""
    chosen = dict(regions)
    for var, region in regions.items():
        if region.scale is None:
            continue
        options = [replace(region, integers=True), region]
        chosen[var] = min(options, key=lambda one: _cost(one, places[var], chooser))
    return chosen


def _cost(region: Region, place: Place, chooser: Chooser) -> tuple[bool, float]:
    """Returns whether a kernel is of last resort, and the estimated microseconds of all."""
    kernels = [w for w, _ in workloads(region, place, NHWC, NHWC, NHWC, chooser.precision)]
    costs = [chooser.cost(region.name, w) for w in kernels]
    last = any(chooser.estimated(region.name, w).family.last_resort for w in kernels)
    return last, sum(costs)
