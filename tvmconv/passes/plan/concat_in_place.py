"""Let the branches of a concatenation write into the concatenated tensor.

Before:  a = conv(x); b = conv(y); z = concat((a, b), channels)
After:   z = conv(x) into its first channels; z = conv(y) into those after
Requires: every branch is a convolution that only the concatenation reads
Formula: z[..., :K_a] = a; z[..., K_a:] = b: a `Window` for each, and no copy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import relax

from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.regions.region import Region


@dataclass(frozen=True)
class Place:
    """The place of a convolution's output: the tensor of a variable, from a channel on."""

    buffer: relax.Var
    channel: int
    channels: int
    #: Groups of a channel shuffle of the whole tensor.
    shuffle: int = 1


def concat_places(regions: Mapping[relax.Var, Region], flow: Dataflow) -> dict[relax.Var, Place]:
    """The place of each convolution that can write into a concatenation."""
    places = {}
    for var, call in flow.calls("relax.concat"):
        branches = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
        innermost = int(call.attrs.axis) in (3, -1) and len(shape(var)) == 4
        # A matrix product writes rows, not pixels of an image.
        alone = all(
            b in regions and regions[b].op != "relax.matmul" and flow.sole_reader(b) == var
            for b in branches
        )
        if not innermost or not alone or len(set(branches)) != len(branches) or not branches:
            continue
        if len({regions[b].wide for b in branches}) > 1:
            continue  # of two dtypes
        channel = 0
        for branch in branches:
            places[branch] = Place(var, channel, shape(var)[3])
            channel += shape(branch)[3]
    return places
