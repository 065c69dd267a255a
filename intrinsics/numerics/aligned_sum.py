"""The fused sum of a tensor core: align, truncate, add, round once; vectorised.

All is float64, which holds every aligned sum exactly: terms of at most 2 + 23 + 20 bits, few enough
of them. Powers of two stand for exponents, so that aligning is a multiplication.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.dtypes import FP16

Array = NDArray[Any]

#: Of fp32.
LEAST_NORMAL, FRACTION, LEAST = -126, 23, -149


@dataclass(frozen=True)
class AlignedSum:
    """How blocks of products are added to an accumulator; see
    `intrinsics.numerics.arithmetic.Numerics`."""

    block: int
    #: Bits kept after the point of the term with the largest exponent.
    bits: int
    #: Terms are not aligned to less than 2 to this.
    least: int
    #: Nonzero accumulators count as having at least this exponent.
    least_accumulator: int
    #: The accumulator is fp16 (its values in float32): rounded to nearest, else towards zero.
    narrow: bool
    joined: bool
    negative_zero: bool

    def prepare(self, planes: list[Array], least_operand: int) -> list[Array]:
        """a and b (n, ...) widened, and their powers of two."""
        wide = [x.astype(np.float64) for x in planes]
        return wide + [_power(x, least_operand) for x in wide]

    def add(self, operands: list[Array], c: Array) -> Array:
        """``sum(a * b, axis=0) + c`` for operands from `prepare`; c (...) and result float32."""
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
        """Of the products of one block and the accumulator."""
        a, b, a_power, b_power = operands
        # Products stay as they are multiplied, in [1, 4), with the sum of the two exponents
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
        """float64 to float32, overwriting it; from 2**128 on it is infinity."""
        bits = total.view(np.int64)
        bits &= ~((1 << (52 - FRACTION)) - 1)
        if largest.min(initial=1.0) < 2.0 ** (self.bits + LEAST):  # bits below subnormal numbers
            tiny = np.abs(total) < 2.0**LEAST_NORMAL
            total[tiny] = np.trunc(total[tiny] * 2.0**-LEAST) * 2.0**LEAST
        return total.astype(np.float32)


def _power(x: Array, least: int) -> Array:
    """2**exponent of each: 0 for 0, at least 2**least for others, infinity for no number."""
    exponent = np.frexp(x)[1] - 1
    power = np.ldexp(1.0, np.maximum(exponent, least))
    power[x == 0] = 0.0
    power[~np.isfinite(x)] = np.inf
    return np.asarray(power)
