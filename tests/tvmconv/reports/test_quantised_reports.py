"""Reports of quantised models: which layers multiply floats, what is converted, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.models import Graph, residual_net
from tests.support.qdq import S8, U8, ZERO, conv, pair, weight
from tests.tvmconv.passes.simplify.test_runtime_scales import dequantised, no_quantisation_before
from tvmconv.passes.plan import choose_operands
from tvmconv.reports.data.build import BuildReport

SHAPE = [2, 16, 9, 8]


def plan_of(model: onnx.ModelProto, **options: Any) -> BuildReport:
    return tvmconv.inspect(model, **{"target": "llvm", **options}).plan


def one(build: Callable[[Graph, str], str], zero: Any = ZERO) -> onnx.ModelProto:
    """A layer between pairs."""
    g = Graph(SHAPE)
    return g.model(pair(g, build(g, pair(g, "input", 0.03, zero)), 0.05))


def transposed(g: Graph, x: str) -> str:
    return g.op("ConvTranspose", x, weight(g, 16, 8, 2, 2, axis=1), strides=[2, 2])


def by_input_channel(g: Graph, x: str) -> str:
    return g.op("Conv", x, weight(g, 16, 16, 3, 3, axis=1))


def scaled_product(g: Graph, x: str) -> str:
    flat = g.op("Flatten", g.op("MaxPool", x, kernel_shape=[9, 8]))
    return g.op("Gemm", flat, weight(g, 10, 16), transB=1, alpha=0.5)


def activations(g: Graph, x: str) -> str:
    y = g.op("Transpose", x, perm=[0, 1, 3, 2])
    return g.op("MatMul", x, pair(g, y, 0.03))


def one_scale_a_channel() -> onnx.ModelProto:
    g = Graph(SHAPE)
    scale = g.constant(np.linspace(0.02, 0.04, 16, dtype="f"))
    parameters = [scale, g.constant(np.zeros(16, S8))]
    x = g.op("QuantizeLinear", "input", *parameters, axis=1)
    return g.model(conv(g, g.op("DequantizeLinear", x, *parameters, axis=1)))


def not_everywhere() -> onnx.ModelProto:
    """One layer without quantised weights, one without a quantised input, one without either."""
    g = Graph(SHAPE)
    x = g.op("Relu", g.conv(pair(g, "input", 0.03), 16, 16, name="weights"))
    x = g.op("Relu", conv(g, x, name="input_of"))
    return g.model(g.conv(x, 16, 16, name="neither"))


#: Name to the model, and what is said of its layers that multiply floats, in order.
CAUSES: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "integers": (lambda: one(conv, U8(7)), []),
    "weights past int8": (
        lambda: one(lambda g, x: conv(g, x, zero=U8(90))),
        ["its weight is -89 to 165 less its zero point, past -128 to 127"],
    ),
    "weights by input": (
        lambda: one(by_input_channel),
        ["its weight has scales along another axis than the output channels"],
    ),
    "alpha": (lambda: one(scaled_product), ["a Gemm with alpha = 0.5"]),
    "transposed": (
        lambda: one(transposed, S8(4)),
        ["a transposed convolution of numbers with a zero point: outputs differ in their taps"],
    ),
    "an input by channel": (one_scale_a_channel, ["its input has a scale for each channel"]),
    "activations": (
        lambda: one(activations),
        ["neither operand is a constant"],
    ),
    "some layers": (
        not_everywhere,
        [
            "its weight is not quantised",
            "its input is not quantised",
            "neither its input nor its weight is quantised",
        ],
    ),
    "found at run time, transposed": (
        lambda: dequantised(transposed=True, pad=0),
        ["a transposed convolution of numbers whose scale is computed at run time"],
    ),
    "found at run time, padded": (
        no_quantisation_before,
        ["padding with a zero point that is computed at run time"],
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_layer_that_multiplies_floats_says_why(name: str) -> None:
    make, causes = CAUSES[name]
    report = plan_of(make())
    assert [conv.floats_because for conv in report.convs if conv.floats_because] == causes
    text = str(report)
    assert ("not in integers" in text) == bool(causes)
    assert all(cause in text for cause in causes)
    assert BuildReport.from_json(report.to_json()) == report


def test_where_no_tensor_core_takes_integers() -> None:
    """A V100 has instructions of fp16 alone."""
    (layer,) = plan_of(one(conv), target="cuda", arch="sm_70").convs
    assert layer.floats_because.startswith("only direct multiplies its integers; ")
    assert "wmma" in layer.floats_because


def test_where_floats_are_estimated_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    was = choose_operands._cost

    def dear(form: Any, *others: Any) -> tuple[bool, float]:
        last, us = was(form, *others)
        return last, us + 100 * form.integers

    monkeypatch.setattr(choose_operands, "_cost", dear)
    (layer,) = plan_of(one(conv)).convs
    assert layer.floats_because.startswith("estimated 10")
    assert layer.floats_because.endswith(" in floats")


def test_models_that_are_not_quantised_say_nothing() -> None:
    report = plan_of(residual_net(1))
    assert not any(conv.floats_because for conv in report.convs)
    assert report.quantising == ()
    assert "not in integers" not in str(report)


# --- what is converted -----------------------------------------------------------------------
def told(report: BuildReport) -> list[tuple[str, str]]:
    return [(kernel.conversion, kernel.cause) for kernel in report.quantising]


IN = ("float32 -> int8", "input 'input' is fed as float32")
OUT = ("int8 -> float32", "an output of the network is real numbers")


def test_only_the_ends_are_converted() -> None:
    g = Graph(SHAPE)
    x = conv(g, pair(g, "input", 0.03), strides=[1, 2])
    # By itself it would be as fast in floats on an H200, but for the kernel that converts them.
    model = g.model(pair(g, conv(g, pair(g, x, 0.03), r=1), 0.04))
    for options in ({}, {"target": "cuda", "arch": "sm_90a"}):
        report = plan_of(model, **options)
        assert told(report) == [IN, OUT]
        assert all(kernel.us > 0 for kernel in report.quantising)
    fed = plan_of(model, io_dtype="int8", io_layout="NHWC")
    assert told(fed) == [OUT]
    assert OUT[1] in str(fed)
    assert IN[1] in str(tvmconv.inspect(model, target="llvm"))


def test_what_computes_in_floats_between() -> None:
    g = Graph(SHAPE)
    x = pair(g, conv(g, pair(g, "input", 0.03)), 0.03)
    x = g.op("Softmax", x, axis=1, name="soft")
    report = plan_of(g.model(pair(g, conv(g, pair(g, x, 0.01)), 0.05)))
    # It quantises what it gives in the same kernel.
    assert told(report) == [IN, ("int8 -> float32", "'soft' computes in floats"), OUT]


def test_a_convolution_of_floats_and_a_zero_point_in_the_padding() -> None:
    report = plan_of(one(lambda g, x: conv(g, x, zero=U8(90), name="past")))
    assert told(report)[0] == ("float32 -> int8 -> float16", "'past' multiplies floats")
    g = Graph(SHAPE)
    x = pair(g, "input", 0.03, U8(99))
    model = g.model(pair(g, g.op("Add", conv(g, x), x), 0.05))
    padded = ("uint8, padded", "padding with a zero point other than 0")
    assert padded in told(plan_of(model))


def test_a_residual_after_an_activation_has_no_zero_point_in_the_kernel() -> None:
    g = Graph(SHAPE)
    x = pair(g, "input", 0.03, S8(9))
    y = g.op("Relu", conv(g, x, name="sum"))
    report = plan_of(g.model(pair(g, g.op("Add", y, x), 0.05)))
    assert ("int8 -> float16", "'sum' adds floats") in told(report)
