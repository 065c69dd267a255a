"""What is written twice is computed once; what only looks alike is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.support import graphs
from tests.support.models import Graph
from tvmconv.passes.regions.anchors import anchors


def twins(change: float = 0.0, **attributes: Any) -> Graph:
    """Two convolutions of one input, the second's weights or attributes perhaps others."""
    g = Graph([1, 3, 9, 9])
    weight = g.rng.standard_normal((8, 3, 3, 3)).astype("f")
    other = weight.copy()
    other[7, 2, 2, 2] += change
    g.op("Conv", "input", g.constant(weight), name="one", pads=[1] * 4)
    g.op("Conv", "input", g.constant(other), name="two", **{"pads": [1] * 4, **attributes})
    return g


def test_equal_convolutions_and_what_follows_them_are_merged() -> None:
    g = twins()
    model = g.model(g.op("Concat", g.op("Relu", "one"), g.op("Relu", "two"), axis=1))
    mod = graphs.tidied(model)
    assert graphs.counts(mod)["nn.conv2d"] == 1
    assert graphs.counts(mod)["nn.relu"] == 1
    graphs.same(mod, model)
    graphs.right(model)


@pytest.mark.parametrize("difference", [{"change": 1e-6}, {"dilations": [2, 2], "pads": [2] * 4}])
def test_declined_different_weights_or_attributes(difference: dict[str, Any]) -> None:
    g = twins(**difference)
    model = g.model(g.op("Concat", g.op("Relu", "one"), g.op("Relu", "two"), axis=1))
    mod = graphs.tidied(model)
    assert graphs.counts(mod)["nn.conv2d"] == 2
    graphs.same(mod, model)


def test_the_convolutions_that_stay_are_known_by_name() -> None:
    g = twins()
    third = g.conv("input", 3, 8, name="three")
    model = g.model(g.op("Concat", g.op("Relu", "one"), "two", g.op("Tanh", third), axis=1))
    report = tvmconv.inspect(model, target="llvm")
    tensorized = [conv.name for conv in report.convs if conv.family != "TVM"]
    assert tensorized == ["one", "three"]


def test_both_weights_are_there_before_they_are_merged() -> None:
    g = twins()
    model = g.model(g.op("Concat", "one", "two", axis=1))
    mod = graphs.pipeline.run(graphs.imported(model), graphs.pipeline.GRAPH_PASSES, "test")
    np.testing.assert_array_equal(*(weight.value.numpy() for weight in anchors(mod)))
