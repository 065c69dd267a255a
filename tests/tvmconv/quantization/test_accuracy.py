"""Errors as they are reported, and beside those of onnxruntime's own quantisation."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)

import tvmconv
from benchmarks.zoo import zoo
from benchmarks.zoo.generated import resnet
from benchmarks.zoo.inputs import imagenet
from tests.support.calibrated import feeds, quantized, ran
from tests.support.models import Graph, residual_net
from tests.support.thinned import thinned
from tvmconv.quantization import accuracy
from tvmconv.quantization.network import prepare

Array = NDArray[Any]
CALIBRATION = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
SIDE = 64


class Reader(CalibrationDataReader):
    """Feeds, one at a time."""

    def __init__(self, fed: Sequence[dict[str, Array]]) -> None:
        self.left = iter(fed)

    def get_next(self) -> dict[str, Array] | None:
        return next(self.left, None)


def onnxruntimes(
    model: onnx.ModelProto, fed: Sequence[dict[str, Array]], folder: Path, **options: Any
) -> onnx.ModelProto:
    """What onnxruntime's `quantize_static` makes of a model: int8, weights by channel."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    onnx.save(model, folder / "float.onnx")
    symmetric = {"WeightSymmetric": True, "ActivationSymmetric": options.pop("symmetric")}
    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            folder / "float.onnx",
            folder / "int8.onnx",
            Reader(fed),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=symmetric,
            **options,
        )
    return onnx.load(folder / "int8.onnx")


def network(name: str) -> tuple[onnx.ModelProto, list[dict[str, Array]], list[dict[str, Array]]]:
    """A network, drawings or normal numbers to calibrate with, and others to test on."""
    if name == "residual_net":
        model = residual_net(4, 16, SIDE)
        return model, feeds(model, 4), feeds(model, 4, seed=9)
    # ResNet-18 with one block a stage.
    short = resnet("resnet10", (1, 1, 1, 1), False, 18) if name == "resnet10" else None
    model = short or zoo.load(name)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value = dims[3].dim_value = SIDE
    cut = slice(80, 80 + SIDE)
    every = [{"input": one[None]} for one in imagenet(zoo.drawings(8))[:, :, cut, cut]]
    return model, every[:4], every[4:]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *thinned((("residual_net", method) for method in CALIBRATION), 3),
        ("resnet10", "entropy"),
        pytest.param("resnet10", "percentile", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "entropy", marks=pytest.mark.slow),
    ],
)
def test_no_worse_than_onnxruntime(name: str, method: str, tmp_path: Path) -> None:
    """Beside the same calibrator on the same feeds, with symmetric int8 as ours and without.

    Theirs rounds between convolution and sum, and before each Relu where it is symmetric; ours does
    not. Where theirs is not symmetric it has twice the steps after a Relu, as ours has with
    ``unsigned``. And ours corrects biases.
    """
    model, fed, others = network(name)
    exact = prepare(model)[0].proto
    for unsigned in (False, True):
        theirs = onnxruntimes(
            exact, fed, tmp_path, calibrate_method=CALIBRATION[method], symmetric=not unsigned
        )
        ours = tvmconv.quantize(model, fed, method=method, unsigned=unsigned).proto
        at_theirs, at_ours = (
            accuracy.errors(exact, proto, fed + others).largest() for proto in (theirs, ours)
        )
        assert at_ours <= at_theirs
        # Each rounding adds noise of 1 / sqrt(12) of a step of max / 127. The largest numbers are
        # up to 10 deviations here, so that it is 0.023 of the signal; powers add up over roundings
        # of input and weights of each layer.
        assert at_ours < 10 / 127 / math.sqrt(12) * math.sqrt(2 * LAYERS[name])


#: Layers between input and output.
LAYERS = {"residual_net": 6, "resnet10": 10, "mobilenet_v2": 53}


def test_biases_take_back_what_rounding_shifts() -> None:
    """By channel, the mean of a layer's result is that of the float model; for every kind of layer,
    with padding, strides and groups."""
    g = Graph([4, 16, 9, 9])
    g.nodes.append(onnx.helper.make_node("Abs", ["input"], ["x"], name="abs"))  # a mean far from 0
    outputs = [
        g.conv("x", 16, 24, name="dense"),
        g.conv("x", 16, 24, name="no_bias", bias=False),
        g.conv("x", 16, 16, r=5, group=16, strides=[3, 2], dilations=[2, 1], name="depthwise"),
        g.conv("x", 16, 24, group=2, pads=[0, 1, 2, 0], name="grouped"),
        g.op(
            "Conv", "x", g.constant(g.rng.standard_normal((8, 16, 4, 4)).astype(np.float32)),
            auto_pad="SAME_LOWER", strides=[2, 2], name="same",
        ),
        g.op(
            "ConvTranspose", "x",
            g.constant(g.rng.standard_normal((16, 12, 3, 4)).astype(np.float32)),
            strides=[2, 3], pads=[1, 0, 2, 1], group=2, name="transposed",
        ),
        g.op(
            "MatMul", g.op("Reshape", "x", g.constant(np.array([324, 16]))),
            g.constant(g.rng.standard_normal((16, 8)).astype(np.float32)), name="product",
        ),
        g.op(
            "Gemm", g.op("Transpose", g.op("Reshape", "x", g.constant(np.array([16, 324])))),
            g.constant(g.rng.standard_normal((16, 8)).astype(np.float32)), name="gemm",
        ),
    ]  # fmt: skip
    model = g.model(*outputs)
    fed = feeds(model, 6)
    exact = [ran(model, feed) for feed in fed]

    def shifts(correct: bool) -> dict[str, float]:
        """How far off the mean of a channel is, by layer, over all of its channels."""
        proto = tvmconv.quantize(model, fed, method="minmax", correct_bias=correct).proto
        found = [ran(proto, feed, fused=False) for feed in fed]
        result = {}
        for at, name in enumerate(outputs):
            off = np.mean([y[at] - x[at] for x, y in zip(exact, found, strict=True)], axis=0)
            axes = (0,) if off.ndim == 2 else (0, 2, 3)
            result[name] = float(np.linalg.norm(off.mean(axis=axes)))
        return result

    before, after = shifts(False), shifts(True)
    assert after["product"] == before["product"]  # it has no bias to correct
    ratios = {name: after[name] / before[name] for name in outputs if name != "product"}
    # The mean of the pixels that a tap meets is not quite the channel's; those of the depthwise one
    # are a sixth of its pixels.
    assert ratios.pop("depthwise") < 0.25
    assert max(ratios.values()) < 0.1, ratios


def test_errors_are_those_of_numpy() -> None:
    """Of the outputs and of each layer, after its activation, over all feeds."""
    g = Graph([1, 16, 8, 8])
    a = g.op("Relu", g.conv("input", 16, 16, name="first"), name="a")
    b = g.conv(a, 16, 16, name="second")
    model = g.model(b, a)
    found = quantized(model)
    exact, rounded = (
        [np.concatenate([one.ravel() for one in outputs]) for outputs in zip(*runs, strict=True)]
        for runs in (
            [ran(model, feed) for feed in feeds(model)],
            [ran(found.proto, feed, fused=False) for feed in feeds(model)],
        )
    )
    expected = [
        np.linalg.norm(x - y) / np.linalg.norm(x) for x, y in zip(exact, rounded, strict=True)
    ]
    report = found.report
    assert [one.name for one in report.outputs] == ["second", "a"]
    assert [one.relative_l2 for one in report.outputs] == pytest.approx(expected, rel=1e-3)
    decibels = [-20 * math.log10(one) for one in expected[::-1]]
    assert [layer.snr_db for layer in report.layers] == pytest.approx(decibels, abs=0.01)
    assert report.relative_l2 == max(one.relative_l2 for one in report.outputs)
    assert report.feeds == 3


def test_what_is_equal_is_exact_and_what_is_zero_has_no_error() -> None:
    errors = accuracy.Errors()
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    errors.add(
        {"same": one, "zero": zero, "gone": zero, "nan": one, "integer": np.arange(3)},
        {"same": one, "zero": zero, "gone": one, "nan": one * np.nan, "integer": np.arange(3)},
    )
    names = ("same", "zero", "gone", "nan")
    found = [errors.relative_l2(name) for name in names]
    assert found[:3] == [0, 0, math.inf]
    assert math.isnan(found[3])
    assert "integer" not in errors
    assert errors.largest() == math.inf
    assert errors.largest(["same", "zero"]) == 0
    assert [accuracy.decibels(one) for one in (0.0, 0.1, math.inf, math.nan)] == [
        math.inf, pytest.approx(20), -math.inf, -math.inf
    ]  # fmt: skip
