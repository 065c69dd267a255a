"""Computes a depthwise convolution and the 1x1 one after it in one kernel, if that is faster.

Before:  t = clip(depthwise(x) + b); y = conv1x1(t) + c + residual; one kernel each
After:   y by one kernel that keeps t in registers: a region with a `Region.prologue`
Requires: only the 1x1 convolution reads t, which is a tensor of its own; a family takes the pair,
          at a lower estimated cost than apart. Measured times decide if there are records of all
          three. Never on a CPU: no family takes pairs there. Of quantised ones both multiply
          integers, and t is of 8 bits.
Formula: the identity; t is rounded as it would be in memory
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from intrinsics import dtypes
from schedules.conv.workload import NHWC, ConvWorkload
from tvmconv import knobs
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.quantised import is_quantised
from tvmconv.passes.plan.readers import readers, written
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.quantization import EIGHT_BITS
from tvmconv.passes.regions.region import Region

CONV = "relax.nn.conv2d"


def pair_convs(
    regions: Mapping[relax.Var, Region],
    places: Mapping[relax.Var, Place],
    flow: Dataflow,
    chooser: Chooser,
) -> dict[relax.Var, Region]:
    """Returns the regions with one for each pair, in the place of the second convolution.

    A pin on the second decides: they are a pair if it is a pair's configuration. A convolution with
    a pin of its own is not the first of a pair.
    """
    paired = dict(regions)
    for var, region in regions.items():
        first = regions.get(region.x) if isinstance(region.x, relax.Var) else None
        if first is None or not _joined(first, region, places, regions, flow):
            continue
        if first.name in chooser.pins:
            continue
        both = replace(region, x=first.x, prologue=first)
        own = written(region, places[var].buffer, regions, flow, chooser.precision)
        ((w, _),) = workloads(both, places[var], NHWC, NHWC, NHWC, own)
        if math.isfinite(chooser.cost(region.name, w)) and _wanted(region.name, w, chooser):
            paired[var] = both
            del paired[first.output]
    return paired


def _joined(
    first: Region,
    then: Region,
    places: Mapping[relax.Var, Place],
    regions: Mapping[relax.Var, Region],
    flow: Dataflow,
) -> bool:
    """Returns True if only the 1x1 convolution `then` reads the depthwise `first`."""
    channels = first.x_shape[3]
    if first.op != CONV or then.op != CONV or first.residual is not None:
        return False
    if not first.groups == channels == first.k > 1 or first.slope is not None:
        return False
    if first.pool is not None or first.wide or not _same_numbers(first, then):
        return False
    if places[first.output] != Place(first.output, 0, first.k):
        return False
    if then.residual is not None and then.residual.same_as(first.output):
        return False
    return [one is then for one in readers(first.output, regions, flow)] == [True]


def _same_numbers(first: Region, then: Region) -> bool:
    """Returns True if both multiply floats and nothing is quantised, or both 8-bit integers."""
    if first.integers and then.integers:
        return first.result in EIGHT_BITS and then.result != dtypes.INT32.name
    return not is_quantised(first) and not is_quantised(then)


def _wanted(name: str, w: ConvWorkload, chooser: Chooser) -> bool:
    """Returns True if pair `w` is to be one kernel: by pin, by knob, or as it is faster."""
    if name in chooser.pins:
        return True
    always = knobs.pair()
    if always is not None:
        return always
    return chooser.hardware.kind == "cuda" and _faster(name, w, chooser)


def _faster(name: str, w: ConvWorkload, chooser: Chooser) -> bool:
    """Returns True if `w` costs less than the two kernels, all measured or all estimated."""
    wanted = (w, *w.apart)
    if not all(math.isfinite(chooser.cost(name, one)) for one in wanted):
        return True  # no family computes one of the two alone
    choices = [chooser.choose(name, one) for one in wanted]
    if not all(one.tuned for one in choices):
        choices = [chooser.estimated(name, one) for one in wanted]
    together, *apart = (one.cost.us for one in choices)
    return together < sum(apart)
