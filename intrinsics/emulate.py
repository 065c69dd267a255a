"""The meaning of an instruction, in NumPy.

The order of the additions and the rounding are part of the meaning. Products of two operands of up
to 11 significand bits are exact in fp32. k ascends, and every addition rounds to nearest even in
fp32. A narrower accumulator is widened first and rounded once at the end. Integers are added
exactly. The LLVM emulation of `lower` has the same order, so the two agree bit for bit. The
hardware has an order of its own; it is held to `error_bound`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from intrinsics.record import TensorIntrinsic

Array = NDArray[Any]


def mma(intrinsic: TensorIntrinsic, a: Array, b: Array, c: Array) -> Array:
    """Returns ``a @ b + c`` for one tile: a (m, k), b (k, n), c and the result (m, n).

    Raises ``ValueError`` if a shape or dtype is not the instruction's.
    """
    for operand, array in zip("abc", (a, b, c), strict=True):
        shape, dtype = intrinsic.shape(operand), dtypes.get(intrinsic.dtype(operand)).numpy
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{operand} is {array.dtype}{array.shape}, expected {dtype}{shape}")
    wide_a, wide_b, total = (x.astype(intrinsic.wide_dtype) for x in (a, b, c))
    for k in range(intrinsic.k):
        total = total + wide_a[:, k, None] * wide_b[None, k, :]
    return total.astype(dtypes.get(intrinsic.accumulator_dtype).numpy)


def error_bound(intrinsic: TensorIntrinsic, a: Array, b: Array, c: Array) -> Array:
    """Returns a bound on the difference between `mma` and another order of addition.

    The result is float64 (m, n). Each of the k + 1 terms may lose up to one unit in the last place
    of fp32 of the sum of magnitudes, on both sides; this also covers hardware that truncates where
    it aligns. A narrower accumulator rounds once more on each side, by its unit roundoff or by half
    of its smallest number, whichever is more. Integers lose nothing. First-order form: Higham,
    Accuracy and Stability of Numerical Algorithms (2002), section 4.2.
    """
    magnitude = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    magnitude += np.abs(c.astype(np.float64))
    accumulator = dtypes.get(intrinsic.accumulator_dtype)
    if accumulator.integer:
        return np.zeros_like(magnitude)
    unit, least = 2.0 * (intrinsic.k + 1) * 2 * dtypes.FP32.unit, 0.0
    if accumulator is not dtypes.FP32:
        unit += 2.0 * accumulator.unit
        least = accumulator.smallest
    return magnitude * unit + least
