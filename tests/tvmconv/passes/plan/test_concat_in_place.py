"""Branches of a concatenation write into one tensor where all of them are convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import graphs
from tests.support.models import Graph

IN_PLACE = "written in place by a convolution: "


def offsets(result: graphs.Became) -> dict[str, tuple[int, int]]:
    """First channel and all channels of the tensor that each convolution writes into."""
    return {
        name: (kernels[0]["channel"], kernels[0]["channels"])
        for name, kernels in result.windows.items()
    }


@pytest.mark.parametrize("batch", [1, 3])
def test_an_inception_block(batch: int) -> None:
    """Branches with activations of their own, one of them a chain, read by a convolution."""
    g = Graph([batch, 8, 7, 6])
    a = g.op("Relu", g.conv("input", 8, 10, 1, name="a"))
    b = g.op("Sigmoid", g.conv(g.op("Relu", g.conv("input", 8, 4, 1)), 4, 7, name="b"))
    pooled = g.op("MaxPool", "input", kernel_shape=[3, 3], pads=[1] * 4)
    c = g.conv(pooled, 8, 16, 1, name="c")
    joined = g.op("Concat", a, b, c, axis=1)
    result = graphs.became(g.model(g.conv(joined, 33, 8)))
    assert offsets(result) == {"a": (0, 33), "b": (10, 33), "c": (17, 33)}
    assert "concat" not in result.left
    assert result.fates[joined].startswith(IN_PLACE)


def test_of_the_network_s_output() -> None:
    g = Graph([1, 8, 7, 6])
    joined = g.op(
        "Concat", g.conv("input", 8, 5, name="a"), g.conv("input", 8, 6, name="b"), axis=1
    )
    result = graphs.became(g.model(joined, g.op("Exp", joined)))
    assert offsets(result) == {"a": (0, 11), "b": (5, 11)}
    assert "concat" not in result.left


def test_branches_with_residuals_and_grouped_and_depthwise() -> None:
    g = Graph([2, 16, 7, 6])
    a = g.op("Relu", g.op("Add", g.conv("input", 16, 16, name="a"), "input"))
    b = g.conv("input", 16, 24, group=2, name="b")
    c = g.op("PRelu", g.conv("input", 16, 16, group=16, name="c"),
             g.constant(g.rng.standard_normal((16, 1, 1)).astype("f")))  # fmt: skip
    result = graphs.became(g.model(g.op("Tanh", g.op("Concat", a, b, c, axis=1))))
    assert offsets(result) == {"a": (0, 56), "b": (16, 56), "c": (40, 56)}
    assert result.left == {"tanh": 1}


def test_a_branch_that_is_a_transposed_convolution() -> None:
    g = Graph([1, 8, 6, 6])
    weight = g.constant((g.rng.standard_normal((8, 5, 4, 4)) / 8).astype("f"))
    down = g.conv("input", 8, 8, strides=[2, 2], name="down")
    up = g.op("ConvTranspose", down, weight, strides=[2, 2], pads=[1] * 4, name="up")
    result = graphs.became(g.model(g.op("Concat", g.conv("input", 8, 4, name="a"), up, axis=1)))
    assert offsets(result) == {"a": (0, 9), "up": (4, 9)}
    assert len(result.windows["up"]) == 4
    assert "concat" not in result.left


def test_the_inner_one_of_two() -> None:
    """What the outer one joins is a tensor that convolutions write, and no convolution."""
    g = Graph([1, 8, 7, 6])
    inner = g.op("Concat", g.conv("input", 8, 5, name="a"), g.conv("input", 8, 6, 1, name="b"),
                 axis=1)  # fmt: skip
    outer = g.op("Concat", inner, g.op("Tanh", "input"), axis=1)
    result = graphs.became(g.model(g.op("Exp", outer)))
    assert offsets(result) == {"a": (0, 11), "b": (5, 11)}
    assert result.left["concat"] == 1
    assert "a kernel of TVM's" in result.fates[outer]


def declined(g: Graph, *outputs: str) -> None:
    result = graphs.became(g.model(*outputs))
    assert not result.windows
    assert result.left["concat"] == 1
    assert IN_PLACE not in "".join(result.fates.values())


def test_declined_a_branch_that_is_no_convolution() -> None:
    g = Graph([1, 8, 7, 6])
    declined(g, g.op("Concat", g.conv("input", 8, 5), g.op("Tanh", "input"), axis=1))


def test_declined_a_branch_that_others_read() -> None:
    g = Graph([1, 8, 7, 6])
    a = g.op("Relu", g.conv("input", 8, 8))
    declined(g, g.op("Concat", a, g.conv(a, 8, 8), axis=1))


def test_declined_the_same_branch_twice() -> None:
    g = Graph([1, 8, 7, 6])
    a = g.op("Relu", g.conv("input", 8, 8))
    declined(g, g.op("Concat", a, a, axis=1))


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_declined_along_another_axis(axis: int) -> None:
    g = Graph([1, 8, 7, 6])
    a, b = g.conv("input", 8, 8), g.conv("input", 8, 8, 1)
    declined(g, g.op("Concat", a, b, axis=axis))


def test_declined_with_a_constant() -> None:
    g = Graph([1, 8, 7, 6])
    image = g.constant(np.ones((1, 2, 7, 6), "f"))
    declined(g, g.op("Concat", g.conv("input", 8, 8), image, axis=1))
