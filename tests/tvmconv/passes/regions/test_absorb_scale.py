"""Steps by channel go into weight and bias, where nothing but such steps comes before them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support import graphs
from tests.support.checks import DIRECT
from tests.support.models import Graph
from tests.support.thinned import thinned

#: As many channels as rows and columns: what is meant by its shape must not be mistaken.
K = 8


def transposed(g: Graph, groups: int = 1, bias: bool = True) -> str:
    """A convolution into which onnxruntime folds nothing by itself: (1, K, K, K)."""
    weight = (g.rng.standard_normal((2 * K, K // groups, 4, 4)) / 16).astype("f")
    inputs = ["input", g.constant(weight)]
    if bias:
        inputs.append(g.constant(g.rng.standard_normal(K).astype("f")))
    return g.op("ConvTranspose", *inputs, strides=[2, 2], pads=[1] * 4, group=groups, name="conv")


def channels(g: Graph, shape: tuple[int, ...] = (K, 1, 1)) -> str:
    return g.constant((g.rng.uniform(0.5, 2, shape) * g.rng.choice([-1, 1], shape)).astype("f"))


def norm(g: Graph, x: str) -> str:
    gamma, beta, mean = (g.constant(g.rng.standard_normal(K).astype("f")) for _ in range(3))
    variance = g.constant(g.rng.uniform(0.5, 2, K).astype("f"))
    return g.op("BatchNormalization", x, gamma, beta, mean, variance)


STEPS: dict[str, Callable[[Graph, str], str]] = {
    "a batch norm": norm,
    "a product": lambda g, x: g.op("Mul", channels(g), x),
    "a product with a number": lambda g, x: g.op("Mul", x, g.constant(np.float32(-1.5))),
    "a sum": lambda g, x: g.op("Add", x, channels(g, (1, K, 1, 1))),
    "a difference": lambda g, x: g.op("Sub", x, channels(g)),
    "a difference from a constant": lambda g, x: g.op("Sub", channels(g), x),
    "a quotient": lambda g, x: g.op("Div", x, channels(g)),
    "a chain": lambda g, x: norm(g, g.op("Sub", channels(g), g.op("Mul", norm(g, x), channels(g)))),
}


@pytest.mark.parametrize(
    ("name", "groups", "bias"),
    [(name, 1 + at % 2, at % 3 > 0) for at, name in enumerate(STEPS)],
)
def test_taken(name: str, groups: int, bias: bool) -> None:
    g = Graph([1, 2 * K, K // 2, K // 2])
    x = STEPS[name](g, transposed(g, groups, bias))
    result = graphs.became(g.model(g.op("Relu", x)), families=DIRECT)
    adds = name not in ("a product", "a product with a number", "a quotient")
    assert result.epilogues["conv"] == ("bias + relu" if bias or adds else "relu")
    assert not result.left


def test_a_group_of_a_convolution_keeps_its_own_scales() -> None:
    g = Graph([1, 16, 6, 6])
    x = g.op("Relu", g.conv("input", 16, K, group=2, name="conv"))
    y = g.conv("input", 16, K, group=2, name="other")
    result = graphs.became(g.model(x, g.op("Relu", g.op("Mul", y, channels(g)))))
    assert result.epilogues == {"conv": "bias + relu", "other": "bias + relu"}


DECLINED: dict[str, Callable[[Graph, str], str]] = {
    "by column": lambda g, x: g.op("Mul", x, channels(g, (K,))),
    "by row": lambda g, x: g.op("Mul", x, channels(g, (K, 1))),
    "by pixel": lambda g, x: g.op("Mul", x, channels(g, (K, K))),
    "by element": lambda g, x: g.op("Mul", x, channels(g, (1, K, K, K))),
    "a constant divided": lambda g, x: g.op("Div", channels(g), g.op("Exp", x)),
    "more dimensions": lambda g, x: g.op("Mul", x, channels(g, (1, 1, K, 1, 1))),
}


@pytest.mark.parametrize("name", thinned(DECLINED, 2))
def test_declined(name: str) -> None:
    g = Graph([1, 2 * K, K // 2, K // 2])
    result = graphs.became(
        g.model(g.op("Tanh", DECLINED[name](g, transposed(g)))), 1e-2, families=DIRECT
    )
    assert result.epilogues["conv"] == "bias"
    assert result.left


def test_declined_after_an_activation() -> None:
    g = Graph([1, 2 * K, K // 2, K // 2])
    x = g.op("Mul", g.op("Tanh", transposed(g)), channels(g))
    result = graphs.became(g.model(x))
    assert result.epilogues["conv"] == "bias + tanh"
    assert result.left == {"multiply": 1}


def test_declined_a_sum_that_others_read() -> None:
    g = Graph([1, 2 * K, K // 2, K // 2])
    x = transposed(g)
    result = graphs.became(g.model(g.op("Mul", x, channels(g)), g.op("Exp", x)))
    assert result.epilogues["conv"] == "bias"
    assert result.left == {"multiply": 1, "exp": 1}
