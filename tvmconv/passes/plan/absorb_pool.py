"""Take the max pool after a convolution into its kernel.

Before:  y = relu(conv(x)); z = max_pool2d(y)
After:   one kernel that writes z alone
Requires: nobody else reads y, which is a tensor of its own and fits fp16; a family that pools;
          and that its kernel is estimated to take less than the fastest one of the convolution and
          the pool
Formula: z = max of y over each window, of what y is rounded to; so bits stay what they were
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from schedules.conv.max_pool import MaxPool
from schedules.conv.workload import NHWC
from schedules.machine.cost import pool_cost
from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.concat_in_place import Place
from tvmconv.passes.plan.workloads import workloads
from tvmconv.passes.regions.region import Region

POOL = "relax.nn.max_pool2d"


def absorb_pools(
    regions: Mapping[relax.Var, Region],
    places: Mapping[relax.Var, Place],
    flow: Dataflow,
    chooser: Chooser,
) -> tuple[dict[relax.Var, Region], dict[relax.Var, Place]]:
    """The regions, some of them with a pool, by what they compute then; and where they write."""
    absorbed, moved = {}, {}
    for var, region in regions.items():
        place = places[var]
        larger = pool_after(region, flow) if place == Place(var, 0, region.k) else None
        if larger is not None and _pays(region, larger, place, chooser):
            region, place = larger, Place(larger.output, 0, region.k)
        absorbed[region.output], moved[region.output] = region, place
    return absorbed, moved


def pool_after(region: Region, flow: Dataflow) -> Region | None:
    """The region with the max pool that alone reads it, or None."""
    reader = flow.sole_reader(region.output)
    if reader is None or flow.op(reader) != POOL:
        return None
    if region.residual is not None or region.wide:
        return None
    attributes = flow.values[reader].attrs
    if attributes.layout != "NHWC" or {int(one) for one in attributes.dilation} != {1}:
        return None
    kernel, stride, padding = (
        (int(pair[0]), int(pair[1]))
        for pair in (attributes.pool_size, attributes.strides, attributes.padding)
    )
    _, rows, columns, _ = shape(reader)
    pool = MaxPool(kernel, stride, padding, (rows, columns))
    if region.transposed or not pool.reads(*region.pixels):
        return None
    return replace(region, output=reader, pool=pool)


def _pays(region: Region, pooled: Region, place: Place, chooser: Chooser) -> bool:
    """True if the kernel that pools is estimated to take less than two kernels."""
    ((w, _),) = workloads(region, place, NHWC, NHWC, NHWC, chooser.precision)
    ((both, _),) = workloads(pooled, place, NHWC, NHWC, NHWC, chooser.precision)
    elements = math.prod(w.out_shape) + math.prod(both.out_shape)
    pool = pool_cost(elements, chooser.hardware.card, chooser.precision.x)
    return chooser.cost(region.name, both) < chooser.cost(region.name, w) + pool.us
