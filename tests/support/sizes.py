"""Networks of open sizes, for tests of buckets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.support.models import Array, Graph
from tests.support.reference import session


def finder(batch: int | str = "n", seed: int = 0) -> onnx.ModelProto:
    """A fully convolutional network: "input" [batch, 3, h, w] to a map at half the size, "found",
    the image at twice the size, "grown", and one number for each channel, "pooled"."""
    g = Graph([batch, 3, "h", "w"], seed)
    x = g.op("Relu", g.conv("input", 3, 16, name="first"))
    found = g.conv(x, 16, 8, strides=[2, 2], name="found")
    grown = g.op("DepthToSpace", g.conv(x, 16, 12), name="grown", blocksize=2)
    return g.model(found, grown, g.op("GlobalAveragePool", x, name="pooled"))


def joined() -> onnx.ModelProto:
    """Two images of sizes of their own, "input" and "other" [n, 8, h, w] each, and "gain" [n, 8, 1,
    1]: a convolution of both, pooled, and its map times the gain."""
    g = Graph(["n", 8, "h", "w"])
    g.inputs.append(helper.make_tensor_value_info("other", 1, ["n", 8, "h2", "w2"]))
    g.inputs.append(helper.make_tensor_value_info("gain", 1, ["n", 8, 1, 1]))
    x = g.op("Mul", g.conv("input", 8, 8), "gain", name="map")
    y = g.op("GlobalAveragePool", g.conv("other", 8, 8))
    return g.model(x, g.op("Add", g.op("GlobalAveragePool", x), y, name="sum"))


def running() -> onnx.ModelProto:
    """A convolution, a running sum, which onnxruntime runs, and a convolution."""
    g = Graph([1, 3, "h", "w"])
    x = g.op("CumSum", g.conv("input", 3, 8), g.constant(np.array(3)))
    return g.model(g.conv(x, 8, 8, name="last"))


def fed(shapes: Mapping[str, tuple[int, ...]], seed: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}


def image(*shape: int, seed: int = 1) -> dict[str, Array]:
    return fed({"input": shape}, seed)


def held(model: onnx.ModelProto, feeds: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """`ours` is what onnxruntime gives, all of it."""
    reference = session(model)
    names = [output.name for output in reference.get_outputs()]
    assert list(ours) == names
    for name, expected in zip(names, reference.run(names, dict(feeds)), strict=True):
        assert ours[name].shape == expected.shape
        assert np.linalg.norm(ours[name] - expected) <= 3e-3 * np.linalg.norm(expected), name
