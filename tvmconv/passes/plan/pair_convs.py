"""Compute a depthwise convolution and the 1x1 one after it in one kernel, where that is faster.

Before:  t = clip(depthwise(x) + b); y = conv1x1(t) + c + residual; one kernel each
After:   y by one kernel that has t in registers alone: a region with a `Region.prologue`
Requires: t is read by the 1x1 convolution alone, and written as a tensor of its own; a family
          takes the two, and they are estimated to cost less together than apart. Measured times
          decide where there are records of all three. On a CPU never, unless TVMCONV_PAIR is 1:
          the kernel is there emulated, element by element.
Formula: the identity; t is rounded as it would be in memory
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from schedules.choose import Estimate, Lookup, choose, options
from schedules.conv.precision import Precision
from schedules.conv.workload import NHWC, ConvWorkload
from schedules.machine.hardware import Hardware
from tvmconv import knobs
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.readers import readers, written
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.regions import Region

CONV = "relax.nn.conv2d"


def pair_convs(
    regions: Mapping[relax.Var, Region],
    places: Mapping[relax.Var, Place],
    flow: Dataflow,
    precision: Precision,
    hardware: Hardware,
    estimate: Estimate,
    records: Lookup | None = None,
) -> dict[relax.Var, Region]:
    """The same regions, but one for each two that are computed together: that of the second."""
    wanted = knobs.pair()
    paired = dict(regions)
    if wanted is False or (wanted is None and hardware.kind != "cuda"):
        return paired
    for var, region in regions.items():
        first = regions.get(region.x) if isinstance(region.x, relax.Var) else None
        if first is None or not _joined(first, region, places, regions, flow):
            continue
        both = replace(region, x=first.x, prologue=first)
        own = written(places[var].buffer, regions, flow, precision)
        ((w, _),) = workloads(both, places[var], NHWC, NHWC, NHWC, own)
        matched, _ = options(w, hardware, estimate)
        if matched and (wanted or _faster(w, hardware, estimate, records)):
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
    """Whether `first` is a depthwise convolution that only `then` reads, as a convolution."""
    channels = first.x_shape[3]
    if first.op != CONV or then.op != CONV or first.residual is not None:
        return False
    if not first.groups == channels == first.k > 1 or first.slope is not None:
        return False
    if first.pool is not None:
        return False
    if places[first.output] != Place(first.output, 0, first.k):
        return False
    if then.residual is not None and then.residual.same_as(first.output):
        return False
    return [one is then for one in readers(first.output, regions, flow)] == [True]


def _faster(
    w: ConvWorkload, hardware: Hardware, estimate: Estimate, records: Lookup | None
) -> bool:
    """Whether `w` costs less than the two apart. Times measured do not compare with estimates."""
    wanted = (w, *w.apart)
    choices = [choose(one, hardware, estimate, records) for one in wanted]
    if not all(one.tuned for one in choices):
        choices = [choose(one, hardware, estimate) for one in wanted]
    together, *apart = (one.cost.us for one in choices)
    return together < sum(apart)
