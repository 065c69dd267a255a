"""`compare` names the layers whose activations fp16 does not hold, and nothing that is kept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.models import Graph
from tvmconv.onnx.ranges.measure import measure
from tvmconv.reports.data.comparison import CompareReport

SHAPE = [1, 8, 10, 9]


def network(gain: float = 1.0) -> onnx.ModelProto:
    """Two convolutions with a pool between, the first with that gain, without biases."""
    g = Graph(SHAPE)
    one, two = (g.rng.standard_normal((k, c, 1, 1)).astype("f") for k, c in ((16, 8), (8, 16)))
    x = g.op("Conv", "input", g.constant(one * np.float32(gain)), name="one")
    x = g.op("MaxPool", g.op("Relu", x), kernel_shape=[2, 2], name="pool")
    return g.model(g.op("Conv", x, g.constant(two / np.float32(gain)), name="two"))


def compared(model: onnx.ModelProto, size: float, calibrate: bool) -> CompareReport:
    x = (np.random.default_rng(2).standard_normal(SHAPE) * size).astype("f")
    exe = tvmconv.build(model, target="llvm", calibrate={"input": x} if calibrate else None)
    return tvmconv.compare(model, exe, {"input": x})


def test_overflow_names_the_layer_and_the_largest_magnitude() -> None:
    found = compared(network(), 1e6, calibrate=False)
    assert not found.passed()
    (first, *_) = found.lost
    assert (first.layer, first.does, first.tensor) == ("one", "reads", "input")
    assert first.largest > 1e6
    text = str(found)
    assert f"Range: one reads activations of up to {first.largest:.3g} in magnitude" in text
    assert "past the 65504 of fp16" in text
    assert "calibrate=feeds" in text
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["lost"][0]["lost"] is None


@pytest.mark.parametrize(("size", "percent"), [(1e-6, 1.0), (1e-8, 50.0)])
def test_underflow_says_how_much_is_lost(size: float, percent: float) -> None:
    found = compared(network(), size, calibrate=False)
    assert not found.passed()
    assert {one.layer for one in found.lost} == {"one", "two"}
    assert found.lost[0].tensor == "input"
    assert percent / 100 < found.lost[0].lost <= 1
    assert "off when rounded to fp16" in str(found)


def test_between_layers_alone() -> None:
    """Filters that seem usual, of inputs that are not."""
    found = compared(network(2e2), 500.0, calibrate=False)
    assert ("one", "gives") in {(one.layer, one.does) for one in found.lost}
    assert all(one.tensor != "input" for one in found.lost)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("gain", [1.0, 1e6])
def test_what_is_kept_is_not_named(size: float, gain: float) -> None:
    found = compared(network(gain), size, calibrate=True)
    assert found.passed(2e-3)
    assert found.lost == ()
    assert "calibrate" not in str(found)


def test_another_cause_is_not_taken_for_it() -> None:
    exe = tvmconv.build(network(), target="llvm")
    other = network(1.5)
    del other.graph.initializer[1]
    other.graph.initializer.append(network(1.0).graph.initializer[1])
    found = tvmconv.compare(other, exe)
    assert not found.passed()
    assert found.lost == ()


def sizes(*arrays: Any) -> Any:
    g = Graph([4])
    model = onnx.shape_inference.infer_shapes(g.model(g.op("Relu", "input", name="y")))
    return measure(model, [{"input": np.array(one, "f")} for one in arrays])


def test_sizes_are_of_the_worst_feed() -> None:
    found = sizes([1, -2, 0.5, 0], [0, 0, 0, -3])
    assert found["input"].largest == 3
    assert found["y"].largest == 1
    assert found["input"].lost == 0


def test_what_fp16_loses_is_measured() -> None:
    small = np.array([3e-8, -7e-8, 1e-7, 5e-7], "f")
    found = sizes(small)["input"]
    off = small.astype("f2").astype("d") - small
    assert found.lost == pytest.approx(
        np.linalg.norm(off) / np.linalg.norm(small.astype("d")), 1e-3
    )
    assert sizes([1e-30, 0, 0, 0])["input"].lost == 1
    assert sizes([1e5, 0, 0, 0])["input"].lost == np.inf
    assert sizes([0, 0, 0, 0])["input"].largest == sizes([0, 0, 0, 0])["input"].lost == 0
    assert sizes([np.inf, 0, 0, 0])["input"].largest == np.inf
