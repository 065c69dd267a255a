"""Volta's instructions with V100's arithmetic against the arithmetic on whole matrices."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from benchmarks.hmma_tiles import KINDS, tiles
from intrinsics.mma_sync import INSTRUCTIONS
from intrinsics.numerics import arithmetic as numerics
from intrinsics.numerics.arithmetic import EXACT, IEEE, V100
from intrinsics.volta import gemm
from intrinsics.volta.hmma import F16, F32, Form, program

#: With 16 k and fp16 operands, by accumulator.
OF_16 = {i.accumulator_dtype: i for i in INSTRUCTIONS if i.k == 16 and i.a_dtype == "float16"}
each_form = pytest.mark.parametrize("form", [F32, F16], ids=lambda form: form.name)


def simulated(a: Any, b: Any, c: Any, form: Form, how: numerics.Numerics) -> Any:
    fused = functools.partial(numerics.fused, numerics=how)
    return gemm.matmul(a, b, c, fused, program(form))


def bits(x: Any) -> Any:
    return x.view(f"u{x.itemsize}")


@each_form
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_every_kind_bit_for_bit(form: Form, kind: str) -> None:
    for a, b, c in zip(*tiles(OF_16[form.accumulator.dtype], kind, 40, seed=3), strict=True):
        found, meant = simulated(a, b, c, form, V100), numerics.matmul(a, b, c, V100)
        assert found.dtype == meant.dtype == form.accumulator.dtype
        assert (bits(found) == bits(meant)).all()


def product(form: Form, kind: str) -> tuple[Any, Any, Any]:
    """(112, 48) by (48, 24), made of tiles of one kind."""
    a, b, c = tiles(OF_16[form.accumulator.dtype], kind, 21, seed=7)
    a = a.reshape(7, 3, 16, 16).transpose(0, 2, 1, 3).reshape(112, 48)
    b = b[:9].reshape(3, 3, 16, 8).transpose(0, 2, 1, 3).reshape(48, 24)
    return a, b, c.reshape(7, 3, 16, 8).transpose(0, 2, 1, 3).reshape(112, 24)


@each_form
@pytest.mark.parametrize("kind", ["normal", "all exponents", "special"])
def test_a_product_of_many_tiles_bit_for_bit(form: Form, kind: str) -> None:
    a, b, c = product(form, kind)
    found, meant = simulated(a, b, c, form, V100), numerics.matmul(a, b, c, V100)
    assert (bits(found) == bits(meant)).all()
    assert np.isfinite(meant).any()


@each_form
def test_sizes_that_are_no_multiples_are_filled_up(form: Form) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype(np.float16) for s in ((19, 37), (37, 21)))
    c = rng.standard_normal((19, 21)).astype(form.accumulator.dtype)
    assert (bits(simulated(a, b, c, form, V100)) == bits(numerics.matmul(a, b, c, V100))).all()


def test_the_arithmetic_can_be_told_apart() -> None:
    """Else equal bits would say nothing."""
    a, b, c = product(F32, "normal")
    v100 = simulated(a, b, c, F32, V100)
    for other in (IEEE, EXACT):
        assert (bits(simulated(a, b, c, F32, other)) != bits(v100)).any()


def test_ieee_is_the_same_order_as_well() -> None:
    """k ascending, whether four at a time or all; an fp32 accumulator is rounded all the way."""
    a, b, c = product(F32, "normal")
    assert (bits(simulated(a, b, c, F32, IEEE)) == bits(numerics.matmul(a, b, c, IEEE))).all()
