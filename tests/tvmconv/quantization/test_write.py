"""The QDQ model: integers, scales and axes, and that onnxruntime computes in integers."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.calibrated import View, feeds, quantized, ran
from tests.support.models import Graph
from tvmconv.errors import QuantizationError


def layer(kind: str) -> tuple[onnx.ModelProto, str]:
    """One layer of a kind with 24 output channels, and the name of its weights."""
    g = Graph([1, 16, 8, 8] if "Conv" in kind else [32, 16])
    rng = g.rng
    if kind == "Conv":
        g.conv("input", 16, 24, name="layer")
    elif kind == "grouped Conv":
        g.conv("input", 16, 24, group=2, name="layer")
    elif kind == "ConvTranspose":
        weight = g.constant(rng.standard_normal((16, 24, 3, 3)).astype(np.float32))
        bias = g.constant(rng.standard_normal(24).astype(np.float32))
        g.op("ConvTranspose", "input", weight, bias, strides=[2, 2], name="layer")
    elif kind == "grouped ConvTranspose":
        weight = g.constant(rng.standard_normal((16, 12, 3, 3)).astype(np.float32))
        bias = g.constant(rng.standard_normal(24).astype(np.float32))
        g.op("ConvTranspose", "input", weight, bias, group=2, name="layer")
    elif kind == "MatMul":
        weight = g.constant(rng.standard_normal((16, 24)).astype(np.float32))
        g.op("MatMul", "input", weight, name="layer")
    else:
        transposed = kind == "Gemm transB"
        shape = (24, 16) if transposed else (16, 24)
        weight = g.constant(rng.standard_normal(shape).astype(np.float32))
        bias = g.constant(rng.standard_normal(24).astype(np.float32))
        g.op("Gemm", "input", weight, bias, transB=int(transposed), name="layer")
    return g.model("layer"), g.nodes[0].input[1]


#: Each kind, the axis of its output channels, and how many scales it has.
KINDS = {
    "Conv": (0, 24),
    "grouped Conv": (0, 24),
    "ConvTranspose": (1, 24),
    "grouped ConvTranspose": (1, 12),
    "MatMul": (1, 24),
    "Gemm": (1, 24),
    "Gemm transB": (0, 24),
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_int8_by_output_channel(kind: str) -> None:
    """They come back within half a step, the largest of each channel as 127."""
    model, name = layer(kind)
    weight = next(one for one in model.graph.initializer if one.name == name)
    exact = onnx.numpy_helper.to_array(weight)
    found = quantized(model, correct_bias=False)
    view = View(found.proto)
    integers, scale, axis = view.weight("layer")
    assert (integers.dtype, scale.dtype) == (np.int8, np.float32)
    assert (axis, len(scale)) == KINDS[kind]
    by_channel = np.moveaxis(integers, axis, 0).reshape(len(scale), -1).astype(int)
    assert (abs(by_channel).max(1) == 127).all()
    along = np.reshape(scale, [-1 if at == axis else 1 for at in range(exact.ndim)])
    assert (abs(integers * along - exact) <= along / 2 * (1 + 1e-5)).all()
    assert name not in view.values
    if kind != "MatMul":
        assert view.node("layer").input[2] == model.graph.node[0].input[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_that_of_the_rounded_numbers(kind: str) -> None:
    """onnxruntime's integer kernels and its fp32 agree, and both are near the float model."""
    model, _ = layer(kind)
    found = quantized(model)
    (feed,) = feeds(model, 1)
    (exact,), (plain,), (fused,) = (
        ran(model, feed),
        ran(found.proto, feed, fused=False),
        ran(found.proto, feed),
    )
    power = np.linalg.norm(exact)
    # Steps of a 127th of the largest of some hundred normal numbers, about 3: the error of each is
    # about 3 / 127 / sqrt(12) of a deviation, for input and weights.
    assert np.linalg.norm(plain - exact) / power < 2 * 4 / 127 / np.sqrt(12)
    np.testing.assert_allclose(fused, plain, atol=1e-5 * power)


def test_onnxruntime_computes_in_integers() -> None:
    """With uint8 after a Relu, whose lower bound the rounding does."""
    g = Graph([1, 16, 8, 8])
    x = "input"
    for at in range(3):
        x = g.op("Relu", g.conv(x, 16, 16, name=f"conv{at}"))
    proto = quantized(g.model(x), unsigned=True).proto
    ops = optimised(proto)
    assert ops.count("QLinearConv") == 2  # the last one's result is not rounded
    assert "Relu" not in ops[:-2]


def optimised(proto: onnx.ModelProto) -> list[str]:
    """The operators of a model as onnxruntime runs it."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        onnxruntime.InferenceSession(proto.SerializeToString(), options)
        return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def test_unsigned_is_for_what_is_never_negative() -> None:
    g = Graph([1, 16, 8, 8])
    a = g.op("Relu", g.conv("input", 16, 16), name="a")
    b = g.conv(a, 16, 16, name="b")
    mixed = g.op("Concat", a, b, axis=1, name="mixed")
    c = g.op("Sigmoid", g.conv(b, 16, 16), name="c")
    model = g.model(g.conv(mixed, 32, 16), g.conv(c, 16, 16))
    view = View(quantized(model, unsigned=True).proto)
    zeros = {
        n.input[0]: view.values[n.input[2]].dtype
        for n in view.nodes
        if n.op_type == "QuantizeLinear"
    }
    assert zeros == {
        "input": np.int8, "a": np.int8, "b": np.int8, "mixed": np.int8, "c": np.uint8
    }  # fmt: skip
    signed = View(quantized(model, unsigned=False).proto)
    assert signed.scales["c"] / view.scales["c"] == pytest.approx(255 / 127)


def test_channels_without_weights_and_biases_without_measure() -> None:
    """A channel of zeros has a scale; a bias far above its channel's products fits in int32."""
    g = Graph([1, 16, 8, 8])
    weight = g.rng.standard_normal((16, 16, 1, 1)).astype(np.float32)
    weight[0], weight[1], weight[2] = 0, 1e-12, 1e-42
    bias = np.full(16, 0.5, np.float32)
    bias[1], bias[3] = 1e3, 0
    y = g.op("Conv", "input", g.constant(weight), g.constant(bias), name="layer")
    model = g.model(y)
    proto = quantized(model, correct_bias=False).proto
    (feed,) = feeds(model, 1)
    (exact,), (found,) = ran(model, feed), ran(proto, feed, fused=False)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :3], exact[0, :3], rtol=1e-6)
    view = View(proto)
    scale = view.weight("layer")[1]
    assert (scale > 0).all()
    assert (bias / (scale.astype(float) * view.scales["input"]) <= 2**30 * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("attributes", "bias"),
    [({"beta": 0.5}, (24,)), ({"alpha": 2.0}, (24,)), ({}, (32, 24)), ({}, (1,))],
)
def test_a_bias_that_is_no_vector_of_channels_stays(attributes: Any, bias: Any) -> None:
    g = Graph([32, 16])
    weight = g.constant(g.rng.standard_normal((16, 24)).astype(np.float32))
    added = g.constant(g.rng.standard_normal(bias).astype(np.float32), "added")
    model = g.model(g.op("Gemm", "input", weight, added, name="layer", **attributes))
    view = View(quantized(model).proto)
    assert view.node("layer").input[2] == "added"
    assert view.weight("layer")[0].dtype == np.int8


def test_weights_that_are_not_finite_are_refused() -> None:
    g = Graph([1, 16, 8, 8])
    weight = np.ones((16, 16, 1, 1), np.float32)
    weight[3] = np.nan
    model = g.model(g.op("Conv", "input", g.constant(weight), name="layer"))
    with pytest.raises(QuantizationError, match="'layer' has weights that are not finite"):
        quantized(model)


def test_what_a_branch_reads_is_what_was_rounded() -> None:
    """And weights that two layers share are rounded for each."""
    g = Graph([1, 16, 8, 8])
    weight = g.constant(g.rng.standard_normal((16, 16, 1, 1)).astype(np.float32))
    a = g.op("Relu", g.op("Conv", "input", weight, name="one"), name="a")
    b = g.op("Conv", a, weight, name="two")
    branch = [onnx.helper.make_node("Identity", ["a"], ["taken"], name="inner")]
    shape = [1, 16, 8, 8]
    taken = onnx.helper.make_tensor_value_info("taken", onnx.TensorProto.FLOAT, shape)
    body = onnx.helper.make_graph(branch, "body", [], [taken])
    total = g.op("ReduceMax", "input", keepdims=0)
    positive = g.op("Greater", total, g.constant(np.float32(0)))
    c = g.op("If", positive, then_branch=body, else_branch=body)
    model = g.model(b, c)
    proto = quantized(model).proto
    view = View(proto)
    assert [view.weight(name)[0].shape for name in ("one", "two")] == [(16, 16, 1, 1)] * 2
    (feed,) = feeds(model, 1)
    found = ran(proto, feed, fused=False)[1] / view.scales["a"]
    np.testing.assert_allclose(found, np.rint(found), atol=1e-3)


def test_names_that_are_taken_are_avoided() -> None:
    g = Graph([1, 16, 8, 8])
    a = g.op("Relu", g.conv("input", 16, 16, name="input_quantized"), name="input_dequantized")
    model = g.model(g.conv(a, 16, 16, name="input_scale"))
    proto = quantized(model).proto
    names = [name for node in proto.graph.node for name in node.output]
    assert len(set(names)) == len(names)
    (feed,) = feeds(model, 1)
    assert ran(proto, feed)[0].shape == (1, 16, 8, 8)
