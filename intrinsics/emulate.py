"""What an instruction means, in NumPy.

The order of the sum and the rounding are part of the meaning: products of two fp16 numbers are
exact in fp32 (11 + 11 significand bits into 24); k ascends, every addition rounds to nearest
even in fp32; an fp16 accumulator is widened before the sum and rounded once after it. The LLVM
emulation of `lower` has the same order, so the two agree bit for bit. The hardware has an order
of its own, and is held to `error_bound`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.record import TensorIntrinsic

Array = NDArray[Any]


def mma(intrinsic: TensorIntrinsic, a: Array, b: Array, c: Array) -> Array:
    """``a @ b + c`` for one tile: a (m, k), b (k, n), c and the result (m, n).

    Raises ``ValueError`` where a shape or dtype is not the instruction's.
    """
    _check("a", a, (intrinsic.m, intrinsic.k), intrinsic.operand_dtype)
    _check("b", b, (intrinsic.k, intrinsic.n), intrinsic.operand_dtype)
    _check("c", c, (intrinsic.m, intrinsic.n), intrinsic.accumulator_dtype)
    wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
    total = c.astype(np.float32)
    for k in range(intrinsic.k):
        total = total + wide_a[:, k, None] * wide_b[None, k, :]
    return total.astype(intrinsic.accumulator_dtype)


def error_bound(intrinsic: TensorIntrinsic, a: Array, b: Array, c: Array) -> Array:
    """How far another order of the same sum may lie from `mma`, per output, as float64.

    Each of the k + 1 terms may lose up to one unit in the last place of fp32 (2**-23, which
    also covers hardware that truncates where it aligns) of the sum of magnitudes, on both
    sides; an fp16 accumulator rounds once more, half a unit (2**-11) each, or half of the smallest
    subnormal (2**-25) where that is more. Higham, Accuracy and Stability of Numerical Algorithms
    (2002), section 4.2, gives the first-order form.
    """
    magnitude = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    magnitude += np.abs(c.astype(np.float64))
    unit, least = 2.0 * (intrinsic.k + 1) * 2.0**-23, 0.0
    if intrinsic.accumulator_dtype == "float16":
        unit += 2.0 * 2.0**-11
        least = 2.0 * 2.0**-25
    return magnitude * unit + least


def _check(name: str, array: Array, shape: tuple[int, int], dtype: str) -> None:
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{name} is {array.dtype}{array.shape}, expected {dtype}{shape}")
