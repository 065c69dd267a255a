"""Merge zero padding into the convolution after it.

Before:  y = conv2d(pad(x, 0, widths), weight, padding=p)
After:   y = conv2d(x, weight, padding=p + widths)
Requires: padding with zeros, of rows and columns only; negative widths, which crop, only if the
          convolution does not pad the cropped side; not before a transposed convolution, whose
          padding has another meaning
Formula: the convolution reads zeros outside of x in both forms
"""

from __future__ import annotations

from dataclasses import replace

from tvmconv.passes.graph import Dataflow, array, shape
from tvmconv.passes.regions.region import Region


def pad_before(region: Region, flow: Dataflow) -> Region:
    """The region with the padding before it, or the region unchanged."""
    if region.op != "relax.nn.conv2d" or flow.op(region.x) != "relax.nn.pad":
        return region
    call = flow.values[region.x]
    value = array(call.args[1]) if len(call.args) > 1 else None
    filled = float(call.attrs.pad_value) if value is None else float(value)
    widths = [int(width) for width in call.attrs.pad_width]
    (top, bottom), (left, right) = widths[2:4], widths[4:6]
    if call.attrs.pad_mode != "constant" or filled != 0 or any(widths[:2] + widths[6:]):
        return region
    around, x = (top, left, bottom, right), call.args[0]
    if any(width < 0 < pad for width, pad in zip(around, region.padding, strict=True)):
        return region  # it would pad with zeros inside x
    above, before, below, after = map(sum, zip(around, region.padding, strict=True))
    padding = (above, before, below, after)
    n, h, w, c = shape(x)
    return replace(region, x=x, x_shape=(n, h, w, c), padding=padding)
