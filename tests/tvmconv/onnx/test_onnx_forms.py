"""Old opsets, new ones, functions, dtypes, and the operators that are lowered our own way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.support.checks import refused
from tests.support.models import Array, Graph
from tvmconv import errors
from tvmconv.onnx import forms as onnx_forms
from tvmconv.onnx import model as onnx_model

RNG = np.random.default_rng(0)


def run(model: onnx.ModelProto, x: Array) -> Any:
    exe = tvmconv.build(model, target="llvm")
    return list(exe.run({"input": x}).values())


# --- opsets and functions ----------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 3, 4, 3)])
def test_slopes_by_channel_before_opset_7(shape: tuple[int, ...]) -> None:
    slopes, x = RNG.random(3, np.float32), RNG.standard_normal(shape).astype("f")
    g = Graph(shape)
    (y,) = run(g.model(g.op("PRelu", "input", g.constant(slopes)), opset=6), x)
    by_channel = slopes.reshape(3, *[1] * (len(shape) - 2))
    np.testing.assert_allclose(y, np.where(x < 0, x * by_channel, x), rtol=1e-6)


def test_broadcasting_by_axis_before_opset_7() -> None:
    bias, x = RNG.random(3, np.float32), RNG.standard_normal((2, 3, 3)).astype("f")
    g = Graph(x.shape)
    (y,) = run(g.model(g.op("Add", "input", g.constant(bias), broadcast=1, axis=1), opset=6), x)
    np.testing.assert_allclose(y, x + bias[:, None], rtol=1e-6)


def test_a_batch_norm_folded_while_initializers_are_inputs() -> None:
    g = Graph([1, 4, 5, 5])
    x = g.conv("input", 4, 8)
    values = [g.constant(RNG.random(8, np.float32) + 0.5) for _ in range(4)]
    model = g.model(g.op("BatchNormalization", x, *values), opset=8)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)
    exe = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, exe).relative_l2 <= 5e-3


def test_an_opset_that_onnxruntime_does_not_know_yet() -> None:
    g = Graph([2, 3])
    x = RNG.standard_normal((2, 3)).astype("f")
    model = g.model(g.op("Relu", "input"), opset=onnx.defs.onnx_opset_version())
    model.ir_version = onnx.IR_VERSION
    form = onnx_forms.one_form(model)
    assert onnx_model.opset(form) <= onnx_forms.OPSETS[1]
    assert form.ir_version <= onnx_forms.IR_VERSION
    np.testing.assert_array_equal(run(model, x)[0], np.maximum(x, 0))


def test_a_function_of_the_model() -> None:
    g = Graph([2, 3])
    x = RNG.standard_normal((2, 3)).astype("f")
    model = g.model(g.op("Twice", "input", domain="own"))
    twice = helper.make_node("Add", ["a", "a"], ["b"])
    standard = helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [twice], [standard]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("twice_0", 1, [2, 3]))
    np.testing.assert_array_equal(run(model, x)[0], 2 * x)


def test_default_attributes_of_what_is_written_out() -> None:
    x = RNG.standard_normal((2, 3, 4, 4)).astype("f")
    g = Graph(x.shape)
    (y,) = run(g.model(g.op("MeanVarianceNormalization", "input")), x)
    axes = (0, 2, 3)
    want = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_the_statistics_of_a_layer_normalization() -> None:
    x = RNG.standard_normal((2, 3, 4)).astype("f")
    g = Graph(x.shape)
    y = g.op("LayerNormalization", "input", g.constant(np.ones(4, "f")))
    g.nodes[-1].output.append("mean")
    np.testing.assert_allclose(run(g.model(y, "mean"), x)[1], x.mean(-1, keepdims=True), atol=1e-6)


# --- what is refused ---------------------------------------------------------------------------
def test_sequences_are_refused_by_name() -> None:
    g = Graph([2, 3])
    model = g.model(g.op("SequenceConstruct", "input"))
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2, 3]))
    model.graph.output[0].type.CopyFrom(kind)
    refused(model, "'sequenceconstruct_0' is no tensor")


def test_dtypes_are_refused_by_name() -> None:
    g = Graph([2, 3])
    x = g.op("Cast", "input", to=TensorProto.BFLOAT16)
    refused(g.model(g.op("Cast", x, to=TensorProto.FLOAT)), "tensors of bfloat16 x1")
    g = Graph([1, 4, 5, 5], dtype="float64")
    refused(g.model(g.conv("input", 4, 8)), "Conv (not in onnxruntime for these dtypes)")


@pytest.mark.parametrize("operator", ["Reshape", "Expand", "Tile"])
def test_shapes_that_are_computed_are_refused(operator: str) -> None:
    g = Graph([2, 3])
    sizes = g.op("Cast", g.op("ReduceMax", "input", axes=[1], keepdims=0), to=TensorProto.INT64)
    model = g.model(g.op(operator, "input", sizes))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(model.graph.output[0].name, 1, [None, None])
    )
    refused(model, f"{operator} (its input 1 is no constant) x1")
    missing = tvmconv.inspect(model, target="llvm").unsupported
    assert missing == {f"{operator} (its input 1 is no constant)": 1}


@pytest.mark.parametrize("opset", [12, 17])
def test_dropout_in_training_mode_is_refused(opset: int) -> None:
    for training in (True, False):
        g = Graph([2, 3])
        more = [g.constant(np.float32(0.5)), g.constant(np.array(training))]
        model = g.model(g.op("Dropout", "input", *more), opset=opset)
        if training:
            refused(model, "Dropout (in training mode) x1")
        else:
            x = RNG.standard_normal((2, 3)).astype("f")
            np.testing.assert_array_equal(run(model, x)[0], x)


@pytest.mark.parametrize("operator", ["BatchNormalization", "Dropout"])
def test_training_mode_before_opset_7_is_refused(operator: str) -> None:
    for said in ({}, {"is_test": 0}, {"is_test": 1}):
        g = Graph([2, 3, 4, 4])
        count = 4 if operator == "BatchNormalization" else 0
        values = [g.constant(np.full(3, value, "f")) for value in range(1, 1 + count)]
        model = g.model(g.op(operator, "input", *values, **said), opset=6)
        if not said.get("is_test"):
            refused(model, f"{operator} (in training mode)")
            continue
        x = RNG.standard_normal((2, 3, 4, 4)).astype("f")
        want = (x - 3) / np.sqrt(4 + 1e-5) + 2 if count else x
        np.testing.assert_allclose(run(model, x)[0], want, rtol=1e-4, atol=1e-6)


def test_tensors_without_elements_are_refused() -> None:
    g = Graph([2, 3])
    x = g.op("Slice", "input", *[g.constant(np.array([one])) for one in (3, 9, 1)])
    refused(g.model(g.op("Relu", x)), "without elements")
    g = Graph([2, 0])
    with pytest.raises(errors.ShapeError) as error:
        tvmconv.build(g.model(g.op("Relu", "input")), target="llvm")
    assert "'input' axis 1 (0)" in error.value.what
    assert "without elements" in error.value.note


@pytest.mark.parametrize("sign", ["detect_negative", "detect_positive"])
def test_infinities_of_one_sign_are_refused(sign: str) -> None:
    g = Graph([2, 3])
    model = g.model(g.op("Cast", g.op("IsInf", "input", **{sign: 0}), to=TensorProto.FLOAT))
    refused(model, "IsInf (of one sign) x1")


# --- operators lowered our own way -------------------------------------------------------------
@pytest.mark.parametrize(("operator", "sign"), [("ReduceMax", -1), ("ReduceMin", 1)])
def test_the_extreme_of_infinities_is_infinite(operator: str, sign: int) -> None:
    x = RNG.standard_normal((3, 4)).astype("f")
    x[1] = sign * np.inf
    x[2, 0] = -sign * np.inf
    g = Graph(x.shape)
    (y,) = run(g.model(g.op(operator, "input", axes=[1], keepdims=0)), x)
    np.testing.assert_array_equal(y, x.max(1) if operator == "ReduceMax" else x.min(1))


def test_softplus_of_large_and_small_numbers() -> None:
    x = np.array([-100, -50, -20, -10, -3, -1e-3, 0, 1e-3, 1, 10, 100], "f")
    g = Graph(x.shape)
    (y,) = run(g.model(g.op("Softplus", "input")), x)
    wide = x.astype("d")
    want = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_powers_of_every_dtype(dtype: str) -> None:
    x = np.array([0, 1, 2, 3, 7], dtype)
    for exponent in (np.int64(3), np.float32(2), np.int32(0)):
        g = Graph(x.shape, dtype=dtype)
        (y,) = run(g.model(g.op("Pow", "input", g.constant(exponent))), x)
        assert y.dtype == x.dtype
        np.testing.assert_allclose(y, (x**exponent).astype(dtype), rtol=1e-6)


@pytest.mark.parametrize("bounds", [(-2, 3), (-2, None), (None, 3)])
def test_clip_of_integers(bounds: tuple[int | None, int | None]) -> None:
    x = np.arange(-5, 6, dtype="int32")
    g = Graph(x.shape, dtype="int32")
    more = ["" if bound is None else g.constant(np.int32(bound)) for bound in bounds]
    (y,) = run(g.model(g.op("Clip", "input", *more)), x)
    np.testing.assert_array_equal(y, np.clip(x, *bounds))


def test_a_slice_by_attributes() -> None:
    x = RNG.standard_normal((3, 4, 5)).astype("f")
    g = Graph(x.shape)
    y = g.op("Slice", "input", axes=[0, 2], starts=[1, -3], ends=[-1, 99])
    np.testing.assert_array_equal(run(g.model(y, opset=9), x)[0], x[1:-1, :, -3:])


def test_the_mask_of_a_dropout_in_inference() -> None:
    x = RNG.standard_normal((2, 3)).astype("f")
    g = Graph(x.shape)
    y = g.op("Dropout", "input")
    g.nodes[-1].output.append("mask")
    model = g.model(y, "mask")
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.BOOL
    same, mask = run(model, x)
    np.testing.assert_array_equal(same, x)
    assert mask.dtype == bool
    assert mask.all()
