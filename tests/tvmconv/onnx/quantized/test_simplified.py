"""What `widen` and `simplify` leave of pairs: all, where they are, with the same results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.quantized import FLOAT, INT8, Array, Builder, counts, feeds, in_qdq, off, run
from tvmconv.onnx import frontend
from tvmconv.onnx import model as onnx_model

FLOAT16 = onnx.TensorProto.FLOAT16


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    fixed = onnx_model.fix_shapes(in_qdq(model))
    onnx_model.name_nodes(fixed)
    return frontend.simplify(frontend.widen(fixed))


def through(b: Builder, x: str, scale: float = 0.03, zero: int = 9) -> str:
    """A pair."""
    params = b.const(scale), b.const(zero, "int8")
    return b.op("DequantizeLinear", b.op("QuantizeLinear", x, *params), *params)


def weights(b: Builder, *shape: int) -> str:
    """int8 weights behind a DequantizeLinear, a scale for each output channel."""
    numbers = b.const(b.rng.integers(-127, 128, shape), "int8")
    scale = b.const(np.linspace(0.005, 0.01, shape[0]))
    return b.op("DequantizeLinear", numbers, scale, b.const(np.zeros(shape[0]), "int8"), axis=0)


def float_weights() -> tuple[Builder, str]:
    b = Builder()
    x = through(b, b.input("x", FLOAT, [1, 8, 6, 6]))
    w, bias = b.const(b.rng.standard_normal((8, 8, 3, 3))), b.const(b.rng.standard_normal(8))
    return b, through(b, b.op("Conv", x, w, bias), 0.2)


def float_bias() -> tuple[Builder, str]:
    b = Builder()
    x = through(b, b.input("x", FLOAT, [1, 8, 6, 6]))
    bias = b.const(b.rng.standard_normal(8))
    return b, through(b, b.op("Conv", x, weights(b, 8, 8, 3, 3), bias), 0.2)


def two_scales() -> tuple[Builder, str]:
    b = Builder()
    x = through(b, through(b, b.input("x", FLOAT, [2, 8]), 0.03, 9), 0.011, -5)
    return b, b.op("Sigmoid", x)


def moved() -> tuple[Builder, str]:
    b = Builder()
    x = through(b, b.input("x", FLOAT, [1, 4, 6, 6]))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Transpose", x, perm=[0, 2, 3, 1])
    return b, b.op("Sigmoid", b.op("Reshape", x, b.const([1, -1], "int64")))


def pair_behind() -> tuple[Builder, str]:
    b = Builder()
    x = b.op("Sigmoid", b.input("x", FLOAT, [1, 4, 6, 6]))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    return b, through(b, b.op("Reshape", x, b.const([1, -1], "int64")))


def batch_norm() -> tuple[Builder, str]:
    b = Builder()
    x = through(b, b.input("x", FLOAT, [1, 8, 6, 6]))
    y = b.op("Conv", x, weights(b, 8, 8, 3, 3))
    stats = [b.const(b.rng.uniform(0.5, 2, 8)) for _ in range(4)]
    y = b.op("Mul", b.op("BatchNormalization", y, *stats), b.const(np.full((8, 1, 1), 1.5)))
    return b, through(b, b.op("Add", y, b.const(np.full((8, 1, 1), 0.3))), 0.2)


def several_readers() -> tuple[Builder, str]:
    b = Builder()
    x = through(b, b.input("x", FLOAT, [1, 8, 6, 6]))
    w = weights(b, 8, 8, 1, 1)
    first = b.op("Conv", x, w)
    return b, b.op("Add", b.op("Conv", b.op("Relu", first), w), b.op("Add", first, x))


def small_weights() -> tuple[Builder, str]:
    b = Builder()
    x = through(b, b.input("x", FLOAT, [4, 6]))
    y = b.op("Gemm", x, weights(b, 3, 6), b.const(np.ones(3)), transB=1)
    y = b.op("MatMul", y, b.op("Transpose", weights(b, 5, 3), perm=[1, 0]))
    return b, b.op("Add", y, weights(b, 1, 5))


MODELS: dict[str, Callable[[], tuple[Builder, str]]] = {
    "float weights": float_weights,
    "float bias": float_bias,
    "two scales": two_scales,
    "before operators that move": moved,
    "behind operators that move": pair_behind,
    "batch norm": batch_norm,
    "several readers": several_readers,
    "products": small_weights,
}


@pytest.mark.parametrize("made", MODELS.values(), ids=MODELS)
def test_pairs_stay_where_they_are(made: Callable[[], tuple[Builder, str]]) -> None:
    b, y = made()
    model = b.model((y, FLOAT))
    pairs, simple = in_qdq(model), simplified(model)
    fed = feeds(model)
    assert off(model, simple, fed) == 0
    for operator in ("QuantizeLinear", "DequantizeLinear", "Conv", "MatMul", "Gemm"):
        names = [
            sorted(node.name for node in one.graph.node if node.op_type == operator)
            for one in (pairs, simple)
        ]
        assert names[0] == names[1]
    assert _neighbours(simple) == _neighbours(pairs)


def _neighbours(model: onnx.ModelProto) -> set[tuple[str, str, str]]:
    """By pair node: the operator before it and the one behind it, without constants' makers."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = set()
    for node in model.graph.node:
        for name in node.input:
            maker = makers.get(name)
            if maker is not None and "izeLinear" in maker.op_type + node.op_type:
                found.add((maker.op_type, maker.name, node.op_type))
    return found


def test_weights_stay_int8() -> None:
    b, y = small_weights()
    simple = simplified(b.model((y, FLOAT)))
    kinds = {one.data_type for one in simple.graph.initializer if len(one.dims) > 1}
    assert kinds == {INT8}


@pytest.mark.parametrize("opset", [19, 21, 23])
def test_a_model_of_fp16_is_widened_with_its_scales(opset: int) -> None:
    b = Builder(opset)
    x = b.input("x", FLOAT16, [1, 8, 6, 6])
    scale, zero = b.const(0.03, "float16"), b.const(9, "int8")
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero)
    numbers = b.const(b.rng.integers(-127, 128, (8, 8, 1, 1)), "int8")
    w = b.op("DequantizeLinear", numbers, b.const(0.01, "float16"), b.const(0, "int8"))
    model = b.model((b.op("Conv", x, w), FLOAT16))
    simple = simplified(model)
    # Sums in fp32, rounded once; onnxruntime's of fp16 are rounded more often.
    fed = feeds(model)
    s, sw = np.float32(np.float16(0.03)), np.float32(np.float16(0.01))
    whole = np.clip(np.rint(fed["x"].astype("f") / s) + 9, -128, 127) - 9
    sums = np.einsum("kc,nchw->nkhw", _constant(model, "c2")[:, :, 0, 0].astype(int), whole)
    np.testing.assert_allclose(
        next(iter(run(simple, fed).values())), (sums * s * sw).astype("float16"), rtol=2**-10
    )
    scales = {
        numpy_helper.to_array(one).dtype
        for one in simple.graph.initializer
        if one.name in {node.input[1] for node in simple.graph.node if len(node.input) == 3}
    }
    assert scales == {np.dtype("float32")}
    assert counts(simple)["Cast"] == 2  # of the input and of the output
    assert _constant(simple, "c3") == sw


def _constant(model: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(x for x in model.graph.initializer if x.name == name))


@pytest.mark.parametrize("attribute", ["output_dtype", "to"])
def test_a_cast_to_fp16_becomes_one_to_fp32(attribute: str) -> None:
    b = Builder(23)
    x = b.input("x", INT8, [2, 3])
    given = {attribute: FLOAT16} if attribute == "output_dtype" else {}
    y = b.op("DequantizeLinear", x, b.const(0.02), **given)
    y = y if given else b.op("Cast", y, to=FLOAT16)
    wide = frontend.widen(onnx_model.fix_shapes(in_qdq(b.wrong((y, FLOAT16, [2, 3])))))
    casts = [node for node in wide.graph.node if node.op_type == "Cast"]
    assert [node.attribute[0].i for node in casts] == [FLOAT, FLOAT16]
