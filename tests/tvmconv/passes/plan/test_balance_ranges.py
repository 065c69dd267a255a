"""What is between two convolutions stays in the range of fp16, by powers of two and exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support import graphs
from tests.support.models import Graph
from tests.support.thinned import thinned
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.balance_ranges import balance_ranges
from tvmconv.passes.regions import regions
from tvmconv.passes.regions.anchors import anchors

LARGEST = float(np.finfo(np.float16).max)


def large(between: Callable[[Graph, str], str], factor: float = 3e4, **attributes: Any) -> Graph:
    """Two convolutions, the first enlarging by `factor` and the second undoing it."""
    g = Graph([1, 8, 6, 5])
    one, two = ((g.rng.standard_normal((8, 8, 3, 3)) / 8).astype("f") for _ in range(2))
    bias = g.constant((g.rng.standard_normal(8) * factor).astype("f"))
    x = g.op("Conv", "input", g.constant(one * np.float32(factor)), bias, pads=[1] * 4, name="one")
    weight = g.constant(two / np.float32(factor))
    g.op("Conv", between(g, x), weight, pads=[1] * 4, name="two", **attributes)
    return g


def middle(g: Graph) -> float:
    """The largest number between the two."""
    read = g.nodes[-1].input[0]
    nodes, g.nodes = g.nodes, g.nodes[:-1]
    model, g.nodes = g.model(read), nodes
    x = np.random.default_rng(5).standard_normal((1, 8, 6, 5)).astype("f")
    return float(np.abs(graphs.expected(model, x)[0]).max())


HOMOGENEOUS: dict[str, Callable[[Graph, str], str]] = {
    "nothing": lambda g, x: x,
    "relu": lambda g, x: g.op("Relu", x),
    "leaky relu": lambda g, x: g.op("LeakyRelu", x, alpha=0.2),
    "prelu": lambda g, x: g.op("PRelu", x, g.constant(g.rng.uniform(0, 1, (8, 1, 1)).astype("f"))),
}


@pytest.mark.parametrize("name", thinned(HOMOGENEOUS, 2))
def test_past_what_fp16_holds(name: str) -> None:
    g = large(HOMOGENEOUS[name])
    assert middle(g) > LARGEST
    graphs.became(g.model("two"))


def test_below_what_fp16_resolves() -> None:
    g = large(HOMOGENEOUS["relu"], 1e-7)
    graphs.became(g.model("two"))


def test_of_a_transposed_convolution() -> None:
    g = Graph([1, 8, 4, 5])
    weight = (g.rng.standard_normal((8, 8, 4, 4)) * 1e4).astype("f")
    x = g.op("ConvTranspose", "input", g.constant(weight), strides=[2, 2], name="one")
    last = (g.rng.standard_normal((6, 8, 1, 1)) / 1e5).astype("f")
    graphs.became(g.model(g.op("Conv", g.op("Relu", x), g.constant(last), name="two")))


def test_two_readers_and_the_next_convolution() -> None:
    """Each reader is scaled, and scaled again where it is the first of another pair."""
    g = large(HOMOGENEOUS["relu"])
    x = g.nodes[-1].input[0]
    weight = g.constant((g.rng.standard_normal((8, 8, 1, 1)) / 1e5).astype("f"))
    y = g.op("Relu", g.op("Conv", x, weight, name="three"))
    z = g.conv(y, 8, 8, name="four")
    graphs.became(g.model("two", z))


def test_scales_are_powers_of_two_and_change_no_bit() -> None:
    """In a network that fp16 holds, scaling or not gives the same bits."""
    plain = large(HOMOGENEOUS["relu"], 4.0)
    scaled = large(HOMOGENEOUS["relu"], 64.0)
    x = np.random.default_rng(5).standard_normal((1, 8, 6, 5)).astype("f")
    one, two = (tvmconv.build(g.model("two"), target="llvm")(x) for g in (plain, scaled))
    np.testing.assert_array_equal(one, two)


def weights(g: Graph, *outputs: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each region, before and after."""
    mod = graphs.tidied(g.model(*outputs))
    named = [(weight, str(at)) for at, weight in enumerate(anchors(mod))]
    before = regions.find_regions(mod, named)
    after = balance_ranges(before, Dataflow.of(mod))
    assert list(before) == list(after)
    return [(before[var].weight, after[var].weight) for var in before]


def test_taken_is_seen_in_the_weights() -> None:
    for before, after in weights(large(HOMOGENEOUS["relu"]), "two"):
        factor = after / before
        assert (factor != 1).all()
        np.testing.assert_array_equal(np.log2(factor), np.round(np.log2(factor)))


@pytest.mark.parametrize("bias", [0.5, 20.0])
@pytest.mark.parametrize("factor", thinned([1e-7, 1e-5], 2))
def test_declined_where_the_bias_is_what_counts(factor: float, bias: float) -> None:
    """As of a batch norm that training has all but switched off."""
    g = Graph([1, 16, 8, 8])
    weight = (g.rng.standard_normal((16, 16, 3, 3)) * factor).astype("f")
    x = g.op("Conv", "input", g.constant(weight), g.constant(np.full(16, bias, "f")), name="one")
    g.conv(g.op("Relu", x), 16, 16)
    graphs.became(g.model(g.nodes[-1].output[0]))


def test_inputs_that_are_all_alike() -> None:
    """They grow by the sum of a filter, not by its norm."""
    g = Graph([1, 64, 16, 16])
    mean = g.constant(np.full((8, 64, 8, 8), 1 / 4096, "f"))
    model = g.model(g.conv(g.op("Conv", "input", mean, name="one"), 8, 8, 1))
    exe = tvmconv.build(model, target="llvm")
    feeds = {"input": np.full((1, 64, 16, 16), 2000, "f")}
    assert tvmconv.compare(model, exe, feeds).passed(2e-3)


def clipped(g: Graph, x: str) -> str:
    return g.op("Clip", x, g.constant(np.float32(-4e4)), g.constant(np.float32(5e4)))


DECLINED: dict[str, tuple[Callable[[Graph, str], str], float]] = {
    "an activation that is not homogeneous": (clipped, 3e4),
    "a residual": (lambda g, x: g.op("Relu", g.op("Add", x, g.op("Tanh", "input"))), 3e4),
    "a residual, last": (lambda g, x: g.op("Add", g.op("Relu", x), g.op("Tanh", "input")), 3e4),
    "filters that enlarge a little": (HOMOGENEOUS["relu"], 2.0),
    "filters that make it a little smaller": (HOMOGENEOUS["relu"], 0.5),
    "something in between": (lambda g, x: g.op("AveragePool", x, kernel_shape=[2, 2]), 3e4),
    "filters of zeros": (HOMOGENEOUS["relu"], 1e-44),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declined(name: str) -> None:
    between, factor = DECLINED[name]
    for before, after in weights(large(between, factor), "two"):
        np.testing.assert_array_equal(before, after)


def test_declined_what_another_operator_reads() -> None:
    g = large(HOMOGENEOUS["relu"])
    pooled = g.op("MaxPool", g.nodes[-1].input[0], kernel_shape=[2, 2])
    for before, after in weights(g, "two", pooled):
        np.testing.assert_array_equal(before, after)


def test_declined_what_the_network_gives() -> None:
    g = large(HOMOGENEOUS["relu"])
    for before, after in weights(g, "two", g.nodes[-1].input[0]):
        np.testing.assert_array_equal(before, after)


def test_declined_what_another_convolution_adds() -> None:
    g = large(HOMOGENEOUS["relu"])
    x = g.op("Add", g.nodes[-1].input[0], "two")
    for before, after in weights(g, g.op("Relu", x)):
        np.testing.assert_array_equal(before, after)


def test_declined_where_the_next_weights_would_be_too_large() -> None:
    g = large(HOMOGENEOUS["relu"])
    g.initializers[-1].CopyFrom(
        onnx.numpy_helper.from_array(np.ones((8, 8, 3, 3), "f"), g.initializers[-1].name)
    )
    for before, after in weights(g, "two"):
        np.testing.assert_array_equal(before, after)
