"""Padding with zeros, and cropping, become the convolution's own; other padding stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import graphs
from tests.support.models import Graph


def padded(g: Graph, widths: list[int], x: str = "input", **attributes: Any) -> str:
    return g.op("Pad", x, g.constant(np.array(widths)), **attributes)


def padding(became: graphs.Became, name: str) -> list[int]:
    (conv,) = (conv for conv in became.report.convs if conv.name == name)
    return list(graphs.json.loads(conv.workloads[0])["padding"])


def test_a_pad_that_two_convolutions_read() -> None:
    g = Graph([1, 8, 9, 10])
    x = padded(g, [0, 0, 1, 2, 0, 0, 3, 4])
    model = g.model(g.conv(x, 8, 6, name="one"), g.conv(x, 8, 8, 1, name="two"))
    result = graphs.became(model)
    assert "nn.pad" not in result.left
    assert padding(result, "one") == [2, 3, 4, 5]
    assert padding(result, "two") == [1, 2, 3, 4]
    assert result.fates[x] == "in the kernel of a convolution: two"


def test_cropping() -> None:
    g = Graph([2, 8, 9, 10])
    x = padded(g, [0, 0, -1, 2, 0, 0, -3, -2], g.op("Tanh", g.conv("input", 8, 8)))
    conv = g.conv(x, 8, 6, strides=[2, 1], pads=[0, 1, 0, 0], name="conv")
    result = graphs.became(g.model(conv))
    assert "nn.pad" not in result.left
    assert padding(result, "conv") == [-1, 3, -3, -2]
    assert result.fates[x] == "in the kernel of a convolution: conv"


def test_declined_cropping_where_the_convolution_pads() -> None:
    """The zeros of its padding lie where the image has numbers."""
    g = Graph([2, 8, 9, 10])
    x = padded(g, [0, 0, -1, 0, 0, 0, 0, 0], g.op("Tanh", g.conv("input", 8, 8)))
    result = graphs.became(g.model(g.conv(x, 8, 6, name="conv")))
    assert padding(result, "conv") == [1, 1, 1, 1]
    assert result.left["nn.pad"] == 1


DECLINED = {
    "of a number": ([0, 0, 1, 1, 0, 0, 1, 1], {"value": 0.5}),
    "by reflection": ([0, 0, 1, 1, 0, 0, 1, 1], {"mode": "reflect"}),
    "of channels": ([0, 2, 1, 1, 0, 1, 1, 1], {}),
    "of images": ([1, 0, 1, 1, 0, 0, 1, 1], {}),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declined(name: str) -> None:
    widths, attributes = DECLINED[name]
    g = Graph([1, 8, 9, 10])
    number = attributes.pop("value", 0.0) if "value" in attributes else 0.0
    x = g.op(
        "Pad", "input", g.constant(np.array(widths)), g.constant(np.float32(number)), **attributes
    )
    c = 8 + widths[1] + widths[5]
    result = graphs.became(g.model(g.conv(x, c, 6, name="one"), g.conv(x, c, 8, 1, name="two")))
    assert padding(result, "two") == [0, 0, 0, 0]
    assert "a kernel of TVM's" in result.fates[x]


def test_declined_before_a_transposed_convolution() -> None:
    g = Graph([1, 8, 5, 4])
    x = padded(g, [0, 0, 1, 2, 0, 0, 0, 1])
    weight = g.constant((g.rng.standard_normal((8, 6, 3, 3)) / 8).astype("f"))
    result = graphs.became(g.model(g.op("ConvTranspose", x, weight, strides=[2, 2])))
    assert result.left["nn.pad"] == 1
    assert "a kernel of TVM's" in result.fates[x]
