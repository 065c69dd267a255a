"""Networks lose their weights and get others, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from benchmarks.zoo import zoo
from benchmarks.zoo.weights import reseed, strip
from tests.support.fetched import downloaded
from tests.support.models import Graph, residual_net
from tvmconv.errors import ModelError

FEED = {"input": np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)}


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def test_stripping_takes_large_float_tensors_and_no_others() -> None:
    model = residual_net("batch", channels=16)
    before = {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
    stripped = strip(model, above_bytes=640)
    assert shapes(stripped) == shapes(model)
    kept = {
        tensor.name: tensor.SerializeToString()
        for tensor in stripped.graph.initializer
        if tensor.raw_data
    }
    assert kept.items() <= before.items()
    sizes = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    assert {name for name in before if name not in kept} == {
        name for name, size in sizes.items() if size > 640
    }
    assert 0 < len(kept) < len(before)
    assert stripped.ByteSize() < model.ByteSize() / 5
    assert all(tensor.raw_data for tensor in model.graph.initializer), "it is a copy"


def test_stripping_sees_constant_nodes_and_leaves_integers() -> None:
    g = Graph(["batch", 4, 8, 8])
    weight = numpy_helper.from_array(np.ones((300, 4, 1, 1), np.float32), "w")
    shape = numpy_helper.from_array(np.array([0, -1], np.int64), "s")
    for tensor in (weight, shape):
        name = tensor.name
        g.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
    table = g.constant(np.arange(300))
    y = g.op("Gather", g.op("Conv", "input", "w"), table, axis=1)
    stripped = strip(g.model(g.op("Reshape", y, "s")))
    assert [node.op_type for node in stripped.graph.node] == ["Conv", "Gather", "Reshape"]
    kept = {tensor.name: bool(tensor.raw_data) for tensor in stripped.graph.initializer}
    assert kept == {"w": False, "s": True, table: True}


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    stripped = strip(residual_net("batch"))
    first, again, other = (reseed(stripped, FEED, seed).SerializeToString() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_graph_and_shapes_stay_and_the_stripped_model_is_not_touched() -> None:
    model = residual_net("batch")
    stripped = strip(model)
    bare = stripped.SerializeToString()
    seeded = reseed(stripped, FEED)
    assert stripped.SerializeToString() == bare
    assert np.isfinite(run(seeded, FEED)[0]).all()
    assert list(seeded.graph.node) == list(model.graph.node)
    assert shapes(seeded) == shapes(model)


def test_layers_give_deviation_one_however_deep_and_whatever_was_kept() -> None:
    g = Graph(["batch", 3, 12, 12])
    x = "input"
    for index in range(30):
        x = g.op("Relu", g.conv(x, 3 if index == 0 else 32, 32, name=f"conv{index}"))
    model = g.model(x)
    for tensor in model.graph.initializer:  # kept, as they are small, and out of all proportion
        if tensor.dims == [32]:
            tensor.CopyFrom(numpy_helper.from_array(np.full(32, 1e6, np.float32), tensor.name))
    seeded = reseed(strip(model), FEED)
    del seeded.graph.output[:]
    seeded.graph.output.extend(onnx.ValueInfoProto(name=f"conv{i}") for i in range(30))
    for y in run(seeded, FEED):
        assert 0.9 < y.std() < 1.2
        assert 0.8 < y.mean() < 1.2


def test_batch_norm_gets_the_statistics_of_what_it_is_given() -> None:
    g = Graph(["batch", 3, 12, 12])
    parameters = [g.constant(np.full(64, 0.02, np.float32)) for _ in range(4)]
    x = g.conv("input", 3, 64, bias=False)
    y = g.op("BatchNormalization", x, *parameters, name="norm")
    (seeded,) = run(reseed(strip(g.model(y)), FEED), FEED)
    mean, deviation = seeded.mean((0, 2, 3)), seeded.std((0, 2, 3))
    assert (abs(mean - 1) < 1).all()
    assert mean.std() > 0.1, "its shift is drawn"
    assert ((deviation > 0.75) & (deviation < 1.25)).all()


def test_weights_reached_through_a_view_and_shared_ones_are_scaled_once() -> None:
    g = Graph(["batch", 32])
    flat = g.constant(np.zeros(32 * 32, np.float32))
    weight = g.op("Reshape", flat, g.constant(np.array([32, 32])))
    first = g.op("MatMul", "input", weight, name="first")
    model = g.model(g.op("MatMul", first, weight, name="second"), first)
    feed = {"input": np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)}
    seeded = reseed(strip(model), feed)
    second, first = run(seeded, feed)
    assert first.std() == pytest.approx(1, abs=0.15)
    assert second.std() > 0.2


def test_dtype_is_kept() -> None:
    g = Graph(["batch", 3, 12, 12], dtype="float16")
    seeded = reseed(strip(g.model(g.conv("input", 3, 64))), {"input": FEED["input"].astype("f2")})
    assert {tensor.data_type for tensor in seeded.graph.initializer} == {onnx.TensorProto.FLOAT16}
    (y,) = run(seeded, {"input": FEED["input"].astype(np.float16)})
    assert y.std() == pytest.approx(1, abs=0.2)


def test_a_node_that_cannot_run_is_named() -> None:
    g = Graph(["batch", 3, 12, 12])
    model = g.model(g.op("Sigmoid", g.conv("input", 5, 64, name="wide"), name="y"))
    with pytest.raises(ModelError, match="Conv 'wide'"):
        reseed(strip(model), FEED)


@pytest.mark.parametrize("name", ["rapidocr_det", "rapidocr_rec", "mtcnn_pnet", "nudenet_320n"])
def test_trained_networks_can_be_reseeded(name: str) -> None:
    stripped = strip(downloaded(lambda: zoo.load(name)))
    assert stripped.ByteSize() < 150e3
    seeded = reseed(stripped, zoo.feeds(name, 4, zoo.drawings))
    onnx.checker.check_model(seeded)
    for output in run(seeded, zoo.feeds(name, 2, zoo.drawings)):
        assert 1e-4 < np.sqrt(np.square(output).mean()) < 1e3
        assert np.linalg.norm(output[0] - output[1]) > 1e-3 * np.linalg.norm(output[0])


def test_a_bias_that_is_added_later_is_a_bias() -> None:
    g = Graph(["batch", 32])
    weight, bias = (g.constant(np.zeros(shape, np.float32)) for shape in ((32, 300), (1, 300)))
    model = g.model(g.op("Add", bias, g.op("MatMul", "input", weight)))
    feed = {"input": 50 + np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)}
    (y,) = run(reseed(strip(model), feed), feed)
    assert y.mean() == pytest.approx(1, abs=0.1)
    assert y.std() == pytest.approx(1, abs=0.1)
