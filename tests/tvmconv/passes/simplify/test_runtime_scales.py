"""Scales and zero points that the network computes: exact, and multiplied as integers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support import cuda_text
from tests.support.quantized import FLOAT, INT32, UINT8, Array, Builder, run
from tests.support.thinned import thinned
from tvmconv.runtime.executable import Executable

S8, U8 = np.int8, np.uint8


def quantise(shape: list[int]) -> onnx.ModelProto:
    b = Builder()
    q = b.op("DynamicQuantizeLinear", b.input("x", FLOAT, shape), outputs=3)
    return b.model((q, UINT8), (f"{q}.1", FLOAT), (f"{q}.2", UINT8))


def normal(rng: Any, shape: list[int]) -> Array:
    return np.asarray(rng.standard_normal(shape), "f")


FEEDS: dict[str, Callable[[Any, list[int]], Array]] = {
    "normal": normal,
    "zeros": lambda rng, shape: np.zeros(shape, "f"),
    "positive": lambda rng, shape: normal(rng, shape) ** 2 + 1,
    "negative": lambda rng, shape: -(normal(rng, shape) ** 2) - 3,
    "tiny": lambda rng, shape: normal(rng, shape) * np.float32(1e-30),
}


@pytest.mark.parametrize("shape", [[2, 3, 9, 8], [5, 7], [6]], ids=str)
def test_dynamic_quantisation_is_onnxruntimes(shape: list[int]) -> None:
    model, rng = quantise(shape), np.random.default_rng(0)
    exe = tvmconv.build(model, target="llvm")
    for name, make in FEEDS.items():
        fed = {"x": make(rng, shape)}
        wanted, got = run(model, fed), exe.run(fed)
        numbers, scale, zero = wanted
        assert np.array_equal(got[zero], wanted[zero]), name
        np.testing.assert_allclose(got[scale], wanted[scale], rtol=2e-7, atol=1e-39)
        off = np.abs(got[numbers].astype(int) - wanted[numbers])
        assert off.max() <= 1, name
        assert (off > 0).mean() <= 0.01, name


# --- convolutions and products ----------------------------------------------------------------
def weights(b: Builder, *shape: int) -> Array:
    return b.rng.integers(-128, 128, shape, S8)


def layer(operator: str, shape: list[int], *weight: int, **attributes: Any) -> onnx.ModelProto:
    """As `quantize_dynamic` writes it: whole sums, times both scales, bias, activation."""
    b = Builder()
    q = b.op("DynamicQuantizeLinear", b.input("x", FLOAT, shape), outputs=3)
    w = b.const(weights(b, *weight), "int8")
    sums = b.op(operator, q, w, f"{q}.2", **attributes)
    scale = b.op("Mul", f"{q}.1", b.const(0.0123))
    y = b.op("Mul", b.op("Cast", sums, to=FLOAT), scale)
    k = weight[-1 if len(weight) == 2 else 0]
    bias = b.rng.standard_normal([k] if len(weight) == 2 else [1, k, 1, 1])
    return b.model((b.op("Relu", b.op("Add", y, b.const(bias))), FLOAT))


def dequantised(transposed: bool = False, pad: int = 1) -> onnx.ModelProto:
    """Through a DequantizeLinear, with a scale for each channel of the weight."""
    b = Builder()
    q = b.op("DynamicQuantizeLinear", b.input("x", FLOAT, [2, 16, 6, 7]), outputs=3)
    x = b.op("DequantizeLinear", q, f"{q}.1", f"{q}.2")
    shape, axis = ((16, 8, 3, 3), 1) if transposed else ((8, 16, 3, 3), 0)
    scale = b.const(b.rng.uniform(0.001, 0.01, 8))
    w = b.const(weights(b, *shape), "int8")
    w = b.op("DequantizeLinear", w, scale, b.const(np.zeros(8), "int8"), axis=axis)
    y = b.op("ConvTranspose" if transposed else "Conv", x, w, pads=[pad] * 4)
    return b.model((y, FLOAT))


def no_quantisation_before() -> onnx.ModelProto:
    """Numbers that are pooled after they are quantised, so that padding can't be put before."""
    b = Builder()
    q = b.op("DynamicQuantizeLinear", b.input("x", FLOAT, [2, 16, 6, 8]), outputs=3)
    x = b.op("MaxPool", q, kernel_shape=[2, 2])
    y = b.op("ConvInteger", x, b.const(weights(b, 8, 16, 3, 3), "int8"), f"{q}.2", pads=[1] * 4)
    return b.model((y, INT32))


#: Name to the model, and how many of its layers multiply integers.
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "conv": (lambda: layer("ConvInteger", [2, 16, 6, 7], 24, 16, 3, 3, strides=[1, 2]), 1),
    "padded": (lambda: layer("ConvInteger", [2, 16, 6, 7], 24, 16, 3, 3, pads=[1, 0, 2, 1]), 1),
    "grouped": (lambda: layer("ConvInteger", [2, 32, 6, 7], 16, 16, 3, 3, group=2), 1),
    "depthwise": (
        lambda: layer("ConvInteger", [2, 16, 6, 7], 16, 1, 3, 3, group=16, pads=[1] * 4),
        1,
    ),
    "product": (lambda: layer("MatMulInteger", [5, 32], 32, 24), 1),
    "product of three dimensions": (lambda: layer("MatMulInteger", [2, 5, 32], 32, 24), 1),
    "through DequantizeLinear": (dequantised, 1),
    "transposed": (lambda: dequantised(transposed=True, pad=0), 0),
    "padded after a pool": (no_quantisation_before, 0),
}


def integers(exe: Executable) -> int:
    read = [json.loads(one.workloads[0])["precision"] for one in exe.report.convs]
    return sum(one["x"] == "uint8" for one in read)


@pytest.mark.parametrize("name", thinned(MODELS, 2))
def test_layers_are_onnxruntimes(name: str) -> None:
    make, multiplied = MODELS[name]
    model = make()
    exe = tvmconv.build(model, target="llvm")
    assert integers(exe) == multiplied, exe.report
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    # Integers and their scales; floats of a transposed convolution are rounded to fp16.
    bound = 2e-6 if multiplied else 1e-3
    for kind in ("normal", "negative", "zeros"):
        fed = {"x": FEEDS[kind](np.random.default_rng(2), shape)}
        (wanted,), (got,) = run(model, fed).values(), exe.run(fed).values()
        assert np.isfinite(got).all()
        assert np.abs(got - wanted).max() <= bound * max(np.abs(wanted).max(), 1e-3), kind


def test_sums_past_what_fp32_holds() -> None:
    """255 * 127 * 1152 is more than 2 ** 24; nearly all of it is taken back by the zero point."""
    b = Builder()
    q = b.op("DynamicQuantizeLinear", b.input("x", FLOAT, [1, 128, 5, 5]), outputs=3)
    w = np.full((8, 128, 3, 3), 127, S8)
    w[:, ::2] = 126
    model = b.model((b.op("ConvInteger", q, b.const(w, "int8"), f"{q}.2"), INT32))
    x = np.full((1, 128, 5, 5), 2**-20, "f")
    x[0, 0, 0, 0] = -3
    exe = tvmconv.build(model, target="llvm")
    (wanted,), (got,) = run(model, {"x": x}).values(), exe.run({"x": x}).values()
    assert integers(exe) == 1
    assert np.array_equal(got, wanted)


def test_it_builds_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = cuda_text.without_compiler(monkeypatch)
    exe = tvmconv.build(MODELS["padded"][0](), target="cuda", arch="sm_80")
    assert "__global__" in texts[0]
    # What follows the sums is one kernel.
    after = [one.name for one in exe.report.kernels if "relu" in one.name]
    assert len(after) == 1
    assert {"subtract", "multiply", "add"} <= {
        part.rstrip("0123456789") for part in after[0].split("_")
    }
