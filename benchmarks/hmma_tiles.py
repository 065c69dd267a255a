"""Random tiles of mma.sync m16n8k16 that show how a tensor core adds: one function per kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from intrinsics.dtypes import BF16, FP16
from intrinsics.record import TensorIntrinsic

Array = NDArray[Any]


def spread(draw: np.random.Generator, shape: tuple[int, ...], least: int, most: int) -> Array:
    """Returns float64 of either sign, with exponents uniform in [least, most)."""
    values = np.ldexp(draw.uniform(1.0, 2.0, shape), draw.integers(least, most, shape))
    return np.asarray(values * draw.choice([-1.0, 1.0], shape))


def _normal(draw: np.random.Generator, t: int, low: int, high: int) -> list[Array]:
    return [draw.normal(size=(t, *s)) for s in ((16, 16), (16, 8), (16, 8))]


def _all(draw: np.random.Generator, t: int, low: int, high: int) -> list[Array]:
    a, b = spread(draw, (t, 16, 16), low, high), spread(draw, (t, 16, 8), low, high)
    return [a, b, spread(draw, (t, 16, 8), max(2 * low, -149), min(2 * high, 128))]


def _near(draw: np.random.Generator, t: int, low: int, high: int) -> list[Array]:
    """Returns tiles with exponents near each other, so that every bit of the sum counts."""
    centre = draw.integers(low + 4, high - 4, (2, t, 1, 1))
    a, b = (
        np.ldexp(spread(draw, (t, *s), -3, 4), at)
        for s, at in zip(((16, 16), (16, 8)), centre, strict=True)
    )
    return [a, b, np.ldexp(spread(draw, (t, 16, 8), -6, 7), centre.sum(axis=0))]


def _cancel(draw: np.random.Generator, t: int, low: int, high: int) -> list[Array]:
    """Returns tiles whose upper half of k cancels the lower but for a few last bits, c alike."""
    a, b, c = _near(draw, t, low, high)
    a[..., 8:] = a[..., :8]
    b[..., 8:, :] = -b[..., :8, :] * (1 + draw.choice([0.0, 2.0**-10, -(2.0**-10)], (t, 8, 8)))
    some = draw.random((t, 1, 1)) < 0.5
    a[..., 14:] = np.where(some, 0.0, a[..., 14:])
    operand = FP16 if high == 16 else BF16
    left, right = (x.astype(operand.numpy) for x in (a, b))
    exact = -(left.astype(np.float64) @ right.astype(np.float64))
    return [a, b, np.where(np.isfinite(exact) & some, exact, c)]


def _subnormal(draw: np.random.Generator, t: int, low: int, high: int) -> list[Array]:
    """Returns operands and sums near the smallest numbers, with zeros."""
    a = spread(draw, (t, 16, 16), low, low + 14) * draw.choice([0.0, 1.0, 1.0], (t, 16, 16))
    # The last bits of products are below those that alignment keeps.
    other = max(low, -24 if low > -100 else -158 - low)
    b = spread(draw, (t, 16, 8), other, other + 20) * draw.choice([0.0, 1.0, 1.0], (t, 16, 8))
    size = max(2 * low, -149)
    c = spread(draw, (t, 16, 8), size, size + 30) * draw.choice([0.0, 0.0, 1.0], (t, 16, 8))
    return [a, b, c]


def _ties(draw: np.random.Generator, t: int, low: int, high: int) -> list[Array]:
    """Returns sums at ties of fp16 rounding.

    They are half of the smallest fp16 number and i * j units in the last place of the smallest
    products, so that an fp16 sum depends on whether these are kept.
    """
    a, b = np.zeros((t, 16, 16)), np.zeros((t, 16, 8))
    i, j = draw.integers(0, 8, (t, 16)), draw.integers(0, 8, (t, 8))
    least, place = 2.0**-14, 2.0 ** draw.integers(-14, -10, (t, 8))
    # (1 + i)(1 + j) - i - j = 1 + i j, with i and j in units of 2**-10.
    a[..., 0], b[:, 0] = least * (1 + i * 2.0**-10), place * (1 + j * 2.0**-10)
    a[..., 1], b[:, 1] = least * i * 2.0**-10, -place
    a[..., 2], b[:, 2] = least, -place * j * 2.0**-10
    a[..., 3], b[:, 3] = least, 2.0**-11 - place
    some = draw.choice([0.0, 0.0, 1.0, 2.0, 5.0, 64.0, -3.0], (t, 16, 8))
    return [a * draw.choice([-1.0, 1.0], (t, 16, 1)), b, some * 2.0**-24]


def _special(draw: np.random.Generator, t: int, low: int, high: int) -> list[Array]:
    """Returns tiles with infinities, NaN, zeros of both signs and overflow in a few places."""
    operands = [spread(draw, (t, *s), high - 3, high) for s in ((16, 16), (16, 8))]
    operands.append(spread(draw, (t, 16, 8), 120, 128))
    for x in operands:
        x[draw.random(x.shape) < 0.7] = 0.0
        x[draw.random(x.shape) < 0.2] *= -1.0
        for value in (np.inf, -np.inf, np.nan):
            x[draw.random(x.shape) < 0.004] = value
    return operands


KINDS: dict[str, Callable[[np.random.Generator, int, int, int], list[Array]]] = {
    "normal": _normal,
    "all exponents": _all,
    "near exponents": _near,
    "cancellation": _cancel,
    "subnormal": _subnormal,
    "ties": _ties,
    "special": _special,
}


def tiles(instruction: TensorIntrinsic, kind: str, count: int, seed: int) -> list[Array]:
    """Returns A (t, 16, 16), B (t, 16, 8), C (t, 16, 8) of one kind, in the right dtypes."""
    operand = dtypes.get(instruction.a_dtype)
    low = operand.least_exponent - operand.fraction
    high = math.frexp(operand.largest)[1]
    draw = np.random.default_rng([seed, list(KINDS).index(kind)])
    with np.errstate(all="ignore"):
        operands = KINDS[kind](draw, count, low, high)
        a, b = (x.astype(operand.numpy) for x in operands[:2])
        return [a, b, operands[2].astype(instruction.accumulator_dtype)]
