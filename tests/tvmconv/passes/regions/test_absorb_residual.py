"""The sum with another tensor is the kernel's, before the activation or after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import graphs
from tests.support.models import Graph

KERNEL = "in the kernel of a convolution: "


@pytest.mark.parametrize("first", [False, True])
def test_before_the_activation(first: bool) -> None:
    g = Graph([2, 8, 7, 9])
    r = g.op("Tanh", "input")
    y = g.conv("input", 8, 8, name="conv")
    x = g.op("Add", *((r, y) if first else (y, r)), name="sum")
    result = graphs.became(g.model(g.op("Relu", x, name="end")))
    assert result.epilogues["conv"] == "bias + residual + relu"
    assert result.fates["sum"] == result.fates["end"] == KERNEL + "conv"
    assert result.left == {"tanh": 1}


def test_after_the_activation() -> None:
    g = Graph([2, 8, 7, 9])
    r = g.op("Tanh", "input")
    x = g.op("Add", r, g.op("Relu", g.conv("input", 8, 8, name="conv"), name="middle"), name="sum")
    result = graphs.became(g.model(g.op("Exp", x, name="end")))
    assert result.epilogues["conv"] == "bias + relu + residual"
    assert result.fates["sum"] == result.fates["middle"] == KERNEL + "conv"
    assert "a kernel of TVM's" in result.fates["end"]


def test_between_two_convolutions_one_is_the_residual_of_the_other() -> None:
    g = Graph([1, 8, 7, 9])
    x = g.op("Add", g.conv("input", 8, 16, name="one"), g.conv("input", 8, 16, 1, name="two"))
    result = graphs.became(g.model(g.op("Sigmoid", x)))
    assert sorted(result.epilogues.values()) == ["bias", "bias + residual + sigmoid"]
    assert "add" not in result.left


def test_a_chain_of_blocks() -> None:
    g = Graph([1, 8, 7, 9])
    x = g.op("Relu", "input")
    for i in range(3):
        y = g.op("Relu", g.conv(x, 8, 8, name=f"first_{i}"))
        x = g.op("Relu", g.op("Add", g.conv(y, 8, 8, name=f"second_{i}"), x))
    result = graphs.became(g.model(x))
    assert all(result.epilogues[f"second_{i}"] == "bias + residual + relu" for i in range(3))
    assert "add" not in result.left


@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 3], "pads": [1, 0, 0, 1]}])
def test_of_a_transposed_convolution(attributes: dict[str, Any]) -> None:
    """Every stride phase reads its own pixels of the residual."""
    g = Graph([2, 8, 5, 4])
    weight, other = (g.constant((g.rng.standard_normal((8, 6, 3, 4)) / 8).astype("f"))
                     for _ in range(2))  # fmt: skip
    one = g.op("ConvTranspose", "input", weight, name="one", **attributes)
    two = g.op("Exp", g.op("ConvTranspose", "input", other, name="two", **attributes))
    result = graphs.became(g.model(g.op("Relu", g.op("Add", one, two))))
    assert result.epilogues == {"one": "residual + relu", "two": "none"}
    assert "add" not in result.left


def test_of_a_matrix_product() -> None:
    g = Graph([5, 16])
    weight = g.constant((g.rng.standard_normal((16, 16)) / 4).astype("f"))
    y = g.op("Add", g.op("Tanh", "input"), g.op("MatMul", "input", weight, name="product"))
    result = graphs.became(g.model(g.op("Relu", y)))
    assert result.epilogues["product"] == "residual + relu"
    assert result.left == {"tanh": 1}


def test_declined_a_tensor_of_another_shape() -> None:
    g = Graph([1, 8, 7, 9])
    x = g.conv("input", 8, 8, name="conv")
    result = graphs.became(g.model(g.op("Add", x, g.op("GlobalMaxPool", "input"))))
    assert result.epilogues["conv"] == "bias"
    assert result.left["add"] == 1


def test_declined_the_second_of_two() -> None:
    g = Graph([1, 8, 7, 9])
    x = g.op("Add", g.conv("input", 8, 8, name="conv"), g.op("Tanh", "input"), name="first")
    result = graphs.became(g.model(g.op("Add", x, g.op("Exp", "input"), name="second")))
    assert result.epilogues["conv"] == "bias + residual"
    assert result.left["add"] == 1
    assert result.fates["first"] == KERNEL + "conv"
    assert "a kernel of TVM's" in result.fates["second"]


def test_declined_a_sum_that_the_network_gives() -> None:
    g = Graph([1, 8, 7, 9])
    x = g.conv("input", 8, 8, name="conv")
    result = graphs.became(g.model(x, g.op("Add", x, g.op("Tanh", "input"))))
    assert result.epilogues["conv"] == "bias"
    assert result.left["add"] == 1


def test_declined_a_constant_tensor() -> None:
    g = Graph([1, 8, 7, 9])
    image = g.constant(g.rng.standard_normal((1, 8, 7, 9)).astype(np.float32))
    result = graphs.became(g.model(g.op("Add", g.conv("input", 8, 8, name="conv"), image)))
    assert result.epilogues["conv"] == "bias"
    assert result.left["add"] == 1
