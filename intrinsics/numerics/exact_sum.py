"""Sums of floating-point numbers without any loss, vectorised.

A sum is kept in *limbs*: integers of 26 bits with different weights, which together cover all
exponents. Each limb is a float64, with room for 2**27 additions before a carry. This is Kulisch's
long accumulator (Computer Arithmetic and Validity, 2013), cut up so that NumPy can add it.
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
    """Returns the limbs (LIMBS, ...), lowest first, and the float64 sum, which keeps infinities.

    ``terms`` and ``start`` are float64 (...), multiples of 2**-286 and below 2**260. At most 2**26
    terms.
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
    """Returns the sum as float32 or float16, rounded once to nearest even; zero is positive.

    The result is `plain` where that is infinite or NaN.
    """
    limbs = _carried(limbs)
    negative = limbs[-1] < 0
    limbs = _carried(np.where(negative, -limbs, limbs))
    # The highest nonzero limb and the next hold 27 to 52 bits. Below them it matters only whether
    # anything is left; that goes into the last bit of the two (rounding to odd), at least two
    # places below the last bit that rounding to 24 bits reads.
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
    """Returns the same sum with every limb but the highest in [0, 2**26)."""
    limbs = limbs.copy()
    for index in range(LIMBS - 1):
        carry = np.floor(limbs[index] * 2.0**-WIDTH)
        limbs[index] -= carry * 2.0**WIDTH
        limbs[index + 1] += carry
    return limbs
