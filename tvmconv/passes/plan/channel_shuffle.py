"""Let the kernel that writes a tensor do the channel shuffle behind it.

Before:  z = reshape(transpose(reshape(y, (N, G, C/G, H, W)), (0, 2, 1, 3, 4)), (N, C, H, W))
After:   the kernels that compute y write channel c to its place after the shuffle
Requires: only the shuffle reads y; reshapes and transposes, in any arrangement and layout, that
          permute channels in this way and do not move pixels
Formula: z[c % (C/G) * G + c // (C/G)] = y[c] (Zhang et al. 2017, ShuffleNet, section 3.1). The
         operators are applied to the numbers of the elements in NumPy, and the result compared.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.plan.concat_in_place import Place


def shuffled(place: Place, flow: Dataflow) -> Place:
    """The place after the shuffle that follows, or the place unchanged."""
    y = place.buffer
    if len(shape(y)) != 4:
        return place
    numbers: NDArray[np.int64] = np.arange(math.prod(shape(y))).reshape(shape(y))
    at, var = numbers, y
    while (following := flow.sole_reader(var)) is not None:
        moved = _moved(at, flow.values[following], flow.op(following))
        if moved is None:
            break
        at, var = moved, following
        groups = _shuffle(numbers, at)
        if groups:
            return replace(place, buffer=var, shuffle=groups)
    return place


def _moved(at: NDArray[np.int64], call: relax.Call, op: str) -> NDArray[np.int64] | None:
    """Applies an operator that only moves elements to an array; None for another operator."""
    if op == "relax.reshape":
        return at.reshape(shape(call))
    if op == "relax.permute_dims":
        axes = None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
        return np.transpose(at, axes)
    return None


def _shuffle(before: NDArray[np.int64], after: NDArray[np.int64]) -> int:
    """Groups of the channel shuffle from `before` to `after`; 0 if it is no shuffle."""
    if before.shape != after.shape:
        return 0
    channels = before.shape[3]
    first = after[0, 0, 0]
    # The second channel of the result is the first of the second group.
    each = int(first[1]) if channels > 1 else 0
    if each < 2 or channels % each or each == channels:
        return 0
    shuffle = channels // each
    order = np.arange(channels).reshape(shuffle, each).T.reshape(-1)
    return shuffle if np.array_equal(after, before[..., order]) else 0
