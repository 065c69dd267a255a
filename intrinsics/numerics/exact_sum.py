"""Sums of floating-point numbers without any loss, vectorised.

A sum is kept in *limbs*: integers of 26 bits, each of its own weight, that together reach over all
exponents there can be. Each limb is a float64, which holds 2**27 limbs' worth of carries exactly.
(Kulisch's long accumulator, cut up so that NumPy can add it: Kulisch, Computer Arithmetic and
Validity, 2013.)
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WIDTH = 26
#: Products of two bfloat16 reach from 2**-266 to 2**256; sums of them a little further.
LOWEST, LIMBS = -11 * WIDTH, 22


def exact_sum(terms: Iterable[Array], start: Array) -> tuple[Array, Array]:
    """Limbs (LIMBS, ...), lowest first, and the plain float64 sum, which has the infinities.

    Terms and start are float64 (...), multiples of 2**-286 and below 2**260; there may be 2**26 of
    them.
    """
    limbs = np.zeros((LIMBS, *start.shape))
    plain = np.zeros(start.shape)
    for term in chain((start,), terms):
        plain += term
        rest = np.where(np.isfinite(term), term, 0.0)
        for index in reversed(range(LIMBS)):
            weight = 2.0 ** (LOWEST + index * WIDTH)
            digit = np.trunc(rest / weight)
            limbs[index] += digit
            rest -= digit * weight
    return limbs, plain


def to_float(limbs: Array, plain: Array, dtype: Any) -> Array:
    """The sum, rounded once to `dtype` (float32 or float16), to nearest, ties to even; zero is
    positive. Where `plain` is no number, it is the result."""
    limbs = _carried(limbs)
    negative = limbs[-1] < 0
    limbs = _carried(np.where(negative, -limbs, limbs))
    # The highest two limbs that are not zero hold 27 to 52 bits; below them, only whether anything
    # is left matters, and it goes into the last bit of the two (rounding to odd), which is at least
    # two places below what any rounding to 24 bits looks at.
    value = np.zeros(limbs.shape[1:])
    settled = np.zeros(limbs.shape[1:], dtype=bool)
    left = np.cumsum(limbs != 0, axis=0)
    for index in reversed(range(1, LIMBS)):
        here = ~settled & (limbs[index] != 0)
        pair = limbs[index] * 2.0**WIDTH + limbs[index - 1]
        odd = (left[index - 2] > 0) if index > 1 else np.zeros_like(here)
        pair = np.where(odd & (pair % 2 == 0), pair + 1, pair)
        value = np.where(here, pair * 2.0 ** (LOWEST + (index - 1) * WIDTH), value)
        settled |= here
    value = np.where(settled, value, limbs[0] * 2.0**LOWEST)
    value = np.where(negative, -value, value)
    return np.asarray(np.where(np.isfinite(plain), value, plain).astype(dtype))


def _carried(limbs: Array) -> Array:
    """The same sum with every limb but the highest in [0, 2**26)."""
    limbs = limbs.copy()
    for index in range(LIMBS - 1):
        carry = np.floor(limbs[index] * 2.0**-WIDTH)
        limbs[index] -= carry * 2.0**WIDTH
        limbs[index + 1] += carry
    return limbs
