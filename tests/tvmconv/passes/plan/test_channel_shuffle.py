"""Channel shuffles are done by the kernels that write; what only looks like one stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.support import graphs
from tests.support.models import Graph


def shuffled(
    g: Graph,
    x: str,
    shape: Sequence[int],
    groups: int,
    axes: Sequence[int] = (0, 2, 1, 3, 4),
    name: str | None = None,
) -> str:
    """x (N, C, H, W) of `shape`, as ShuffleNet writes it."""
    n, c, h, w = shape
    x = g.op("Reshape", x, g.constant(np.array([n, groups, c // groups, h, w])))
    x = g.op("Transpose", x, perm=list(axes))
    return g.op("Reshape", x, g.constant(np.array([n, c, h, w])), name=name)


def shuffles(result: graphs.Became) -> dict[str, int]:
    return {name: kernels[0]["shuffle"] for name, kernels in result.windows.items()}


@pytest.mark.parametrize("groups", [2, 3, 4, 12])
def test_after_a_convolution(groups: int) -> None:
    g = Graph([2, 16, 6, 5])
    x = g.op("Relu", g.conv("input", 16, 24, 1, name="one"))
    y = shuffled(g, x, (2, 24, 6, 5), groups, name="end")
    result = graphs.became(g.model(g.conv(y, 24, 24, group=24, name="two")))
    assert shuffles(result) == {"one": groups}
    assert not result.left
    assert result.fates["end"] == "written in place by a convolution: one"


def test_after_a_concat_as_in_shufflenet_v2() -> None:
    g = Graph([1, 16, 6, 5])
    a = g.op("Relu", g.conv("input", 16, 12, 1, name="a"))
    b = g.op("Relu", g.conv("input", 16, 12, name="b"))
    joined = g.op("Concat", a, b, axis=1)
    y = shuffled(g, joined, (1, 24, 6, 5), 2, name="end")
    result = graphs.became(g.model(g.conv(y, 24, 12)))
    assert shuffles(result) == {"a": 2, "b": 2}
    assert {name: kernels[0]["channel"] for name, kernels in result.windows.items()} == {
        "a": 0,
        "b": 12,
    }
    assert not result.left
    assert result.fates[joined].startswith("written in place")
    assert result.fates["end"].startswith("written in place")


def test_of_a_grouped_convolution() -> None:
    g = Graph([1, 16, 6, 5])
    x = g.conv("input", 16, 24, 1, group=2, name="conv")
    result = graphs.became(g.model(g.conv(shuffled(g, x, (1, 24, 6, 5), 4), 24, 8)))
    assert shuffles(result) == {"conv": 4}
    assert not result.left


def test_a_residual_block_around_a_shuffle() -> None:
    g = Graph([1, 24, 6, 5])
    x = g.op("Relu", g.conv("input", 24, 24, 1, group=3, name="one"))
    y = shuffled(g, x, (1, 24, 6, 5), 3)
    z = g.conv(g.conv(y, 24, 24, group=24), 24, 24, 1, name="last")
    result = graphs.became(g.model(g.op("Relu", g.op("Add", z, "input"))))
    assert shuffles(result) == {"one": 3}
    assert result.epilogues["last"] == "bias + residual + relu"


def declined(g: Graph, *outputs: str) -> None:
    result = graphs.became(g.model(*outputs))
    assert not any(count > 1 for count in shuffles(result).values())
    assert "written in place" not in "".join(result.fates.values())


def test_declined_what_the_network_gives() -> None:
    """As NCHW, which no kernel writes."""
    g = Graph([1, 16, 4, 5])
    declined(g, shuffled(g, g.conv("input", 16, 16, 1), (1, 16, 4, 5), 4))


def test_declined_what_mixes_pixels() -> None:
    """Rows and channels change places: as many numbers, elsewhere."""
    g = Graph([1, 16, 4, 5])
    x = g.conv("input", 16, 16, 1)
    declined(g, g.op("Exp", shuffled(g, x, (1, 16, 4, 5), 4, (0, 3, 2, 1, 4))))


def test_declined_what_others_read() -> None:
    g = Graph([1, 16, 4, 5])
    x = g.conv("input", 16, 16, 1)
    declined(g, shuffled(g, x, (1, 16, 4, 5), 4), g.op("Exp", x))


def test_declined_after_something_else() -> None:
    g = Graph([1, 16, 4, 5])
    x = g.op("MaxPool", g.conv("input", 16, 16, 1), kernel_shape=[1, 1])
    x = g.op("Exp", x)
    declined(g, g.conv(shuffled(g, x, (1, 16, 4, 5), 4), 16, 8))
