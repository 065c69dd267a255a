"""Experiments that others made on V100, A100 and H100, with the answers they published.

Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science
7:e330 (2021): one element of a 16 x 16 x 16 product, of which a few operands are not zero. Their
answers for V100 and A100 are what is expected here; where the two differ, the paper's conclusion is
that A100 (and T4) keep an extra bit. H100 came later: Li et al., https://arxiv.org/abs/2403.00232,
found two bits or more, and sums of at least 16 products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from intrinsics.numerics.arithmetic import A100, H100, V100, Numerics, fused

BELOW_ONE = 1 - 2.0**-24
EXACT_ONE = 1 - 2.0**-11
TINY = 2.0**-24
OLD = (V100, A100)
old = pytest.mark.parametrize("chip", OLD, ids=lambda chip: chip.name)
every = pytest.mark.parametrize("chip", [*OLD, H100], ids=lambda chip: chip.name)


def dot(chip: Numerics, a: list[float], b: list[float], c: float, half: bool = False) -> Any:
    """One element of the 16-deep product; operands that are not given are zero."""
    left, right = np.zeros((2, 16), np.float16)
    left[: len(a)], right[: len(b)] = a, b
    assert left[: len(a)].tolist() == a, "not a binary16 number"
    assert right[: len(b)].tolist() == b, "not a binary16 number"
    accumulator: NDArray[Any] = np.array(c, np.float16 if half else np.float32)
    assert accumulator == c, "not a number of the accumulator's format"
    return fused(left, right, accumulator, chip)


class TestSubnormals:
    @every
    @pytest.mark.parametrize("half", [False, True])
    def test_are_taken_as_operands(self, chip: Numerics, half: bool) -> None:
        assert dot(chip, [TINY], [4], 0, half) == 2.0**-22

    @every
    def test_are_taken_as_accumulator(self, chip: Numerics) -> None:
        assert dot(chip, [], [], 2.0**-149) == 2.0**-149

    @every
    @pytest.mark.parametrize("half", [False, True])
    def test_are_given_back(self, chip: Numerics, half: bool) -> None:
        assert dot(chip, [2.0**-14], [0.5], 0, half) == 2.0**-15
        assert dot(chip, [2.0**-14], [1], -(2.0**-15), half) == 2.0**-15


class TestAccuracy:
    @every
    def test_products_are_exact(self, chip: Numerics) -> None:
        square = 1 - 2.0**-10 + 2.0**-22
        assert dot(chip, [EXACT_ONE], [EXACT_ONE], 0) == square
        assert dot(chip, [EXACT_ONE] * 4, [EXACT_ONE] * 4, 0) == 4 * square

    @every
    def test_products_are_exact_with_an_fp16_accumulator(self, chip: Numerics) -> None:
        # The first product alone would round to 1 - 2**-10, and the second to 2**-11.
        got = dot(chip, [EXACT_ONE, EXACT_ONE], [EXACT_ONE, 2.0**-11], 0, half=True)
        assert got == 1 - 2.0**-10 + 2.0**-11

    @old
    def test_addends_are_lost_one_by_one_beside_the_largest(self, chip: Numerics) -> None:
        """Four that together would be 4 (2 on A100) units in the last place of 1 give nothing."""
        operand = 1.0 if chip is V100 else 0.5
        assert dot(chip, [operand] * 4, [TINY] * 4, 1) == 1

    @old
    @pytest.mark.parametrize("place", range(4))
    def test_the_sum_starts_at_the_largest_wherever_it_is(self, chip: Numerics, place: int) -> None:
        operand = 1.0 if chip is V100 else 0.5
        a, b = [operand] * 4, [TINY] * 4
        a[place] = b[place] = 1
        assert dot(chip, a, b, TINY * operand) == 1


class TestRounding:
    @every
    @pytest.mark.parametrize("sign", [1, -1])
    def test_fp32_sums_are_rounded_towards_zero(self, chip: Numerics, sign: int) -> None:
        # 2 and 3/4 of its last place.
        assert dot(chip, [1, 1], [sign * 2, sign * 3 * TINY], 0) == sign * 2

    @every
    def test_fp16_sums_are_rounded_to_nearest(self, chip: Numerics) -> None:
        # 3/4 of the smallest subnormal.
        assert dot(chip, [TINY, TINY], [0.5, 0.25], 0, half=True) == TINY


class TestAdder:
    @pytest.mark.parametrize(("chip", "answer"), [(V100, 2.0**-23), (A100, 2.0**-24)])
    def test_extra_bits_of_the_alignment(self, chip: Numerics, answer: float) -> None:
        assert dot(chip, [1], [1], -BELOW_ONE) == answer

    @old
    def test_partial_sums_are_not_normalised_in_addition(self, chip: Numerics) -> None:
        # Normalised after the first, which gives 1, the other three would be lost.
        assert dot(chip, [1] * 4, [TINY] * 4, BELOW_ONE) == 1 + 2.0**-23

    @pytest.mark.parametrize(("chip", "answer"), [(V100, 2.0**-23), (A100, 0.0)])
    def test_partial_sums_are_not_normalised_in_subtraction(
        self, chip: Numerics, answer: float
    ) -> None:
        assert dot(chip, [1, 1], [1, -TINY], -BELOW_ONE) == answer

    @old
    @pytest.mark.parametrize("place", range(4))
    def test_two_bits_for_carries(self, chip: Numerics, place: int) -> None:
        b = [1.0] * 4
        b[place] = 2.0**-23
        assert dot(chip, [1] * 4, b, 1 + 2.0**-22 + 2.0**-23) == 4 + 2.0**-21

    @every
    def test_a_third_bit_for_carries(self, chip: Numerics) -> None:
        assert dot(chip, [1] * 4, [1, 1.5, 1.75, 1.875], 1.875) == 8

    @every
    @pytest.mark.parametrize("sign", [1, -1])
    def test_carries_are_rounded_towards_zero(self, chip: Numerics, sign: int) -> None:
        accumulator = sign * (1 + 2.0**-22 + 2.0**-23)
        assert dot(chip, [1] * 4, [sign] * 4, accumulator) == sign * 5

    def test_a_larger_accumulator_can_make_a_smaller_sum(self) -> None:
        sums = [dot(V100, [1] * 4, [TINY] * 4, c) for c in (BELOW_ONE, 1)]
        assert sums == [1 + 2.0**-23, 1]
        operands = [0.5] * 4, [TINY, TINY, TINY, 3 * TINY]
        sums = [dot(A100, *operands, c) for c in (BELOW_ONE, 1)]
        assert sums == [1 + 2.0**-23, 1]


@pytest.mark.parametrize(("chip", "block"), [(V100, 4), (A100, 8), (H100, 16)])
def test_products_of_one_sum(chip: Numerics, block: int) -> None:
    """Products too small to stay beside 1 are lost in its own block. In a block before, they are
    added up, and their sum stays."""
    small = 2.0 ** -(24 + chip.extra_bits)
    for count in (4, 8, 16):
        a = [small * 2.0**10] * (count - 1) + [1.0]
        b = [2.0**-10] * (count - 1) + [1.0]
        lost = dot(chip, a, b, 0) == 1
        assert lost == (count <= block), count


@pytest.mark.parametrize(("chip", "bits"), [(V100, 0), (A100, 1), (H100, 2)])
def test_extra_bits_found_since(chip: Numerics, bits: int) -> None:
    """1 + x - 1 is x as long as x reaches no lower than the bits that are kept."""
    for lower in range(4):
        x = 2.0 ** -(23 + lower)
        # x is the product of two, since fp16 has nothing below 2**-24.
        got = dot(chip, [1, x * 2.0**10], [1, 2.0**-10], -1)
        assert got == (x if lower <= bits else 0), lower
