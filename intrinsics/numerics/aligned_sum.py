"""The fused sum of a tensor core: align, truncate, add, round once. Vectorised.

Everything is float64, which holds every aligned sum exactly: a few terms of at most 2 + 23 + 20
bits. Exponents are kept as powers of two, so that aligning is a multiplication.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.dtypes import FP16

Array = NDArray[Any]

#: fp32: exponent of the least normal number, fraction bits, exponent of the least number.
LEAST_NORMAL, FRACTION, LEAST = -126, 23, -149


@dataclass(frozen=True)
class AlignedSum:
    """Adds blocks of products to an accumulator.

    The fields are explained in `intrinsics.numerics.arithmetic.Numerics`.
    """

    block: int
    #: Bits kept after the binary point of the term with the largest exponent.
    bits: int
    #: Smallest exponent that terms are aligned to.
    least: int
    #: Smallest exponent that a nonzero accumulator counts as.
    least_accumulator: int
    #: The accumulator is fp16, held in float32, and rounds to nearest; else it truncates.
    narrow: bool
    joined: bool
    negative_zero: bool

    def prepare(self, planes: list[Array], least_operand: int) -> list[Array]:
        """Returns a and b (n, ...) as float64, then the powers of two of each."""
        wide = [x.astype(np.float64) for x in planes]
        return wide + [_power(x, least_operand) for x in wide]

    def add(self, operands: list[Array], c: Array) -> Array:
        """Returns ``sum(a * b, axis=0) + c`` for operands of `prepare`; c (...), result float32."""
        out = self._blocks(operands, c)
        odd = ~np.isfinite(out)
        if odd.any():  # a finite result had only finite terms, so the rest is right already
            out[odd] = self._blocks([x[:, odd] for x in operands], c[odd], special=True)
        return out

    def _blocks(self, operands: list[Array], c: Array, special: bool = False) -> Array:
        c = c.copy()
        for start in range(0, len(operands[0]), self.block):
            part = [x[start : start + self.block] for x in operands]
            total = self._block(part, c)
            if special:  # infinities and NaN follow IEEE 754; no finite product overflows float64
                plain = (part[0] * part[1]).sum(axis=0) + c
                total = np.where(np.isfinite(plain), total, plain.astype(np.float32))
            c = total
        return c

    def _block(self, operands: list[Array], c: Array) -> Array:
        if self.joined:
            return self._sum(operands, c)
        products = self._sum(operands, np.zeros_like(c))
        wide = products.astype(np.float64)[None]
        one = np.ones_like(wide)
        both = self._sum([wide, one, _power(wide, LEAST_NORMAL), one], c)
        return np.where(np.isinf(products), products + c, both)

    def _sum(self, operands: list[Array], c: Array) -> Array:
        """Returns the sum of one block's products and the accumulator."""
        a, b, a_power, b_power = operands
        # Products are not normalised: significands in [1, 4), exponents the sum of the two
        # (Khattak and Mikaitis; Xie et al.; as cited in `intrinsics.numerics.arithmetic`).
        largest = np.maximum(self._accumulator_power(c), 2.0**self.least).astype(np.float64)
        term = np.empty_like(largest)
        for left, right in zip(a_power, b_power, strict=True):
            np.multiply(left, right, out=term)
            np.maximum(largest, term, out=largest)
        scale = 2.0**self.bits / largest
        total = np.trunc(c * scale)
        total += 0.0  # an exact zero is positive
        for left, right in zip(a, b, strict=True):
            np.multiply(left, right, out=term)
            term *= scale
            np.trunc(term, out=term)
            total += term
        total /= scale
        if self.narrow:
            rounded = total.astype(FP16.numpy).astype(np.float32)
        else:
            rounded = self._towards_zero(total, largest)
        return rounded if self.negative_zero else rounded + np.float32(0.0)

    def _accumulator_power(self, c: Array) -> Array:
        power = (c.view(np.int32) & 0x7F800000).view(np.float32)
        return np.asarray(np.maximum(power, (c != 0) * np.float32(2.0**self.least_accumulator)))

    def _towards_zero(self, total: Array, largest: Array) -> Array:
        """Returns float64 as float32, truncated, overwriting it; from 2**128 on infinity."""
        bits = total.view(np.int64)
        bits &= ~((1 << (52 - FRACTION)) - 1)
        if largest.min(initial=1.0) < 2.0 ** (self.bits + LEAST):  # bits below subnormal numbers
            tiny = np.abs(total) < 2.0**LEAST_NORMAL
            total[tiny] = np.trunc(total[tiny] * 2.0**-LEAST) * 2.0**LEAST
        return total.astype(np.float32)


def _power(x: Array, least: int) -> Array:
    """Returns 2**exponent: 0 for 0, at least 2**least otherwise, infinity for inf and NaN."""
    exponent = np.frexp(x)[1] - 1
    power = np.ldexp(1.0, np.maximum(exponent, least))
    power[x == 0] = 0.0
    power[~np.isfinite(x)] = np.inf
    return np.asarray(power)
