"""Quantised models in QDQ form: held to onnxruntime, step for step, and what becomes a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import tvmconv
from tests.support.models import Graph, random_feed
from tests.support.qdq import S8, U8, ZERO, conv, pair, weight
from tests.support.thinned import thinned
from tvmconv.runtime.executable import Executable

SHAPE = [2, 16, 9, 8]


def two_convs(first: Any, second: Any, *activation: str, **attributes: Any) -> onnx.ModelProto:
    g = Graph(SHAPE)
    x = conv(g, pair(g, "input", 0.03, first), strides=[1, 2])
    if activation:
        x = g.op(*activation[:1], x, **attributes)
    return g.model(pair(g, conv(g, pair(g, x, 0.03, second), r=1), 0.04, S8(3)))


def residual(shortcut: Any, last: bool = False) -> onnx.ModelProto:
    g = Graph(SHAPE)
    x = pair(g, "input", 0.03, shortcut)
    y = conv(g, x)
    total = g.op("Add", g.op("Relu", y), x) if last else g.op("Relu", g.op("Add", y, x))
    return g.model(pair(g, total, 0.05, U8(0)))


def other(build: Callable[[Graph, str], str], zero: Any = ZERO) -> onnx.ModelProto:
    g = Graph(SHAPE)
    return g.model(pair(g, build(g, pair(g, "input", 0.03, zero)), 0.05))


def transposed(g: Graph, x: str) -> str:
    w = weight(g, 16, 8, 2, 2, axis=1)
    return g.op("ConvTranspose", x, w, strides=[2, 2])


def product(g: Graph, x: str) -> str:
    flat = g.op("Flatten", g.op("MaxPool", x, kernel_shape=[9, 8]))
    return g.op("Gemm", flat, weight(g, 10, 16), transB=1)


#: Name to the model, and how many convolutions read 8-bit numbers, and write them.
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], int, int]] = {
    "symmetric": (lambda: two_convs(S8(0), S8(0)), 2, 2),
    "uint8, from 0": (lambda: two_convs(U8(0), U8(0), "Relu"), 2, 2),
    "zero points and padding": (lambda: two_convs(U8(114), S8(-7)), 2, 2),
    "a bounded activation": (lambda: two_convs(S8(0), U8(3), "HardSwish"), 2, 2),
    "leaky": (lambda: two_convs(S8(0), S8(9), "LeakyRelu", alpha=0.2), 2, 2),
    "residual": (lambda: residual(S8(0)), 1, 1),
    "residual with a zero point": (lambda: residual(U8(99)), 1, 1),
    "residual last": (lambda: residual(S8(0), last=True), 1, 1),
    "residual last, with a zero point": (lambda: residual(S8(5), last=True), 1, 1),
    "uint8 weights": (lambda: other(lambda g, x: conv(g, x, zero=U8(128))), 1, 1),
    "weights past int8": (lambda: other(lambda g, x: conv(g, x, zero=U8(90))), 0, 1),
    "depthwise": (lambda: other(lambda g, x: conv(g, x, group=16), S8(4)), 1, 1),
    "grouped": (lambda: other(lambda g, x: conv(g, x, group=2), U8(4)), 1, 1),
    "transposed": (lambda: other(transposed), 1, 1),
    "transposed, with a zero point": (lambda: other(transposed, S8(4)), 0, 1),
    "product": (lambda: other(product), 1, 1),
}


def expected(model: onnx.ModelProto, feed: dict[str, Any]) -> Any:
    """What onnxruntime computes, each operator by itself."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)[0]


def steps(model: onnx.ModelProto, net: Executable) -> Any:
    """How many steps of its scale each output is off."""
    feed = random_feed(SHAPE)
    (got,) = net.run(feed).values()
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    last = model.graph.node[-1]
    return np.abs(got - expected(model, feed)) / constants[last.input[1]]


@pytest.mark.parametrize("name", thinned(MODELS, 2))
def test_steps_of_onnxruntime(name: str) -> None:
    make, reading, writing = MODELS[name]
    model = make()
    net = tvmconv.build(model, target="llvm")
    off = steps(model, net)
    # One step at most where a product rounded in another order falls on the other side of a tie;
    # more elements where a convolution reads floats, which are rounded to fp16.
    assert off.max() < 1.01
    assert (off > 0.5).mean() <= (0.01 if reading == len(net.report.convs) else 0.05)
    precisions = [
        {json.loads(one)["precision"]["x" if reads else "result"] for one in conv.workloads}
        for conv in net.report.convs
        for reads in (True, False)
    ]
    assert sum(one <= {"int8", "uint8"} for one in precisions[::2]) == reading
    assert sum(one <= {"int8", "uint8"} for one in precisions[1::2]) == writing


def test_nothing_is_left_between_convolutions() -> None:
    net = tvmconv.build(two_convs(U8(0), U8(0), "Relu"), target="llvm")
    # The input is quantised, and the output dequantised.
    assert len(net.report.kernels) == 2, net.report


@pytest.mark.parametrize("scale", [0.03, 0.06], ids=["one scale", "two scales"])
def test_pools_and_concats_of_one_scale_move_numbers(scale: float) -> None:
    """Between convolutions, where nothing is quantised anew."""
    g = Graph(SHAPE)
    x = pair(g, conv(g, pair(g, "input", 0.03)), 0.03)
    y = pair(g, conv(g, x), scale)
    pooled = g.op("MaxPool", g.op("Concat", x, y, axis=1), kernel_shape=[2, 2])
    model = g.model(pair(g, conv(g, pair(g, pooled, 0.03), 32), 0.05))
    net = tvmconv.build(model, target="llvm")
    assert steps(model, net).max() < 1.01
    fates = [one.fate for one in net.report.operators if one.operator == "QuantizeLinear"]
    left = sum(one.startswith(("a kernel of TVM's", "in a kernel of TVM's")) for one in fates)
    # The input alone; with two scales the pool's result as well.
    assert left == (1 if scale == 0.03 else 2), net.report


@pytest.mark.parametrize(
    ("zero", "scale", "bounds", "left"),
    [
        (U8(0), 6 / 255, (0, 6), "bias"),
        (U8(0), 0.05, (0, 6), "bias + clip(0, 6)"),
        (S8(0), 6 / 127, (0, 6), "bias + relu"),
        (S8(0), 0.06, (0, 6), "bias + clip(0, 6)"),
        (S8(-128), 6 / 255, (0, 6), "bias"),
        (S8(-100), 6 / 255, (0, 6), "bias + relu"),
        (S8(0), 6 / 127, (-1, 6), "bias + clip(-1, 6)"),
    ],
)
def test_bounds_that_saturation_keeps_are_dropped(
    zero: Any, scale: float, bounds: tuple[float, float], left: str
) -> None:
    g = Graph(SHAPE)
    constants = [g.constant(np.float32(bound)) for bound in bounds]
    y = g.op("Clip", conv(g, pair(g, "input", 0.03)), *constants)
    model = g.model(pair(g, y, scale, zero))
    net = tvmconv.build(model, target="llvm")
    assert steps(model, net).max() < 1.01
    assert net.report.convs[0].epilogue == left


def test_a_tensor_that_others_read_stays_float() -> None:
    g = Graph(SHAPE)
    y = conv(g, pair(g, "input", 0.03))
    model = g.model(g.op("Add", pair(g, y, 0.05), y))
    net = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, net).relative_l2 < 5e-3
