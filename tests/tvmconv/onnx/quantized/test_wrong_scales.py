"""Scales, zero points and axes that can't be right, and forms that are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.quantized import (
    FLOAT,
    INT8,
    INT32,
    MICROSOFT,
    UINT8,
    Builder,
    in_qdq,
)
from tvmconv import errors

T = onnx.TensorProto
PER_CHANNEL = [0.1, 0.2, 0.3]
Made = tuple[onnx.ModelProto, str]


def pair(
    scale: Any = 0.1, zero: Any = 0, dtype: str = "int8", opset: int = 17, **more: Any
) -> onnx.ModelProto:
    """A tensor of (2, 3, 4) through a pair."""
    b = Builder(opset)
    x = b.input("x", FLOAT, [2, 3, 4])
    params = [b.const(scale)] + ([] if zero is None else [b.const(zero, dtype)])
    q = b.op("QuantizeLinear", x, *params, name="quantize", **more)
    more.pop("output_dtype", None)
    y = b.op("DequantizeLinear", q, *params, name="dequantize", **more)
    return b.wrong((y, FLOAT, [2, 3, 4]))


def weights(scale: Any, zero: Any = None, element: str = "int8", **more: Any) -> onnx.ModelProto:
    """A convolution of weights (4, 3, 1, 1) behind a DequantizeLinear."""
    b = Builder()
    x = b.input("x", FLOAT, [1, 3, 4, 4])
    w = b.const(b.rng.integers(0, 9, (4, 3, 1, 1)), element)
    params = [b.const(scale)] + ([] if zero is None else [b.const(zero, element)])
    w = b.op("DequantizeLinear", w, *params, name="dequantize", **more)
    return b.wrong((b.op("Conv", x, w, name="conv"), FLOAT, [1, 4, 4, 4]))


def qlinear_conv(scale: float) -> onnx.ModelProto:
    b = Builder()
    b.input("x", UINT8, [1, 3, 4, 4])
    zero = b.const(0, "uint8")
    w = b.const(b.rng.integers(0, 9, (4, 3, 1, 1)), "uint8")
    parts = ["x", b.const(0.1), zero, w, b.const(scale), zero, b.const(0.1), zero]
    return b.wrong((b.op("QLinearConv", *parts, name="conv"), UINT8, [1, 4, 4, 4]))


def stored(number: int) -> onnx.ModelProto:
    """A zero point that was stored as 32 bits, as onnx.helper does it."""
    model = pair(zero=0)
    zero = next(one for one in model.graph.initializer if one.data_type == INT8)
    zero.ClearField("raw_data")
    zero.int32_data[:] = [number]
    return model


WRONG: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "zero": (lambda: pair(0.0), "'quantize' has a scale of 0", "more than 0"),
    "negative": (lambda: pair(-0.5), "'quantize' has a scale of -0.5", "more than 0"),
    "NaN": (lambda: pair(np.nan), "'quantize' has a scale of nan", "finite"),
    "infinite": (lambda: pair(np.inf), "'quantize' has a scale of inf", "finite"),
    "one of a channel": (
        lambda: pair([0.1, 0.0, -1.0], [0, 0, 0]),
        "'quantize' has a scale of 0, -1",
        "at 1, 2 of 3",
    ),
    "of weights": (lambda: weights(0.0), "'dequantize' has a scale of 0", "more than 0"),
    "of a QLinearConv": (lambda: qlinear_conv(-1.0), "has a scale of -1", "more than 0"),
    "a matrix": (lambda: pair([PER_CHANNEL] * 2), "a scale of the shape (2, 3)", "a vector"),
    "no elements": (lambda: pair([], []), "a scale without elements", ""),
    "zero point of int64": (
        lambda: pair(zero=0, dtype="int64"),
        "'quantize' has a zero point of int64",
        "is of uint8",
    ),
    "zero point of float": (
        lambda: pair(zero=0, dtype="float32"),
        "'quantize' has a zero point of float",
        "is of uint8",
    ),
    "zero point of another type": (
        lambda: pair(zero=0, opset=21, output_dtype=UINT8),
        "'quantize' has a zero point of int8",
        "is of uint8",
    ),
    "a bias's zero point": (
        lambda: weights(0.1, 3, "int32"),
        "'dequantize' has a zero point of 3",
        "whose zero point is 0",
    ),
    "zero point too large": (lambda: stored(300), "a zero point of 300", "-128 to 127"),
    "zero point too small": (lambda: stored(-129), "a zero point of -129", "-128 to 127"),
    "zero point is no vector": (
        lambda: pair(PER_CHANNEL, 0),
        "a zero point of the shape (), its scale has (3,)",
        "",
    ),
    "zero point is a vector": (
        lambda: pair(0.1, [0, 0, 0]),
        "a zero point of the shape (3,), its scale has ()",
        "",
    ),
    "axis 3 of 3": (lambda: pair(PER_CHANNEL, [0] * 3, axis=3), "along axis 3", "3 dimensions"),
    "axis -4 of 3": (lambda: pair(PER_CHANNEL, [0] * 3, axis=-4), "along axis -4", "3 dimensions"),
    "axis of weights": (lambda: weights([0.1] * 4, axis=4), "along axis 4", "4 dimensions"),
    "length of an activation": (
        lambda: pair([0.1, 0.2], [0, 0]),
        "2 scales for 3 elements of axis 1",
        "[2, 3, 4]",
    ),
    "length of weights": (
        lambda: weights(PER_CHANNEL, axis=0),
        "3 scales for 4 elements of axis 0",
        "[4, 3, 1, 1]",
    ),
}


@pytest.mark.parametrize(("made", "says", "notes"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("call", [tvmconv.build, tvmconv.inspect], ids=["build", "inspect"])
def test_wrong_scales_are_told(
    made: Callable[[], onnx.ModelProto], says: str, notes: str, call: Any
) -> None:
    with pytest.raises(errors.QuantizationError) as error:
        call(made(), "llvm")
    assert says in error.value.what
    assert notes in error.value.note
    assert error.value.hint


def blocks() -> onnx.ModelProto:
    b = Builder(21)
    x = b.input("x", INT8, [2, 4])
    y = b.op("DequantizeLinear", x, b.const(np.ones((2, 2))), axis=1, block_size=2)
    return b.wrong((y, FLOAT, [2, 4]))


def of_type(element: int, opset: int = 21, domain: str = "") -> onnx.ModelProto:
    """A pair of another element type."""
    b = Builder(opset)
    x = b.input("x", FLOAT, [2, 4])
    b.constants.append(onnx.helper.make_tensor("zero", element, [], [0]))
    scale = b.const(0.1)
    q = b.op("QuantizeLinear", x, scale, "zero", domain=domain)
    y = b.op("DequantizeLinear", q, scale, "zero", domain=domain)
    return b.wrong((y, FLOAT, [2, 4]))


def computed(what: str) -> onnx.ModelProto:
    """A scale or a zero point that the network computes."""
    b = Builder()
    x = b.input("x", FLOAT, [2, 4])
    scale, zero = b.const(0.1), b.const(0, "int8")
    if what == "scale":
        scale = b.op("ReduceMax", x, keepdims=0)
    else:
        zero = b.op("Cast", b.op("ReduceMax", x, keepdims=0), to=INT8)
    return b.wrong((b.op("QuantizeLinear", x, scale, zero), INT8, [2, 4]))


def channels_last() -> onnx.ModelProto:
    b = Builder()
    x = b.input("x", UINT8, [1, 4, 4, 3])
    one, zero = b.const(0.1), b.const(0, "uint8")
    given = {"domain": MICROSOFT, "channels_last": 1}
    y = b.op("QLinearGlobalAveragePool", x, one, zero, one, zero, **given)
    return b.wrong((y, UINT8, [1, 1, 1, 3]))


def computed_conv() -> onnx.ModelProto:
    b = Builder()
    x = b.input("x", UINT8, [1, 3, 4, 4])
    scale = b.input("scale", FLOAT, [])
    zero = b.const(0, "uint8")
    w = b.const(b.rng.integers(0, 9, (4, 3, 1, 1)), "uint8")
    parts = [x, scale, zero, w, b.const(0.1), zero, b.const(0.1), zero]
    return b.wrong((b.op("QLinearConv", *parts), UINT8, [1, 4, 4, 4]))


def rows() -> onnx.ModelProto:
    b = Builder()
    a, w = b.input("a", UINT8, [1, 2, 3]), b.const(np.ones((3, 4)), "int8")
    zeros = b.const(np.zeros((1, 2, 1)), "uint8")
    return b.wrong((b.op("MatMulInteger", a, w, zeros), INT32, [1, 2, 4]))


FORM = "its scales and zero points are no constants, or of a form that is not known"
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "blocks": (blocks, "DequantizeLinear (in blocks) x1"),
    "int4": (lambda: of_type(T.INT4), "QuantizeLinear (to int4) x1"),
    "uint4": (lambda: of_type(T.UINT4), "DequantizeLinear (of uint4) x1"),
    "int16": (lambda: of_type(T.INT16), "QuantizeLinear (to int16) x1"),
    "uint16": (lambda: of_type(T.UINT16), "DequantizeLinear (of uint16) x1"),
    "fp8": (lambda: of_type(T.FLOAT8E4M3FN, 19), "QuantizeLinear (to float8e4m3fn) x1"),
    "onnxruntime's int16": (
        lambda: of_type(T.INT16, 17, MICROSOFT),
        "com.microsoft.QuantizeLinear (to int16) x1",
    ),
    "a computed scale": (lambda: computed("scale"), "(its scale is no constant) x1"),
    "a computed zero point": (lambda: computed("zero"), "(its zero point is no constant) x1"),
    "a QLinearConv's computed scale": (computed_conv, f"QLinearConv ({FORM}) x1"),
    "zero points of a matrix": (rows, f"MatMulInteger ({FORM}) x1"),
    "channels last": (
        channels_last,
        "com.microsoft.QLinearGlobalAveragePool (with channels_last) x1",
    ),
}


@pytest.mark.parametrize(("made", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_built_is_refused_by_name(
    made: Callable[[], onnx.ModelProto], says: str
) -> None:
    model = made()
    with pytest.raises(errors.UnsupportedOperatorError) as error:
        tvmconv.build(model, "llvm")
    assert says in error.value.what
    report = tvmconv.inspect(model, "llvm")
    assert says.removesuffix(" x1") in " ".join(report.unsupported)


def test_what_dynamicquantizelinear_finds_is_taken() -> None:
    b = Builder()
    x = b.input("x", FLOAT, [2, 4])
    q = b.op("DynamicQuantizeLinear", x, outputs=3)
    model = b.model((b.op("DequantizeLinear", q, f"{q}.1", f"{q}.2"), FLOAT))
    assert in_qdq(model).graph.node[1].input[1:] == [f"{q}.1", f"{q}.2"]
    assert not tvmconv.inspect(model, "llvm").unsupported


def test_a_model_that_cannot_be_brought_to_opset_13(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fails)
    with pytest.raises(errors.ModelError) as error:
        tvmconv.build(pair(zero=None, opset=10), "llvm")
    assert "of opset 10, which can't be brought to 13" in error.value.what
    assert error.value.note == "no adapter"
