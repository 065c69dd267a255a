"""The NumPy meaning of an instruction, against the definition and against itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import intrinsics
from intrinsics import INTRINSICS, TensorIntrinsic, dtypes, emulate
from intrinsics.mma_sync import INTEGER_INSTRUCTIONS
from tests.support.tiles import kinds, tiles

Array = NDArray[Any]
ALL = INTRINSICS + INTEGER_INSTRUCTIONS
each_intrinsic = pytest.mark.parametrize("intrinsic", INTRINSICS, ids=lambda i: i.name)
each_with_integers = pytest.mark.parametrize("intrinsic", ALL, ids=lambda i: i.name)
each_tile = pytest.mark.parametrize(
    ("intrinsic", "kind"),
    [pytest.param(i, kind, id=f"{i.name}-{kind}") for i in ALL for kind in kinds(i)],
)


def exact(a: Array, b: Array, c: Array) -> Array:
    """a @ b + c in float64, k descending and c last: no order that `emulate.mma` knows."""
    a, b = a[:, ::-1].astype(np.float64), b[::-1].astype(np.float64)
    return np.asarray((a[:, :, None] * b).sum(axis=1) + c)


@each_tile
def test_mma_is_within_its_bound_of_the_exact_sum(intrinsic: TensorIntrinsic, kind: str) -> None:
    a, b, c = tiles(intrinsic, kind)
    got = emulate.mma(intrinsic, a, b, c)
    assert got.dtype == intrinsic.accumulator_dtype
    assert np.isfinite(got).all()
    assert (np.abs(got - exact(a, b, c)) <= emulate.error_bound(intrinsic, a, b, c)).all()


@each_with_integers
def test_sums_of_small_integers_are_exact(intrinsic: TensorIntrinsic) -> None:
    draw = np.random.default_rng(1).integers
    left, right = (dtypes.get(one).numpy for one in (intrinsic.a_dtype, intrinsic.b_dtype))
    a = draw(-4, 5, (intrinsic.m, intrinsic.k)).astype(left)
    b = draw(-4, 5, (intrinsic.k, intrinsic.n)).astype(right)
    c = draw(-99, 100, (intrinsic.m, intrinsic.n)).astype(intrinsic.accumulator_dtype)
    np.testing.assert_array_equal(emulate.mma(intrinsic, a, b, c), exact(a, b, c))


def shorter(a: Array) -> Array:
    """Without the last three bits of each number."""
    bits = a.view(f"u{a.itemsize}")
    return (bits >> 3 << 3).view(a.dtype)


@each_intrinsic
def test_bound_tells_a_wrong_result_from_a_rounded_one(intrinsic: TensorIntrinsic) -> None:
    """Mistakes that a lowering could make leave the bound somewhere on every tile."""
    a, b, c = tiles(intrinsic, "normal")
    right, bound = emulate.mma(intrinsic, a, b, c), emulate.error_bound(intrinsic, a, b, c)
    first = np.arange(intrinsic.k) > 0
    mistakes = {
        "a term left out": emulate.mma(intrinsic, a * first.astype(a.dtype), b, c),
        "c left out": emulate.mma(intrinsic, a, b, np.zeros_like(c)),
        "c added twice": emulate.mma(intrinsic, a, b, c + c),
        "rows of b in another order": emulate.mma(intrinsic, a, np.roll(b, 1, axis=0), c),
        "one operand three bits shorter": emulate.mma(intrinsic, shorter(a), b, c),
    }
    if intrinsic.accumulator_dtype == "float32":
        mistakes["the result rounded to fp16"] = right.astype(np.float16)
    for mistake, wrong in mistakes.items():
        wide = np.abs(wrong.astype(np.float64) - right)
        assert (wide > bound).any(), mistake
        if mistake != "one operand three bits shorter":
            assert (wide > bound).mean() > 0.5, mistake


def test_bound_is_small_beside_the_terms() -> None:
    for accumulator, most in (("float32", 1e-5), ("float16", 1e-3)):
        intrinsic = intrinsics.get(16, 16, 16, accumulator=accumulator)
        ones = np.ones((16, 16), np.float16)
        bound = emulate.error_bound(intrinsic, ones, ones, ones.astype(accumulator))
        assert (bound < most * 17).all()


def test_fp16_accumulator_is_rounded_once_and_not_per_term() -> None:
    intrinsic = intrinsics.get(16, 16, 16, accumulator="float16")
    a, b, c = (np.zeros((16, 16), np.float16) for _ in range(3))
    # 2048 + 1 is a tie that fp16 rounds down: term by term nothing would ever be added.
    a[0], b[:, 0], c[0, 0] = 1, 1, 2048
    assert emulate.mma(intrinsic, a, b, c)[0, 0] == 2064


def test_k_ascends() -> None:
    intrinsic = intrinsics.get(16, 16, 16)
    a, b = (np.zeros((16, 16), np.float16) for _ in range(2))
    # 2**30 swallows a 1 that comes after it; in the other order the 1 would be left over.
    a[0, :3], b[:3, 0] = (2**15, -(2**15), 1), (2**15, 2**15, 1)
    zero = np.zeros((16, 16), np.float32)
    assert emulate.mma(intrinsic, a, b, zero)[0, 0] == 1
    assert emulate.mma(intrinsic, a[:, ::-1], b[::-1], zero)[0, 0] == 0


@pytest.mark.parametrize("operand", ["a", "b", "c"])
@pytest.mark.parametrize("wrong", ["shape", "dtype"])
def test_operand_that_is_not_the_instructions_is_refused(operand: str, wrong: str) -> None:
    intrinsic = intrinsics.get(32, 8, 16)
    operands = dict(zip("abc", tiles(intrinsic, "normal"), strict=True))
    good = operands[operand]
    operands[operand] = good.T if wrong == "shape" else good.astype(np.float64)
    with pytest.raises(ValueError, match=rf"^{operand} is .*expected {good.dtype}") as caught:
        emulate.mma(intrinsic, **operands)
    assert str(good.shape) in str(caught.value)


@each_tile
def test_tiles_are_what_they_claim(intrinsic: TensorIntrinsic, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an overflow on the way to fp16 is one
        a, b, c = tiles(intrinsic, kind)
        total = emulate.mma(intrinsic, a, b, c).astype(np.float64)
    if kind == "subnormal":
        least = 2.0 ** dtypes.get(intrinsic.a_dtype).least_exponent
        assert 0 < np.abs(a.astype(np.float64)).max() < least
    if kind == "extreme":
        ends = np.iinfo(intrinsic.a_dtype)
        assert {ends.min, ends.max} <= set(a.ravel().tolist())
    if kind == "tiny":
        assert 0 < np.abs(total).max() < 2**-23
    if kind == "large":
        assert np.abs(total).max() > 2e4
    if kind == "cancelling":
        terms = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)) + np.abs(c)
        assert np.median(np.abs(total) / terms) < 1e-2
