"""The arithmetic of tensor cores against rational numbers, NumPy, and what is known of infinities.

`reference` is a second writing of the rule, one output at a time and in fractions.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.hmma_numerics import FORMS
from benchmarks.hmma_tiles import KINDS, tiles
from intrinsics import dtypes, emulate
from intrinsics.mma_sync import M16N8K16
from intrinsics.numerics import arithmetic as numerics
from intrinsics.numerics.arithmetic import (
    A100,
    EXACT,
    H100,
    IEEE,
    NUMERICS,
    V100,
    Numerics,
    fused,
    matmul,
)
from intrinsics.record import TensorIntrinsic

Array = NDArray[Any]
FINITE = [kind for kind in KINDS if kind != "special"]
CHIPS = [V100, A100, H100]
SMALL = replace(H100, name="three", block=3, extra_bits=-10)
APART = replace(A100, name="apart", joined=False)
BF16 = dtypes.get("bfloat16").numpy
CLAMPED = replace(H100, name="clamped", clamps_fp16=True)
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def bits(x: Any) -> Array:
    x = np.asarray(x)
    return x.view(f"u{x.itemsize}")


def exponent(x: float, least: int) -> int:
    return max(math.frexp(x)[1] - 1, least)


def rounded(value: Fraction, dtype: str, to_zero: bool) -> float:
    """To the format, subnormals kept; as large as its first unreachable power of two: infinity."""
    fraction, least, most = {"float32": (23, -126, 128), "float16": (10, -14, 16)}[dtype]
    if value == 0:
        return 0.0
    size = abs(value)
    place = least
    while size >= Fraction(2) ** (place + 1):
        place += 1
    ulp = Fraction(2) ** (place - fraction)
    count = math.floor(size / ulp) if to_zero else round(size / ulp)
    result = count * ulp
    magnitude = math.inf if result >= Fraction(2) ** most else float(result)
    return -magnitude if value < 0 else magnitude


def aligned(factors: list[tuple[float, float]], c: float, how: Numerics, form: Any) -> float:
    """One block: align, truncate, add, round."""
    operand, accumulator = form
    least = -14 if operand == "float16" else -126
    terms = [
        (Fraction(x) * Fraction(y), exponent(x, least) + exponent(y, least))
        for x, y in factors
        if x != 0 and y != 0
    ]
    if c != 0:
        clamp = -14 if accumulator == "float16" and how.clamps_fp16 else -126
        terms.append((Fraction(c), exponent(c, clamp)))
    floor = dict(how.least_exponent)[accumulator]
    quantum = Fraction(2) ** (max([floor, *(e for _, e in terms)]) - 23 - how.extra_bits)
    total = sum((math.trunc(term / quantum) * quantum for term, _ in terms), Fraction(0))
    return rounded(total, accumulator, to_zero=accumulator == "float32")


def reference(a: Array, b: Array, c: Any, how: Numerics, form: Any) -> float:
    total = float(c)
    for start in range(0, len(a), how.block or len(a)):
        part = slice(start, start + (how.block or len(a)))
        factors = [(float(x), float(y)) for x, y in zip(a[part], b[part], strict=True)]
        if math.isinf(total):
            continue
        if how.arithmetic == "exact":
            exact = sum((Fraction(x) * Fraction(y) for x, y in factors), Fraction(total))
            total = rounded(exact, form[1], to_zero=False)
        elif how.joined:
            total = aligned(factors, total, how, form)
        else:
            products = aligned(factors, 0.0, how, form)
            if math.isinf(products):
                return products
            total = aligned([(products, 1.0)], total, how, ("bfloat16", form[1]))
    return total


def columns(form: TensorIntrinsic, kind: str, count: int) -> tuple[Array, Array, Array]:
    """Operands (count, 16), and accumulators (count,), from tiles of that kind."""
    a, b, c = tiles(form, kind, count, seed=3)
    pick = np.random.default_rng(5).integers(0, 8, (2, count))
    each = np.arange(count)
    return a[each, pick[0]], np.swapaxes(b, 1, 2)[each, pick[1]], c[each, pick[0], pick[1]]


@each_form
@pytest.mark.parametrize("kind", FINITE)
@pytest.mark.parametrize("how", [EXACT, *CHIPS, SMALL, APART, CLAMPED], ids=lambda how: how.name)
def test_every_bit_is_that_of_rational_arithmetic(
    how: Numerics, kind: str, form: TensorIntrinsic
) -> None:
    a, b, c = columns(form, kind, 60)
    got = fused(a, b, c, how)
    assert got.dtype == form.accumulator_dtype
    names = (form.a_dtype, form.accumulator_dtype)
    expected = [reference(*row, how, names) for row in zip(a, b, c, strict=True)]
    assert np.array_equal(got, np.array(expected, got.dtype))


@each_form
def test_ieee_is_float32_in_ascending_order(form: TensorIntrinsic) -> None:
    a, b, c = (x[:20] for x in tiles(form, "near exponents", 20, seed=1))
    got = matmul(a, b, c, IEEE)
    total = c.astype(np.float32)
    with np.errstate(all="ignore"):
        for k in range(16):
            left, right = a[:, :, k, None].astype(np.float32), b[:, None, k].astype(np.float32)
            total = total + left * right
        expected = total.astype(c.dtype)
    numbers = ~np.isnan(expected)  # of a NaN only that it is one
    assert np.array_equal(np.isnan(got), ~numbers)
    assert np.array_equal(bits(got)[numbers], bits(expected)[numbers])


def test_ieee_is_what_the_emulation_computes() -> None:
    a, b, c = (x[0] for x in tiles(M16N8K16, "normal", 1, seed=2))
    assert np.array_equal(matmul(a, b, c, IEEE), emulate.mma(M16N8K16, a, b, c))


halves = st.integers(0, 0xFFFF).map(lambda x: np.uint16(x).view(np.float16)).filter(np.isfinite)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(halves, halves), min_size=1, max_size=20), singles)
def test_any_fp16_operands(factors: list[tuple[np.float16, np.float16]], c: float) -> None:
    a, b = (np.array(x, dtype=np.float16) for x in zip(*factors, strict=True))
    for how in (EXACT, *CHIPS):
        got = fused(a, b, np.float32(c), how)
        assert got == reference(a, b, c, how, ("float16", "float32"))


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(16)), st.integers(0, 1000))
def test_the_order_inside_a_block_has_no_influence(order: list[int], seed: int) -> None:
    a, b, c = (x[:1] for x in tiles(M16N8K16, "near exponents", 1, seed))
    expected = bits(matmul(a, b, c, H100))
    assert np.array_equal(bits(matmul(a[..., order], b[..., order, :], c, H100)), expected)


@pytest.mark.parametrize("how", [V100, A100], ids=lambda how: how.name)
def test_the_order_of_blocks_has(how: Numerics) -> None:
    a, b, c = tiles(M16N8K16, "normal", 4, seed=0)
    turned = matmul(a[..., ::-1], b[..., ::-1, :], c, how)
    assert (matmul(a, b, c, how) != turned).any()


@pytest.mark.parametrize("name", NUMERICS)
@pytest.mark.parametrize(
    ("factors", "c", "expected"),
    [
        ([(np.inf, 1)], 0, np.inf),
        ([(np.inf, -1)], 5, -np.inf),
        ([(0, 1)], -np.inf, -np.inf),
        ([(np.inf, 1), (np.inf, -1)], 0, np.nan),
        ([(np.inf, 1)], -np.inf, np.nan),
        ([(np.inf, 0)], 1, np.nan),
        ([(np.nan, 0)], 1, np.nan),
        ([(1, 1)], np.nan, np.nan),
        ([(0, 0), (0, -1)], 0, 0),
        ([(1, 1), (-1, 1)], 0, 0),
    ],
)
@pytest.mark.parametrize("after", [0, 15], ids=["first", "last"])
def test_infinities_nan_and_zeros(
    name: str, factors: list[tuple[float, float]], c: float, expected: float, after: int
) -> None:
    zeros = [(0.0, 1.0)] * after
    a, b = (np.array(x, np.float16) for x in zip(*zeros, *factors, strict=True))
    got = fused(a, b, np.float32(c), numerics.get(name))
    np.testing.assert_equal(got, np.float32(expected))
    if expected == 0:
        assert not np.signbit(got)


@pytest.mark.parametrize("how", CHIPS, ids=lambda how: how.name)
def test_sums_of_two_to_the_128_and_more_are_infinite_and_less_is_truncated(how: Numerics) -> None:
    most = np.float32(3.4028235e38)
    big = np.float32(2.0**127)
    one = np.ones(2, BF16)
    assert fused(np.array([big, big], BF16), one, np.float32(0), how) == np.inf
    assert fused(np.array([big, big, -big], BF16), np.ones(3, BF16), np.float32(0), how) == big
    # The largest float32 and 3/4 of its last place: to nearest that would be infinity.
    part = np.array([2.0**103, 2.0**102], BF16)
    assert fused(part, one, most, how) == most


def test_sums_that_go_on_after_an_overflow_stay_infinite() -> None:
    values = np.zeros(12, BF16)
    values[:2], values[4:6], values[8:10] = 2.0**127, -(2.0**127), 1.0
    one = np.ones(12, BF16)
    assert fused(values, one, np.float32(0), V100) == np.inf
    # One sum, in which 1 is lost beside 2**127.
    assert fused(values, one, np.float32(0), H100) == 0


@each_form
@pytest.mark.parametrize("how", CHIPS, ids=lambda how: how.name)
def test_specials_spread_as_in_ieee_754_and_the_rest_is_as_ever(
    how: Numerics, form: TensorIntrinsic
) -> None:
    a, b, c = columns(form, "special", 400)
    names = (form.a_dtype, form.accumulator_dtype)
    expected = []
    for row in zip(a, b, c, strict=True):
        total = float(row[2])
        for start in range(0, 16, how.block):
            left, right = (x[start : start + how.block].astype(float) for x in row[:2])
            with np.errstate(all="ignore"):
                plain = (left * right).sum() + total
            total = reference(left, right, total, how, names) if np.isfinite(plain) else plain
        expected.append(total)
    got = fused(a, b, c, how)
    assert np.isnan(got).any()
    assert np.isinf(got).any()
    assert np.isfinite(got).any()
    np.testing.assert_array_equal(got, np.array(expected, got.dtype))


@pytest.mark.parametrize("how", NUMERICS.values(), ids=lambda how: how.name)
def test_a_nan_has_all_its_bits(how: Numerics) -> None:
    nan = np.array([np.nan], np.float16)
    assert bits(fused(nan, nan, np.float32(0), how)) == 0x7FFFFFFF
    assert bits(fused(-nan, nan, np.float16(0), how)) == 0x7FFF


def test_a_large_array_is_what_its_parts_are() -> None:
    draw = np.random.default_rng(0).normal
    a, b = draw(size=(3, 150, 24)).astype(np.float16), draw(size=(24, 130)).astype(np.float16)
    c = draw(size=(150, 1)).astype(np.float32)
    a[1, 7, 3], c[5] = np.inf, np.nan
    for how in NUMERICS.values():
        got = matmul(a, b, np.broadcast_to(c, (3, 150, 130)), how)
        for i, m, n in ((0, 0, 0), (1, 7, 100), (2, 149, 129), (2, 5, 1)):
            one = fused(a[i, m], b[:, n], c[m, 0], how)
            assert np.array_equal(bits(one), bits(got[i, m, n])), (how.name, i, m, n)


def test_pieces_of_any_size_make_the_same_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = tiles(M16N8K16, "special", 7, seed=9)
    for how in NUMERICS.values():
        whole = matmul(a, b, c, how)
        for size in (1, 10, 50, 130):
            monkeypatch.setattr(numerics, "PIECE", size)
            assert np.array_equal(bits(matmul(a, b, c, how)), bits(whole))
        monkeypatch.undo()


@pytest.mark.parametrize("how", [EXACT, *CHIPS], ids=lambda how: how.name)
def test_a_sum_of_negative_zeros_is_positive(how: Numerics) -> None:
    zero = np.zeros(3, np.float16)
    for accumulator in (np.float32(-0.0), np.float16(-0.0)):
        assert bits(fused(zero, zero - 1, accumulator, how)) == 0


def test_a_negative_sum_that_underflows_is_a_negative_zero_or_not() -> None:
    tiny = np.array([-(2.0**-24)], np.float16)
    for how, negative in ((H100, False), (replace(H100, negative_zero=True), True)):
        got = fused(tiny, np.array([2.0**-4], np.float16), np.float16(0), how)
        assert got == 0
        assert np.signbit(got) == negative


def test_nothing_to_add_leaves_the_accumulator() -> None:
    none = np.zeros((4, 0), np.float16)
    c = np.arange(4, dtype=np.float32)
    for how in NUMERICS.values():
        assert np.array_equal(fused(none, none, c, how), c)


@pytest.mark.parametrize(
    ("a", "b", "c", "complaint"),
    [
        (np.ones(4, np.float64), np.ones(4, np.float64), np.float32(0), "not float64, float64"),
        (np.ones(4, np.float16), np.ones(4, np.float32), np.float32(0), "not float16, float32"),
        (np.ones(4, np.float32), np.ones(4, np.float32), np.float32(0), "not float32, float32"),
        (np.ones(4, np.float16), np.ones(4, np.float16), np.float64(0), "not float64"),
        (np.ones(4, np.float16), np.ones(3, np.float16), np.float32(0), "a has 4 elements along k"),
    ],
)
def test_other_operands_are_refused(a: Array, b: Array, c: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fused(a, b, c, H100)


def test_records_check_themselves() -> None:
    with pytest.raises(LookupError, match="exact, ieee, v100, a100, h100"):
        numerics.get("b200")
    with pytest.raises(ValueError, match="at least one product"):
        replace(H100, block=0)
    with pytest.raises(ValueError, match="extra bits"):
        replace(H100, extra_bits=40)
