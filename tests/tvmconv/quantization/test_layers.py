"""Regions of layers are those of a build: what a kernel does is not rounded in between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.models import Graph, residual_net
from tvmconv.quantization.layers import Layer, find_layers
from tvmconv.quantization.network import prepare


def layers(model: onnx.ModelProto) -> dict[str, Layer]:
    network, _ = prepare(model)
    return {layer.name: layer for layer in find_layers(network, network)}


def two_convolutions() -> onnx.ModelProto:
    g = Graph([1, 16, 8, 8])
    total = g.op("Add", g.conv("input", 16, 16), g.conv("input", 16, 16, r=1), name="sum")
    return g.model(g.conv(g.op("Relu", total), 16, 16))


def activations() -> onnx.ModelProto:
    """Written as one operator and as several, before and after a residual."""
    g = Graph([1, 16, 8, 8])
    x = g.conv("input", 16, 16)
    x = g.op("Mul", x, g.op("Sigmoid", x))
    y = g.conv(x, 16, 16)
    y = g.op("Add", g.op("Mul", y, g.op("Sigmoid", y)), x)
    x = g.op("HardSwish", g.conv(y, 16, 16))
    x = g.conv(x, 16, 16)
    three, six, zero = (g.constant(np.float32(n)) for n in (3, 6, 0))
    x = g.op("Mul", x, g.op("Div", g.op("Clip", g.op("Add", x, three), zero, six), six))
    slope = g.constant(np.full((16, 1, 1), 0.1, np.float32))
    x = g.op("PRelu", g.conv(x, 16, 16), slope)
    return g.model(g.op("LeakyRelu", g.conv(x, 16, 16)))


def two_readers() -> onnx.ModelProto:
    """A convolution that something else reads too, and a sum whose other side depends on it."""
    g = Graph([1, 16, 8, 8])
    x = g.conv("input", 16, 16)
    y = g.op("Relu", x)
    z = g.op("Add", g.conv(y, 16, 16), x)
    return g.model(g.op("Relu", g.op("Add", z, g.op("MaxPool", z, kernel_shape=[1, 1]))))


def broadcast() -> onnx.ModelProto:
    """A sum with a tensor of another shape, and a gate: neither is a residual."""
    g = Graph([1, 16, 8, 8])
    pooled = g.op("GlobalAveragePool", "input")
    x = g.op("Relu", g.op("Add", g.conv("input", 16, 16), pooled))
    return g.model(g.op("Mul", g.conv(x, 16, 16), pooled))


@pytest.mark.parametrize(
    "model", [residual_net, two_convolutions, activations, two_readers, broadcast]
)
def test_residuals_and_activations_are_those_of_a_build(
    model: Callable[[], onnx.ModelProto],
) -> None:
    found = layers(model())
    plan = tvmconv.inspect(model(), arch="sm_90a").plan
    assert plan is not None
    epilogues = {conv.name: conv.epilogue.split(" + ") for conv in plan.convs}
    assert set(epilogues) == set(found)
    for name, layer in found.items():
        parts = [part for part in epilogues[name] if part not in ("bias", "none")]
        parts = [part for part in parts if not part.startswith("max pool")]
        assert bool(layer.residual) == ("residual" in parts), name
        # One node at least for each of residual and activation.
        assert (len(layer.nodes) > 1) == bool(parts), name
        assert len(layer.nodes) - 1 >= len(parts), name


def test_a_region_ends_at_an_output_of_the_network() -> None:
    g = Graph([1, 16, 8, 8])
    x = g.conv("input", 16, 16, name="conv")
    (layer,) = layers(g.model(x, g.op("Relu", x))).values()
    assert (layer.output, layer.nodes) == ("conv", ("conv",))


def test_rows_are_images_times_pixels() -> None:
    g = Graph([3, 16, 8, 6])
    g.conv("input", 16, 24, name="conv", strides=[2, 2])
    weight = g.constant(np.ones((6, 5), np.float32))
    g.op("MatMul", "input", weight, name="product")
    found = layers(g.model("conv", "product"))
    assert (found["conv"].rows, found["product"].rows) == (3 * 4 * 3, 3 * 16 * 8)
