"""Activations in all the ways in which they are written; functions that are none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from schedules.conv.activations import FORMULAS
from tests.support import graphs
from tests.support.checks import DIRECT
from tests.support.models import Graph
from tests.support.thinned import thinned


def number(g: Graph, value: float) -> str:
    return g.constant(np.float32(value))


def clip(g: Graph, x: str, low: float | None, high: float | None) -> str:
    return g.op("Clip", x, *("" if one is None else number(g, one) for one in (low, high)))


def relu6(g: Graph, x: str) -> str:
    return clip(g, x, 0.0, 6.0)


def swish_by_relu6(g: Graph, x: str) -> str:
    return g.op("Div", g.op("Mul", x, relu6(g, g.op("Add", x, number(g, 3)))), number(g, 6))


def swish_by_gate(g: Graph, x: str) -> str:
    gate = g.op("Div", relu6(g, g.op("Add", number(g, 3), x)), number(g, 6))
    return g.op("Mul", gate, x)


def gelu(g: Graph, x: str) -> str:
    erf = g.op("Erf", g.op("Div", x, number(g, np.sqrt(2))))
    return g.op("Mul", g.op("Mul", x, g.op("Add", erf, number(g, 1))), number(g, 0.5))


def gelu_halved(g: Graph, x: str) -> str:
    erf = g.op("Erf", g.op("Mul", x, number(g, np.sqrt(0.5))))
    half = g.op("Mul", number(g, 0.5), x)
    return g.op("Mul", half, g.op("Add", number(g, 1), erf))


def sigmoid_by_hand(g: Graph, x: str) -> str:
    below = g.op("Add", g.op("Exp", g.op("Neg", x)), number(g, 1))
    return g.op("Div", number(g, 1), below)


def tanh_by_sigmoid(g: Graph, x: str) -> str:
    twice = g.op("Mul", number(g, 2), g.op("Sigmoid", g.op("Mul", x, number(g, 2))))
    return g.op("Sub", twice, number(g, 1))


def affine(f: Callable[[Graph, str], str], scale: float, shift: float) -> Any:
    """f, then a scale and a shift of one number each, as PP-LCNet writes them."""

    def write(g: Graph, x: str) -> str:
        return g.op("Add", g.op("Mul", number(g, scale), f(g, x)), number(g, shift))

    return write


def slopes(g: Graph, count: int = 16) -> str:
    return g.constant(g.rng.uniform(-0.5, 1, (count, 1, 1)).astype("f"))


#: (what it is called in a report, how it is written).
WAYS: list[tuple[str, Callable[[Graph, str], str]]] = [
    ("relu", lambda g, x: g.op("Relu", x)),
    ("relu", lambda g, x: g.op("Max", x, number(g, 0))),
    ("relu", lambda g, x: g.op("LeakyRelu", x, alpha=0.0)),
    ("relu", lambda g, x: g.op("Relu", g.op("Relu", x))),
    ("relu", lambda g, x: clip(g, x, 0.0, None)),
    ("clip(0, 6)", relu6),
    ("clip(0, 6)", lambda g, x: g.op("Min", g.op("Relu", x), number(g, 6))),
    ("clip(-0.5, 0.75)", lambda g, x: clip(g, x, -0.5, 0.75)),
    ("clip(0.25, 3.40282e+38)", lambda g, x: clip(g, x, 0.25, None)),
    ("leaky_relu(0.1)", lambda g, x: g.op("LeakyRelu", x, alpha=0.1)),
    ("leaky_relu(0.2)", lambda g, x: g.op("Max", x, g.op("Mul", x, number(g, 0.2)))),
    ("leaky_relu(0.3)", lambda g, x: g.op("PRelu", x, number(g, 0.3))),
    ("leaky_relu(-1)", lambda g, x: g.op("LeakyRelu", x, alpha=-1.0)),
    ("prelu", lambda g, x: g.op("PRelu", x, slopes(g))),
    ("sigmoid", lambda g, x: g.op("Sigmoid", x)),
    ("sigmoid", sigmoid_by_hand),
    # Its line goes into the weights.
    ("clip(0, 1)", lambda g, x: g.op("HardSigmoid", x)),
    ("clip(0, 1)", lambda g, x: g.op("HardSigmoid", x, alpha=-0.25, beta=0.6)),
    ("hard_swish", lambda g, x: g.op("HardSwish", x)),
    ("hard_swish", swish_by_relu6),
    ("hard_swish", swish_by_gate),
    ("silu", lambda g, x: g.op("Mul", x, g.op("Sigmoid", x))),
    ("silu", lambda g, x: g.op("Mul", g.op("Sigmoid", x), x)),
    ("silu", lambda g, x: g.op("Div", x, g.op("Add", g.op("Exp", g.op("Neg", x)), number(g, 1)))),
    ("tanh", lambda g, x: g.op("Tanh", x)),
    ("gelu", gelu),
    ("gelu", gelu_halved),
    ("hard_swish * 0.476 -0.0075", affine(swish_by_relu6, 0.476, -0.0075)),
    ("silu * -2 +1", affine(lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)), -2.0, 1.0)),
    ("relu +0.5", lambda g, x: g.op("Add", g.op("Relu", x), number(g, 0.5))),
    ("clip(-1, 6) * 0.5 +0.25", affine(lambda g, x: clip(g, x, -1.0, 6.0), 0.5, 0.25)),
]


#: Where nothing goes into the weights: after a residual.
AFTER_A_RESIDUAL: list[tuple[str, Callable[[Graph, str], str]]] = [
    ("hard_sigmoid(0.2, 0.5)", lambda g, x: g.op("HardSigmoid", x)),
    ("hard_sigmoid(0.25, 0.6)", lambda g, x: g.op("HardSigmoid", x, alpha=0.25, beta=0.6)),
    (
        "hard_sigmoid(0.166667, 0.5)",
        lambda g, x: g.op("Div", relu6(g, g.op("Add", x, number(g, 3))), number(g, 6)),
    ),
    ("tanh", tanh_by_sigmoid),
]


def test_every_activation_of_the_table_is_tried() -> None:
    tried = {name.partition("(")[0].partition(" ")[0] for name, _ in WAYS + AFTER_A_RESIDUAL}
    assert tried == set(FORMULAS) - {"none"}


@pytest.mark.parametrize(("name", "write"), AFTER_A_RESIDUAL)
def test_taken_after_a_residual(name: str, write: Any) -> None:
    g = Graph([1, 8, 6, 5])
    y = write(g, g.op("Add", g.conv("input", 8, 8, name="conv"), g.op("Tanh", "input")))
    result = graphs.became(g.model(y), families=DIRECT)
    assert result.epilogues["conv"] == f"bias + residual + {name}"
    assert result.left == {"tanh": 1}


@pytest.mark.parametrize(
    ("name", "write"),
    thinned((pytest.param(*way, id=f"{way[0]} {at}") for at, way in enumerate(WAYS)), 2),
)
def test_taken(name: str, write: Any) -> None:
    g = Graph([1, 8, 6, 5])
    y = write(g, g.conv("input", 8, 16, name="conv"))
    result = graphs.became(g.model(y), families=DIRECT)
    assert result.epilogues["conv"] == f"bias + {name}"
    assert not result.left


@pytest.mark.parametrize("write", [gelu_halved, swish_by_gate, relu6])
def test_every_node_of_it_is_said_to_be_in_the_kernel(write: Any) -> None:
    g = Graph([1, 8, 6, 5])
    y = write(g, g.conv("input", 8, 16, name="conv"))
    fates = graphs.became(g.model(y)).fates
    assert fates.pop("conv") == "wmma_nhwc kernel"
    assert set(fates.values()) == {"in the kernel of a convolution: conv"}


#: Each with the epilogue that is left.
NONE: dict[str, tuple[str, Callable[[Graph, str], str]]] = {
    "a function that is in no table": ("bias", lambda g, x: g.op("Exp", x)),
    "nearly a table's": ("bias", lambda g, x: g.op("Mul", x, g.op("Tanh", g.op("Sigmoid", x)))),
    "a slope by pixel": (
        "bias",
        lambda g, x: g.op("PRelu", x, g.constant(g.rng.standard_normal((16, 6, 5)).astype("f"))),
    ),
    "of two tensors": ("bias", lambda g, x: g.op("Max", x, g.conv("input", 8, 16, 1, name="b"))),
    "the second of two": ("bias + tanh", lambda g, x: g.op("Sigmoid", g.op("Tanh", x))),
    "by channel": (
        "bias",
        lambda g, x: g.op("Max", x, g.constant(g.rng.standard_normal((16, 1, 1)).astype("f"))),
    ),
    "over pixels": ("bias", lambda g, x: g.op("Softmax", x, axis=1)),
}


@pytest.mark.parametrize("name", NONE)
def test_declined(name: str) -> None:
    left, write = NONE[name]
    g = Graph([1, 8, 6, 5])
    y = write(g, g.conv("input", 8, 16, name="conv"))
    result = graphs.became(g.model(y), families=DIRECT)
    assert result.epilogues["conv"] == left
    assert result.left
    assert "a kernel of TVM's" in result.fates[y]


@pytest.mark.parametrize("by", ["an operator", "the network"])
def test_declined_where_something_inside_is_read_elsewhere(by: str) -> None:
    g = Graph([1, 8, 6, 5])
    x = g.conv("input", 8, 16, name="conv")
    gate = g.op("Sigmoid", x)
    other = gate if by == "the network" else g.op("Exp", gate)
    result = graphs.became(g.model(g.op("Mul", x, gate), other))
    assert result.epilogues["conv"] == "bias"


def test_declined_where_the_sum_is_read_elsewhere() -> None:
    g = Graph([1, 8, 6, 5])
    x = g.conv("input", 8, 16, name="conv")
    result = graphs.became(g.model(g.op("Relu", x), g.op("GlobalMaxPool", x)))
    assert result.epilogues["conv"] == "bias"


def test_the_largest_that_is_an_activation_is_taken() -> None:
    """Relu, and then a Clip that makes a ReLU6 of it; what follows that is none."""
    g = Graph([1, 8, 6, 5])
    x = clip(g, g.op("Relu", g.conv("input", 8, 16, name="conv")), -1.0, 6.0)
    result = graphs.became(g.model(g.op("Exp", g.op("Mul", x, number(g, -1)))))
    assert result.epilogues["conv"] == "bias + clip(0, 6) * -1"
    assert result.left["exp"] == 1
