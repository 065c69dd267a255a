"""What can't be quantised is refused, with a note and a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.calibrated import feeds
from tests.support.models import Graph
from tvmconv.errors import (
    FeedError,
    ModelError,
    QuantizationError,
    ShapeError,
    TargetError,
    TvmconvError,
)


def network() -> onnx.ModelProto:
    g = Graph(["batch", 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16, name="layer1.conv1"), name="x")
    return g.model(g.conv(x, 16, 16, name="layer1.conv2"))


def refused(error: type[TvmconvError], says: str, model: Any, fed: Any, **options: Any) -> str:
    with pytest.raises(error, match=says) as raised:
        tvmconv.quantize(model, fed, **{"method": "minmax", **options})
    return str(raised.value)


def filled(value: float) -> np.ndarray:
    array = np.ones((1, 16, 8, 8), np.float32)
    array[0, 3, 2, 1] = value
    return array


ONE = np.ones((1, 16, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("fed", "says"),
    [
        ([], "no feeds to calibrate with"),
        (iter(()), "no feeds to calibrate with"),
        (ONE, "not one ndarray"),
        ({"input": ONE}, "not one dict"),
        (7, "not one int"),
        ([{"x": ONE}], r"feed 0 has \['x'\], the network's inputs are \['input'\]"),
        ([ONE, {"input": ONE, "more": ONE}], r"feed 1 has \['input', 'more'\]"),
        ([ONE[:, :8]], r"got float32\[1, 8, 8, 8\], expected float32\[any, 16, 8, 8\]"),
        ([ONE[0]], r"the batch is a dimension too"),
        ([np.empty((0, 16, 8, 8), np.float32)], r"got float32\[0, 16, 8, 8\]"),
        ([ONE.astype(np.float64)], "got float64"),
        ([ONE.astype(np.uint8)], "got uint8"),
        (["a picture"], r"feed 0: input 'input' got"),
        ([ONE, filled(np.nan)], "feed 1: input 'input' has NaN"),
        ([filled(np.inf)], "feed 0: input 'input' has infinity"),
    ],
)
def test_feeds_that_do_not_fit(fed: Any, says: str) -> None:
    refused(FeedError, says, network(), fed)


def test_one_array_does_not_feed_two_inputs() -> None:
    g = Graph([1, 16, 8, 8])
    g.inputs.append(onnx.helper.make_tensor_value_info("other", 1, [1, 16, 8, 8]))
    model = g.model(g.conv(g.op("Add", "input", "other"), 16, 16))
    refused(FeedError, "feed 0 is a ndarray, the network's inputs are", model, [ONE])
    assert tvmconv.quantize(model, [{"input": ONE, "other": ONE}], method="minmax")


def test_layers_to_keep_that_do_not_exist() -> None:
    text = refused(
        QuantizationError, "no layers to keep", network(), [ONE], keep=["layer1.conv", "zzz"]
    )
    assert "'layer1.conv', 'zzz'" in text
    assert "'layer1.conv' is near 'layer1.conv" in text
    text = refused(QuantizationError, "no layers to keep named 'q'", network(), [ONE], keep=["q"])
    assert "the first of 2 layers are layer1.conv1, layer1.conv2" in text
    refused(QuantizationError, "a collection", network(), [ONE], keep="layer1.conv1")


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_activations_that_are_always_zero(method: str) -> None:
    """They are named, and to keep the layer that reads them mends it."""
    g = Graph([1, 16, 8, 8])
    low = g.op("Sub", g.conv("input", 16, 16), g.constant(np.float32(1e4)))
    dead = g.op("Relu", low, name="dead")
    model = g.model(g.conv(dead, 16, 16, name="reader"))
    text = refused(QuantizationError, "0 on all feeds: 'dead'", model, feeds(model), method=method)
    assert "keep=" in text
    assert tvmconv.quantize(model, feeds(model), method=method, keep=["reader"])


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_activations_that_are_not_finite(method: str) -> None:
    g = Graph([1, 16, 8, 8])
    y = g.op("Mul", g.conv("input", 16, 16), g.constant(np.float32(3e38)))
    y = g.op("Mul", y, g.constant(np.full((1, 1, 8, 8), 3e38, np.float32)), name="large")
    model = g.model(g.conv(y, 16, 16))
    refused(QuantizationError, "'large' is not finite", model, feeds(model), method=method)


@pytest.mark.parametrize("bound", [0, -0.1, float("nan"), float("inf")])
def test_bounds_that_can_not_be_meant(bound: float) -> None:
    refused(QuantizationError, "max_error can't be", network(), [ONE], max_error=bound)


def test_methods_and_gpus_that_do_not_exist() -> None:
    text = refused(QuantizationError, "'magic'", network(), [ONE], method="magic")
    assert "entropy, minmax, percentile" in text
    refused(TargetError, "sm_1", network(), [ONE], arch="sm_1")


def test_a_model_that_is_quantised_already() -> None:
    once = tvmconv.quantize(network(), feeds(network()), method="minmax").proto
    text = refused(QuantizationError, "quantised already", once, [ONE])
    assert "DequantizeLinear, QuantizeLinear" in text


def test_models_that_are_none(tmp_path: Path) -> None:
    refused(ModelError, "is empty", b"", [ONE])
    refused(ModelError, "can't be read", tmp_path / "none.onnx", [ONE])


def test_pictures_that_do_not_fit(tmp_path: Path) -> None:
    refused(FeedError, "is no folder", network(), tmp_path / "none")
    refused(FeedError, "no images in", network(), tmp_path)
    np.save(tmp_path / "a.npy", ONE[:, :3])
    refused(FeedError, "a.npy has the shape", network(), tmp_path)
    np.save(tmp_path / "a.npy", filled(np.nan))
    refused(FeedError, "has NaN", network(), tmp_path)
    (tmp_path / "a.npy").write_bytes(b"no array")
    refused(FeedError, "a.npy can't be read", network(), tmp_path)
    g = Graph(["batch", 3, "height", "width"])
    model = g.model(g.conv("input", 3, 16))
    refused(ShapeError, "left open", model, tmp_path)


@pytest.mark.parametrize(
    "given",
    [{"shapes": {"input": (1, 16, 8, 8)}}, {"preprocessing": tvmconv.Preprocessing(resize=1)}],
)
def test_what_is_for_pictures_is_not_ignored(given: dict[str, Any]) -> None:
    refused(FeedError, "for a folder of images", network(), [ONE], **given)
