"""Add another tensor in the epilogue.

Before:  y = add(conv(x), residual)
After:   the kernel adds it to its fp32 accumulators, before or after the activation
Requires: another tensor of the same shape; no other reader of conv(x)
Formula: y = activation(conv + bias + residual), or activation(conv + bias) + residual
"""

from __future__ import annotations

from dataclasses import replace

from tvm import relax

from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.regions.region import Region


def residual_after(region: Region, flow: Dataflow) -> Region | None:
    """The region with the sum that follows, or None."""
    reader = flow.sole_reader(region.output)
    if region.residual is not None or reader is None or flow.op(reader) != "relax.add":
        return None
    others = [arg for arg in flow.values[reader].args if not arg.same_as(region.output)]
    if len(others) != 1 or not isinstance(others[0], relax.Var):
        return None
    if shape(others[0]) != shape(region.output):
        return None
    last = region.activation.kind != "none"
    return replace(region, output=reader, residual=others[0], residual_last=last)
