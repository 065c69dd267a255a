"""Read the bytes that are fed where quantising them only shifts them.

Before:  p = int8(min(max(round(float(q) * scale + shift), -128), 127)); y = conv(p - z, numbers)
After:   y = conv(q - (z - d), numbers)                            where p = q + d for all of 256 q
Requires: q is an input of the network, in 8 bits; scale and shift have one value for each input
          channel, or one for all; no value that is rounded is near a tie
Formula: the numbers are the same, as is decided by computing p for every q. So of x / 255 that is
         quantised by 1 / 255, and of a camera's bytes that become int8 by a zero point of -128
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from intrinsics import dtypes
from tvmconv.passes.graph import Dataflow, dtype
from tvmconv.passes.regions.absorb_activation import BINARY
from tvmconv.passes.regions.absorb_scale import by_channel
from tvmconv.passes.regions.quantization import EIGHT_BITS
from tvmconv.passes.regions.region import Region

Table = NDArray[np.float64]
#: How near to a whole number a value is that no other order of arithmetic rounds to another.
CERTAIN = 0.25


def fed_numbers_before(region: Region, flow: Dataflow) -> Region:
    """The region of whole numbers, reading those that are fed; else unchanged."""
    if region.scale is None or not isinstance(region.x, relax.Var):
        return region
    calls: list[relax.Call] = []
    at: relax.Expr = region.x
    while isinstance(at, relax.Var) and (not calls or dtype(at) not in EIGHT_BITS):
        if flow.op(at) not in (*BINARY, "relax.round", "relax.astype"):
            return region
        calls.append(flow.values[at])
        at = calls[-1].args[0]
    if not isinstance(at, relax.Var) or not is_fed(at, flow):
        return region
    limits = np.iinfo(dtypes.get(dtype(at)).numpy)
    fed = np.arange(limits.min, limits.max + 1, dtype=np.float64)[:, None]
    made = _values(fed, reversed(calls), region.x_shape[-1])
    shift = None if made is None else made - fed
    if shift is None or (shift != shift.flat[0]).any():
        return region
    zero = region.x_zero - int(shift.flat[0])
    if region.transposed and zero:
        return region
    return replace(region, x=at, x_zero=zero)


def is_fed(value: relax.Var, flow: Dataflow) -> bool:
    """True for 8-bit numbers that are an input of the network, in any order of axes."""
    while value in flow.values:
        if flow.op(value) != "relax.permute_dims":
            return False
        value = flow.values[value].args[0]
    return dtype(value) in EIGHT_BITS


def _values(table: Table, calls: Iterable[relax.Call], channels: int) -> Table | None:
    """Returns the results of the calls for each number, (numbers, 1 or C); None if not certain."""
    for call in calls:
        op = call.op.name
        if op == "relax.round":
            near = np.rint(table)
            if (np.abs(table - near) > CERTAIN).any():
                return None
            table = near
        elif op in BINARY:
            other = by_channel(call.args[1], channels)
            if other is None:
                return None
            table = BINARY[op](table, other)
    return table
