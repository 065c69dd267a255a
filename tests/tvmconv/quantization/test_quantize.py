"""`tvmconv.quantize`: models and feeds in every form, and its report."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import tvmconv
from benchmarks.zoo import zoo
from tests.support import networks
from tests.support.calibrated import View, feeds, quantized, ran
from tests.support.fetched import downloaded
from tests.support.models import Graph, residual_net
from tvmconv.quantization.calibration import METHODS
from tvmconv.quantization.network import restore_shapes
from tvmconv.reports.data.quantization import (
    QuantizationReport,
    QuantizedLayer,
    QuantizedOutput,
)


def test_a_model_as_file_bytes_and_proto_gives_the_same(tmp_path: Path) -> None:
    model = networks.small(relu=True)
    before = model.SerializeToString()
    onnx.save(model, tmp_path / "model.onnx")
    fed = feeds(model, 2)
    found = [
        tvmconv.quantize(one, fed, method="minmax").proto.SerializeToString(deterministic=True)
        for one in (model, before, tmp_path / "model.onnx", str(tmp_path / "model.onnx"))
    ]
    assert len(set(found)) == 1
    assert model.SerializeToString() == before, "the model that was given changed"


def test_what_is_saved_is_what_onnxruntime_runs(tmp_path: Path) -> None:
    model = residual_net("batch", 16, 32)
    found = tvmconv.quantize(model, feeds(model, 2, batch=2))
    found.save(tmp_path / "int8.onnx")
    loaded = onnx.load(tmp_path / "int8.onnx")
    assert loaded == found.proto
    assert {one.domain for one in loaded.opset_import} == {""}
    assert {node.domain for node in loaded.graph.node} == {""}
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    (feed,) = feeds(model, 1, batch=5)
    (exact,), (ours,) = ran(model, feed), ran(loaded, feed)
    assert exact.shape == ours.shape == (5, 10)
    # Six layers; the error of one is about 0.016 where numbers go to 5 deviations.
    assert np.linalg.norm(ours - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize("method", METHODS)
def test_feeds_may_be_arrays_generators_and_of_several_batches(method: str) -> None:
    model = residual_net("batch", 16, 32)
    fed = [*feeds(model, 1, batch=1), *feeds(model, 2, batch=3)]
    arrays = (feed["input"] for feed in fed)
    first = tvmconv.quantize(model, arrays, method=method)
    second = tvmconv.quantize(model, fed, method=method)
    assert first.proto == second.proto
    assert first.report == second.report
    assert first.report.feeds == 3


def test_fp16_goes_in_and_comes_out() -> None:
    g = Graph([1, 16, 8, 8], dtype="float16")
    x = g.op("Relu", g.conv("input", 16, 16, name="first"))
    model = g.model(g.conv(x, 16, 16, name="second"))
    found = quantized(model)
    (feed,) = feeds(model, 1)
    (ours,) = ran(found.proto, feed)
    (exact,) = ran(model, feed)
    assert ours.dtype == exact.dtype == np.float16
    error = np.linalg.norm(ours.astype(float) - exact) / np.linalg.norm(exact.astype(float))
    assert error < 0.03
    assert [layer.decision for layer in found.report.layers] == ["int8", "int8"]


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 21])
def test_any_opset(opset: int) -> None:
    """DequantizeLinear has an axis from 13 on; an older model is brought there."""
    g = Graph([1, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16))
    found = quantized(g.model(g.conv(x, 16, 16), opset=opset))
    version = next(one.version for one in found.proto.opset_import if one.domain == "")
    assert version == max(opset, 13)
    assert len(View(found.proto).scales) == 2


def test_batch_norms_are_folded_first() -> None:
    """Weights are rounded with the norm in them, and the layer keeps its name."""
    g = Graph([1, 16, 8, 8])
    y = g.conv("input", 16, 16, name="conv")
    parameters = [g.constant(np.abs(g.rng.standard_normal(16)).astype(np.float32) + 0.1)] * 4
    y = g.op("Relu", g.op("BatchNormalization", y, *parameters, name="norm"))
    found = quantized(g.model(y))
    assert [layer.name for layer in found.report.layers] == ["conv"]
    assert not any(node.op_type == "BatchNormalization" for node in found.proto.graph.node)


def test_a_folder_of_pictures_is_read_at_the_size_of_the_input(tmp_path: Path) -> None:
    g = Graph(["batch", 3, "height", "width"])
    x = g.op("Relu", g.conv(g.op("Concat", *["input"] * 3, axis=1), 9, 16, name="stem"))
    model = g.model(g.conv(x, 16, 16, name="next"))
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        picture = rng.integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / name)
    np.save(tmp_path / "c.npy", rng.standard_normal((3, 32, 24)).astype(np.float32))
    given = {"shapes": {"input": (1, 3, 32, 24)}, "method": "minmax"}
    found = tvmconv.quantize(model, tmp_path, **given)
    assert found.report.feeds == 3
    inputs = [tvmconv.quantize(model, [feed], method="minmax") for feed in images(tmp_path)]
    expected = max(View(one.proto).scales["input"] for one in inputs)
    assert View(found.proto).scales["input"] == pytest.approx(expected)
    (tmp_path / "c.npy").unlink()
    dark = tvmconv.Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
    unit = tvmconv.quantize(model, tmp_path, preprocessing=dark, **given)
    assert View(unit.proto).scales["input"] == pytest.approx(1 / 255, rel=0.05)


def images(folder: Path) -> list[dict[str, np.ndarray]]:
    spec = tvmconv.specs.TensorSpec("input", (1, 3, 32, 24), "float32")
    return list(tvmconv.read_images(folder, [spec]))


def report() -> QuantizationReport:
    layers = (
        QuantizedLayer("a", "dense", "1x3x8x8, 16x3x3x3", 2_000_000, 41.26, "int8", "fast", 1.25),
        QuantizedLayer(
            "b", "dense", "1x16x8x8", 1_000_000, float("inf"), "float", "kept", 0.5, 0.1
        ),
    )
    outputs = (QuantizedOutput("y", 0.01, 40.0), QuantizedOutput("z", 0.02, 33.98))
    return QuantizationReport("entropy", 12, "H200", 0.05, outputs, layers)


def test_the_report_as_text() -> None:
    lines = str(report()).splitlines()
    assert lines[0] == "1 of 2 layers in int8, 67% of the multiply-adds; entropy over 12 feeds"
    header = ("layer", "kind", "x, weight", "GMAC", "SNR dB", "alone", "us", "runs in", "reason")
    assert lines[1].split() == " ".join(header).split()
    first, second = lines[3:5]
    assert first.split()[0] == "a"
    assert " 41.3 " in first
    assert " 1.25 " in first
    assert first.endswith("int8     fast")
    assert " exact " in second
    assert " 1.0e-01 " in second
    assert "output z: relative l2 2.00e-02, 34.0 dB" in lines
    assert "H200; in total saved 1.25" in str(report())
    assert lines[-1] == "the bound on the error is 0.05"


def test_the_report_as_data() -> None:
    found = report()
    plain = json.loads(json.dumps(found.to_json()))
    assert (plain["relative_l2"], plain["saved_us"]) == (0.02, 1.25)
    assert plain["layers"][1]["snr_db"] is None
    assert plain["layers"][0]["name"] == "a"
    assert found.quantized == ("a",)
    with pytest.raises(FrozenInstanceError):
        found.feeds = 3  # type: ignore[misc]


def test_outputs_keep_the_shapes_that_inference_loses() -> None:
    model = residual_net("batch", 16, 32)
    lost = onnx.ModelProto()
    lost.CopyFrom(model)
    lost.graph.output[0].type.tensor_type.ClearField("shape")
    restore_shapes(lost, model)
    assert lost == model
    other = residual_net(3, 16, 32)
    restore_shapes(lost, other)
    assert lost == model, "it had a shape"


@pytest.mark.slow
def test_a_network_whose_shapes_cannot_be_inferred_is_quantised_and_built() -> None:
    model = downloaded(lambda: zoo.load("rapidocr_cls"))
    found = tvmconv.quantize(model, zoo.calibration("rapidocr_cls", 1, 1, zoo.drawings)).proto
    assert tvmconv.inspect(found, "llvm", batch=1).buildable


def test_a_network_that_is_given_bytes_has_its_first_layer_in_int8() -> None:
    model = residual_net("batch", 16, 32)
    fed = feeds(model, 2)
    without, found = (tvmconv.quantize(model, fed, bytes_in=given) for given in (False, True))
    stem = found.report.layers[0].name
    changed = {
        before.name: after.decision
        for before, after in zip(without.report.layers, found.report.layers, strict=True)
        if before.decision != after.decision
    }
    assert changed == {stem: "int8"}
    exe = tvmconv.build(found.proto, "llvm", batch=1, io_dtype="int8")
    (spec,) = exe.inputs
    assert str(spec.dtype) == "int8"
    assert spec.scale
    (feed,) = feeds(model, 1)
    (x,) = feed.values()
    numbers = np.clip(np.rint(x / np.float32(spec.scale)), -128, 127).astype(np.int8)
    (want,) = ran(found.proto, feed)
    np.testing.assert_allclose(exe(numbers), want, rtol=0, atol=np.abs(want).max() * 1e-2)
    assert exe.report.convolutions[0].multiplies == "s8"
