"""Operands of one tensor-core instruction that try its arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import TensorIntrinsic, dtypes

Array = NDArray[Any]

KINDS = ("normal", "cancelling", "subnormal", "tiny", "large", "mixed")
#: Of integers: the whole range; its two ends and zero.
INTEGER_KINDS = ("normal", "extreme")


def kinds(intrinsic: TensorIntrinsic) -> tuple[str, ...]:
    """The kinds of operands that an instruction's arithmetic is tried with."""
    return INTEGER_KINDS if dtypes.get(intrinsic.a_dtype).integer else KINDS


def tiles(intrinsic: TensorIntrinsic, kind: str, seed: int = 0) -> tuple[Array, Array, Array]:
    """a (m, k), b (k, n) and c (m, n) whose product stays finite in the accumulator's dtype."""
    m, n, k = intrinsic.m, intrinsic.n, intrinsic.k
    rng = np.random.default_rng(seed)
    if kinds(intrinsic) is INTEGER_KINDS:
        return _integers(intrinsic, kind, rng)
    accumulator = intrinsic.accumulator_dtype
    a, b, c = rng.standard_normal((m, k)), rng.standard_normal((k, n)), rng.standard_normal((m, n))
    if kind == "cancelling":
        # Every term has its opposite, almost: what is left is small beside what was summed.
        a[:, k // 2 :] = -a[:, : k // 2]
        b[k // 2 :] = b[: k // 2] * (1 + rng.uniform(-4, 4, (k // 2, n)) * 2.0**-10)
        c *= 2.0**-8
    if kind == "subnormal":
        # Below the operand's normal numbers. With b between 1 and 2, so are the results, and
        # products of bf16 still have no bit below fp32's smallest number.
        operand = dtypes.get(intrinsic.a_dtype)
        most = 2**operand.fraction
        b = rng.choice((-1, 1), (k, n)) * rng.uniform(1, 1.99, (k, n))
        a = rng.integers(1 - most, most, (m, k)) * operand.smallest
        c = rng.integers(1 - most, most, (m, n)) * operand.smallest
    if kind == "tiny":
        # Products that an fp32 sum keeps and an fp16 one rounds to zero or the least subnormal.
        a, b = (rng.integers(-1023, 1024, x.shape) * 2.0**-24 for x in (a, b))
        c = rng.choice((-1, 0, 1), (m, n)) * 2.0**-24
    if kind == "large":
        # At most 16 x 62000 / 17 + 3000, just inside what an fp16 accumulator holds.
        a, b = rng.uniform(-62000, 62000, (m, k)), rng.choice((-1, 1), (k, n)) / 17
        a[0], b[:, 0] = np.abs(a[0]) / 2 + 31000, 1 / 17
        c = rng.uniform(-3000, 3000, (m, n))
    if kind == "mixed":
        # Magnitudes from 2**-12 to 2**4 beside each other, and zeros of both signs.
        a *= 2.0 ** rng.integers(-12, 5, (m, k))
        a[rng.random((m, k)) < 0.2] = 0.0
        b[rng.random((k, n)) < 0.2] = -0.0
        c[rng.random((m, n)) < 0.2] = -0.0
    left, right = (dtypes.get(one).numpy for one in (intrinsic.a_dtype, intrinsic.b_dtype))
    return a.astype(left), b.astype(right), c.astype(accumulator)


def _integers(
    intrinsic: TensorIntrinsic, kind: str, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    def draw(operand: str) -> Array:
        dtype = np.dtype(intrinsic.dtype(operand))
        limits = np.iinfo(dtype)
        # Accumulators leave room for the sum.
        low, high = (limits.min, limits.max) if operand != "c" else (-(2**30), 2**30)
        shape = intrinsic.shape(operand)
        if kind == "extreme":
            return rng.choice(np.array([low, high, 0]), shape).astype(dtype)
        return rng.integers(low, high, shape, endpoint=True).astype(dtype)

    return draw("a"), draw("b"), draw("c")
