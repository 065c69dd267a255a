"""Fed 8-bit numbers: those of a quantised model, or a camera's bytes, for the model to scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.support import quantized
from tests.support.models import Array, Graph, residual_net
from tests.support.qdq import S8, U8, conv, pair
from tests.support.shell import Command
from tests.support.thinned import thinned
from tvmconv.errors import ModelError, QuantizationError
from tvmconv.runtime.feeds import random_feeds
from tvmconv.runtime.io_form import feeds_from_model, feeds_to_model
from tvmconv.specs import TensorSpec

SHAPE = [2, 3, 12, 10]
#: fp16 operands and results of one layer.
BOUND = 1e-3


def quantised(zero: Any, scale: float = 0.0187, batch: int | str = 2) -> onnx.ModelProto:
    g = Graph([batch, *SHAPE[1:]])
    x = conv(g, pair(g, "input", scale, zero), c=3)
    return g.model(pair(g, conv(g, pair(g, x, 0.03, S8(3)), r=1), 0.04, S8(3)))


def preprocessed(g: Graph, x: str = "input", shift: bool = True) -> str:
    """(x / 255 - mean) / std, as a model writes it that is fed pictures as they are."""
    x = g.op("Div", x, g.constant(np.float32(255)))
    if shift:
        x = g.op("Sub", x, g.constant(np.float32([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)))
    return g.op("Div", x, g.constant(np.float32([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)))


def scaled(shift: bool = True, pad: int = 0) -> onnx.ModelProto:
    g = Graph(SHAPE)
    return g.model(g.op("Relu", g.conv(preprocessed(g, shift=shift), 3, 16, pads=[pad] * 4)))


def real(spec: TensorSpec, fed: Array) -> Array:
    """What the numbers of a feed stand for, in the model's layout."""
    array = fed.transpose(0, 3, 1, 2) if spec.layout == "NHWC" else fed
    assert spec.scale is not None
    return (array.astype("f") - np.float32(spec.zero_point)) * np.float32(spec.scale)


def relative(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found.astype("f8") - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(
    ("zero", "layout"), [(S8(0), None), (S8(-5), "NHWC"), (U8(114), "NHWC")], ids=str
)
def test_a_quantised_network_is_fed_its_numbers(zero: Any, layout: str | None) -> None:
    model, dtype = quantised(zero), np.asarray(zero).dtype.name
    exe = tvmconv.build(model, target="llvm", io_dtype=dtype, io_layout=layout)
    (spec,) = exe.inputs
    assert (spec.dtype, spec.zero_point) == (dtype, int(zero))
    assert spec.scale == pytest.approx(0.0187)
    assert exe.outputs[0].dtype == "float32"
    fed = random_feeds(exe.inputs)
    assert (fed["input"].min(), fed["input"].max()) == (np.iinfo(dtype).min, np.iinfo(dtype).max)
    (got,) = exe.run(fed).values()
    (wanted,) = quantized.run(model, {"input": real(spec, fed["input"])}).values()
    off = np.abs(got - (wanted.transpose(0, 2, 3, 1) if layout else wanted)) / 0.04
    assert off.max() < 1.01
    assert (off > 0.5).mean() <= 0.01
    # No kernel quantises.
    fates = [one.fate for one in exe.report.operators if one.operator == "QuantizeLinear"]
    assert fates[0] == "did nothing, removed"
    assert not [k for k in exe.report.kernels if "round" in k.name]
    assert tvmconv.compare(model, exe, fed).relative_l2 < 2e-2


@pytest.mark.parametrize("layout", [None, "NHWC"])
@pytest.mark.parametrize(("shift", "pad"), thinned([(False, 1), (True, 0), (True, 1)], 2))
def test_bytes_for_a_float_network_that_scales_them(
    shift: bool, pad: int, layout: str | None
) -> None:
    model = scaled(shift, pad)
    exe = tvmconv.build(model, target="llvm", io_dtype="uint8", io_layout=layout)
    (spec,) = exe.inputs
    assert (spec.dtype, spec.scale, spec.zero_point) == ("uint8", 1.0, 0)
    fed = random_feeds(exe.inputs)
    (got,) = exe.run(fed).values()
    (wanted,) = quantized.run(model, {"input": real(spec, fed["input"])}).values()
    assert relative(got, wanted.transpose(0, 2, 3, 1) if layout else wanted) < BOUND
    # The scaling is in the weights, unless padding is with zeros that a shift would have moved.
    kernels = [one.name for one in exe.report.kernels]
    assert len(kernels) == (1 if layout else 2)  # the other transposes the output
    assert ("add" in kernels[0]) == (shift and pad > 0)


def test_bytes_for_a_quantised_network_that_scales_them() -> None:
    g = Graph(SHAPE)
    x = conv(g, pair(g, preprocessed(g), 0.0187, S8(-4)), c=3)
    model = g.model(pair(g, x, 0.03, S8(3)))
    exe = tvmconv.build(model, target="llvm", io_dtype="uint8", io_layout="NHWC")
    assert str(exe.inputs[0]) == "input: uint8[2, 12, 10, 3] = real"
    # Scaled and quantised by one kernel.
    kernel, _ = [one.name for one in exe.report.kernels]  # the other dequantises the output
    assert all(step in kernel for step in ("cast", "multiply", "add", "round"))
    fed = random_feeds(exe.inputs)
    (got,) = exe.run(fed).values()
    (wanted,) = quantized.run(model, {"input": real(exe.inputs[0], fed["input"])}).values()
    off = np.abs(got - wanted.transpose(0, 2, 3, 1)) / 0.03
    assert (off > 1.01).mean() <= 0.01  # one step of the input moves an output by some


def test_few_channels_become_floats_in_one_kernel() -> None:
    """Where no kernel of integers takes the first convolution."""
    g = Graph(SHAPE)
    q = pair(g, "input", 0.0187, U8(114))
    model = g.model(pair(g, conv(g, q, c=3, zero=U8(90)), 0.05))  # weights past int8
    exe = tvmconv.build(model, target="llvm", io_dtype="uint8", io_layout="NHWC")
    kernel, _ = [one.name for one in exe.report.kernels]  # the other dequantises the output
    assert "round" not in kernel
    assert exe.report.kernels[0].moved_bytes == 2 * 12 * 10 * 3 * (1 + 2)  # bytes to fp16
    assert tvmconv.compare(model, exe).relative_l2 < 2e-2


@pytest.mark.parametrize("operator", thinned(["grouped", "transposed", "product"], 3))
def test_scaling_is_folded_into_every_kind_of_weight(operator: str) -> None:
    g = Graph([2, 16, 6, 5])
    factor = g.constant(g.rng.uniform(0.01, 0.02, (1, 16, 1, 1)).astype("f"))
    x = g.op("Mul", "input", factor)
    if operator == "grouped":
        x = g.op("Add", x, g.constant(g.rng.standard_normal((1, 16, 1, 1)).astype("f")))
        y = g.conv(x, 16, 32, group=2, pads=[0] * 4)
    elif operator == "transposed":
        weight = g.constant(g.rng.standard_normal((16, 8, 2, 2)).astype("f"))
        y = g.op("ConvTranspose", x, weight, strides=[2, 2])
    else:
        g.inputs[0] = helper.make_tensor_value_info("input", TensorProto.FLOAT, [6, 16])
        g.nodes.clear()
        x = g.op("Mul", "input", g.constant(g.rng.uniform(0.01, 0.02, 16).astype("f")))
        y = g.op("MatMul", x, g.constant(g.rng.standard_normal((16, 24)).astype("f")))
    model = g.model(y)
    exe = tvmconv.build(model, target="llvm", io_dtype="int8")
    assert "add" not in exe.report.kernels[0].name
    report = tvmconv.compare(model, exe)
    assert report.passed(BOUND), str(report)


# --- what is refused -------------------------------------------------------------------------
def by_channel() -> onnx.ModelProto:
    g = Graph(SHAPE)
    parameters = [g.constant(np.full(3, 0.02, "f")), g.constant(np.zeros(3, S8))]
    x = g.op("QuantizeLinear", "input", *parameters, axis=1)
    return g.model(conv(g, g.op("DequantizeLinear", x, *parameters, axis=1), c=3))


def read_twice() -> onnx.ModelProto:
    g = Graph([2, 16, 6, 5])
    return g.model(g.op("Add", conv(g, pair(g, "input", 0.02)), "input"))


def whole_input() -> onnx.ModelProto:
    g = Graph(SHAPE)
    g.inputs[0] = helper.make_tensor_value_info("input", TensorProto.UINT8, SHAPE)
    return g.model(g.conv(g.op("Cast", "input", to=TensorProto.FLOAT), 3, 8))


@pytest.mark.parametrize(
    ("make", "dtype", "error", "said"),
    [
        (lambda: quantised(S8(0)), "uint8", QuantizationError, "it is quantised to int8"),
        (lambda: quantised(U8(0)), "int8", QuantizationError, "it is quantised to uint8"),
        (by_channel, "int8", QuantizationError, "it is quantised by channel"),
        (read_twice, "int8", QuantizationError, "others read its real numbers"),
        (whole_input, "uint8", ModelError, "no input of floating point to feed as uint8"),
    ],
)
def test_what_makes_no_sense_is_refused(
    make: Callable[[], onnx.ModelProto], dtype: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        tvmconv.inspect(make(), target="llvm", io_dtype=dtype)
    assert "Hint" in str(raised.value)


def scaled_to_1(scale: float) -> onnx.ModelProto:
    """x / 255, quantised: by 1 / 255 to what x is."""
    g = Graph(SHAPE)
    x = g.op("Div", "input", g.constant(np.float32(255)))
    x = conv(g, pair(g, x, scale, U8(0)), c=3)
    return g.model(pair(g, x, 0.03, S8(3)))


@pytest.mark.parametrize(
    ("model", "straight"),
    [
        # A camera's 0 to 255, to int8 by a zero point of -128.
        (quantised(S8(-128), scale=1.0), True),
        (scaled_to_1(1 / 255), True),
        (scaled_to_1(1 / 250), False),
    ],
    ids=["a zero point of -128", "1 / 255", "1 / 250"],
)
def test_bytes_that_are_the_numbers_are_read_as_they_are(
    model: onnx.ModelProto, straight: bool
) -> None:
    exe = tvmconv.build(model, target="llvm", io_dtype="uint8", io_layout="NHWC")
    assert (exe.inputs[0].dtype, exe.inputs[0].scale) == ("uint8", 1.0)
    assert any("round" in one.name for one in exe.report.kernels) == (not straight)
    fed = random_feeds(exe.inputs)
    (got,) = exe.run(fed).values()
    (wanted,) = quantized.run(model, {"input": real(exe.inputs[0], fed["input"])}).values()
    off = np.abs(got - wanted.transpose(0, 2, 3, 1)) / 0.03
    assert (off > 1.4).mean() <= 0.01


def test_the_command_line_takes_it(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(quantised(S8(-5)), path)
    options = ("--target", "llvm", "--io-layout", "NHWC", "--io-dtype")
    done = command("compare", path, *options, "int8", "--bound", "2e-2", "--json")
    assert done.code == 0, done.err
    done = command("inspect", path, *options, "uint8")
    assert done.code == 1
    assert "it is quantised to int8" in done.err


# --- specs, files and feeds ------------------------------------------------------------------
def test_files_and_buckets_keep_scale_and_zero_point(tmp_path: Path) -> None:
    model = quantised(S8(-5), batch="n")
    exe = tvmconv.build(model, target="llvm", batch=[1, 2], io_dtype="int8", io_layout="NHWC")
    exe.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    assert loaded.inputs == exe.inputs
    assert str(loaded.inputs[0]) == "input: int8[2, 12, 10, 3] = real / 0.0187 - 5"
    assert loaded.bucket(1).inputs[0].scale == loaded.inputs[0].scale
    assert tvmconv.compare(model, loaded).relative_l2 < 2e-2
    assert tvmconv.bench(loaded.bucket(1), min_seconds=0.01, min_runs=2).compute.median_ms > 0


def test_specs_of_models_say_nothing_of_numbers() -> None:
    exe = tvmconv.build(residual_net(1), target="llvm", io_dtype="float16")
    assert (exe.inputs[0].scale, exe.inputs[0].zero_point) == (None, 0)
    assert str(exe.inputs[0]) == "input: float16[1, 3, 12, 12]"


@pytest.mark.parametrize(("dtype", "zero"), [("int8", -7), ("uint8", 3)])
def test_feeds_are_quantised_as_quantize_linear_does(dtype: str, zero: int) -> None:
    spec = TensorSpec("x", (1, 4, 5, 3), dtype, "NHWC", 0.05, zero)
    model = TensorSpec("x", (1, 3, 4, 5), "float32")
    reals = np.random.default_rng(1).normal(0, 4, (1, 3, 4, 5)).astype("f")
    reals.flat[:3] = 0.025, -0.025, 0.075  # ties
    fed = feeds_from_model([spec], {"x": reals})["x"]
    assert (fed.dtype, fed.shape) == (dtype, spec.shape)
    b = quantized.Builder()
    x = b.input("x", TensorProto.FLOAT, [1, 3, 4, 5])
    q = b.op("QuantizeLinear", x, b.const(0.05), b.const(zero, dtype))
    element = TensorProto.INT8 if dtype == "int8" else TensorProto.UINT8
    (wanted,) = quantized.run(b.model((q, element)), {"x": reals}).values()
    assert np.array_equal(fed.transpose(0, 3, 1, 2), wanted)
    back = feeds_to_model([spec], {"x": fed}, [model])["x"]
    assert back.dtype == np.float32
    assert np.allclose(back, (wanted.astype("f") - zero) * 0.05)
    assert feeds_from_model([spec], {"x": wanted})["x"].tolist() == fed.tolist()
