"""Activations: their formulas against other definitions, and knowing one by its values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.conv.activations import FORMULAS, PROBES, Activation, recognise

Function = Callable[[Any], Any]

#: Each as its definition, written in another way than in the table.
DEFINITIONS: dict[str, tuple[Activation, Function]] = {
    "none": (Activation(), lambda x: x),
    "relu": (Activation("relu"), lambda x: np.maximum(x, 0)),
    "clip": (Activation("clip", (-1.0, 1.5)), lambda x: np.clip(x, -1, 1.5)),
    "leaky_relu": (
        Activation("leaky_relu", (0.1,)), lambda x: np.maximum(x, 0) + 0.1 * np.minimum(x, 0),
    ),
    "sigmoid": (Activation("sigmoid"), lambda x: 0.5 + 0.5 * np.tanh(x / 2)),
    "hard_sigmoid": (
        Activation("hard_sigmoid", (0.2, 0.5)), lambda x: np.clip(x / 5 + 0.5, 0, 1),
    ),
    "hard_swish": (Activation("hard_swish"), lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "silu": (Activation("silu"), lambda x: x * (0.5 + 0.5 * np.tanh(x / 2))),
    "tanh": (Activation("tanh"), lambda x: np.sinh(x) / np.cosh(x)),
    "gelu": (
        Activation("gelu"),
        np.vectorize(lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[float]),
    ),
}  # fmt: skip

NEAR = np.linspace(-30, 30, 601)


def test_every_kind_has_a_definition_here() -> None:
    assert set(DEFINITIONS) == set(FORMULAS) - {"prelu"}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_formula_is_the_definition(kind: str) -> None:
    activation, definition = DEFINITIONS[kind]
    np.testing.assert_allclose(activation.numpy(NEAR), definition(NEAR), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", sorted(set(DEFINITIONS) - {"tanh"}))  # sinh overflows
def test_definition_is_recognised(kind: str) -> None:
    activation, definition = DEFINITIONS[kind]
    found = recognise(definition)
    assert found is not None
    assert found.kind == kind
    np.testing.assert_allclose(found.parameters, activation.parameters, rtol=1e-6)


small = st.floats(-2, 2, allow_nan=False)
PLAIN = [kind for kind, one in FORMULAS.items() if not one.parameters and kind != "prelu"]
plain = st.sampled_from([Activation(kind) for kind in PLAIN])
entries = st.one_of(
    plain,
    st.builds(lambda a, b: Activation("clip", (min(a, b), max(a, b))), small, small),
    st.builds(lambda a: Activation("leaky_relu", (a,)), small),
    # Whose line passes zero between its bounds; of others nothing is known from around zero.
    st.builds(
        lambda a, b: Activation("hard_sigmoid", (a, b)), st.floats(0.05, 1.5), st.floats(0.2, 0.8)
    ),
)  # fmt: skip

#: What changes no function: done to what goes in, and undone in what comes out.
SAME: tuple[Callable[[Function], Function], ...] = (
    lambda f: f,
    lambda f: lambda x: f(np.negative(np.negative(x))),
    lambda f: lambda x: f((x * 4) / 4),
    lambda f: lambda x: f(x) + 0.0,
    lambda f: lambda x: 2 * f(x) - f(x),
    lambda f: lambda x: np.where(x < 1, f(x), f(x)),
    lambda f: lambda x: np.maximum(f(x), f(x)),
    lambda f: lambda x: f(np.maximum(x, 0) + np.minimum(x, 0)),
)


@given(entries, st.lists(st.sampled_from(SAME), max_size=4), st.floats(-6e4, 6e4))
def test_whatever_equals_an_entry_is_recognised(
    activation: Activation, changes: list[Callable[[Function], Function]], at: float
) -> None:
    function: Function = activation.numpy
    for change in changes:
        function = change(function)
    found = recognise(function)
    assert found is not None
    with np.errstate(all="ignore"):
        for x in (PROBES, NEAR, np.array([at])):
            # Relative to what was found, as `recognise` promises.
            np.testing.assert_allclose(activation.numpy(x), found.numpy(x), rtol=1e-5, atol=2e-6)


factors = st.one_of(st.floats(0.01, 8), st.floats(-8, -0.01))


@given(plain.filter(lambda one: one.kind != "none"), factors, st.floats(-4, 4))
def test_a_scale_and_a_shift_of_an_entry_are_recognised(
    activation: Activation, scale: float, shift: float
) -> None:
    def function(x: Any) -> Any:
        return activation.numpy(x) * scale + shift

    found = recognise(function)
    assert found is not None
    np.testing.assert_allclose(found.numpy(NEAR), function(NEAR), rtol=1e-5, atol=2e-6)


def test_a_line_between_bounds_with_a_scale_is_a_clip() -> None:
    found = recognise(lambda x: 3 - 2 * np.clip(x, -1, 2))
    assert found == Activation("clip", (-1.0, 2.0), -2.0, 3.0)
    assert str(found) == "clip(-1, 2) * -2 +3"


def test_what_scale_and_shift_change() -> None:
    relu = Activation("relu")
    assert relu.bounds == (0.0, float(np.finfo("f").max))
    assert relu.homogeneous
    assert Activation("relu", (), 2.0).homogeneous
    assert Activation("relu", (), 2.0).bounds is None
    assert not Activation("relu", (), 1.0, 0.5).homogeneous
    assert "scale" not in relu.to_json()
    for one in (relu, Activation("clip", (0.0, 6.0), 0.5, -1.0)):
        assert Activation.from_json(one.to_json()) == one


OTHERS: dict[str, Function] = {
    "exp": np.exp,
    "a square": np.square,
    "a constant sum": lambda x: x + 0.01,
    "a softplus, scaled": lambda x: 2 * np.log1p(np.exp(x)) - 1,
    "twice": lambda x: 2 * x,
    "nearly relu": lambda x: np.maximum(x, 0.001 * x) + 0.001,
    "nearly sigmoid": lambda x: 1 / (1 + np.exp(-1.01 * x)),
    "nearly silu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu by tanh": lambda x: x / 2 * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))),
    "relu squared": lambda x: np.maximum(x, 0) ** 2,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "elu": lambda x: np.where(x < 0, np.expm1(x), x),
    "a step": lambda x: np.where(x < 0, 0.0, 1.0),
    "not a number": lambda x: x * np.nan,
    "bounded far out": lambda x: np.minimum(x, 1e6),
    "two slopes and a bend elsewhere": lambda x: np.where(x < 1, 0.1 * x, x - 0.9),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_not_recognised_or_are_the_same(name: str) -> None:
    found = recognise(OTHERS[name])
    if name == "bounded far out":  # which is a clip
        assert str(found) == "clip(-3.40282e+38, 1e+06)"
    else:
        assert found is None, found


@given(st.floats(-1, 1), st.floats(0.1, 3), st.floats(-1, 1))
def test_what_is_recognised_is_the_function(slope: float, scale: float, shift: float) -> None:
    """Of functions that may or may not be in the table: none is taken for one that it is not."""

    def function(x: Any) -> Any:
        return np.where(x < shift, slope * x, scale * x)

    found = recognise(function)
    if found is not None:
        np.testing.assert_allclose(found.numpy(NEAR), function(NEAR), rtol=1e-5, atol=1e-6)


def test_a_constant_function_is_a_clip() -> None:
    assert recognise(lambda x: np.full(np.shape(x), 0.5)) == Activation("clip", (0.5, 0.5))


def test_a_number_less_itself_is_no_activation() -> None:
    """It is zero, but NaN for an infinity; and a kernel of it would have no convolution."""
    assert recognise(lambda x: x - x) is None
    assert recognise(lambda x: 0.5 + (x - x)) is None
