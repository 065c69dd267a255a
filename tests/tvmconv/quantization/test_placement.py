"""The rules of placement, each on a small graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.calibrated import View, quantized
from tests.support.models import Graph, residual_net


def test_a_residual_is_rounded_at_the_shortcut_and_after_the_sum() -> None:
    """Between convolution and sum there is nothing, and the block's result is rounded once."""
    g = Graph([1, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16, name="before"), name="x")
    y = g.op("Relu", g.conv(x, 16, 16, name="first"), name="y")
    total = g.op("Add", g.conv(y, 16, 16, name="second"), x, name="sum")
    out = g.op("Relu", total, name="block")
    found = quantized(g.model(g.conv(out, 16, 16, name="after")))
    view = View(found.proto)
    assert set(view.scales) == {"input", "x", "y", "block"}
    assert view.node("sum").input[0] == "second"
    assert view.rounded("sum", 1) == "x"
    assert view.node("block").input[0] == "sum"
    assert view.rounded("after") == "block"
    reasons = {layer.name: layer.reason for layer in found.report.layers}
    assert "residual" in reasons["second"]
    assert "residual" not in reasons["first"]


def test_a_shortcut_that_is_a_convolution_is_rounded() -> None:
    """The first of two convolutions takes the sum, the other's result is what it adds."""
    g = Graph([1, 16, 8, 8])
    main = g.conv("input", 16, 16, name="main")
    down = g.conv("input", 16, 16, r=1, name="down")
    out = g.op("Relu", g.op("Add", main, down, name="sum"), name="out")
    view = View(quantized(g.model(g.conv(out, 16, 16, name="after"))).proto)
    assert set(view.scales) == {"input", "down", "out"}
    assert view.node("sum").input[0] == "main"
    assert view.rounded("sum", 1) == "down"


def test_a_residual_after_the_activation_is_of_the_kernel_too() -> None:
    """As in YOLO: SiLU, then the sum."""
    g = Graph([1, 16, 8, 8])
    y = g.conv("input", 16, 16, name="conv")
    y = g.op("Mul", y, g.op("Sigmoid", y), name="silu")
    out = g.op("Add", "input", y, name="sum")
    view = View(quantized(g.model(g.conv(out, 16, 16, name="after"))).proto)
    assert set(view.scales) == {"input", "sum"}
    assert view.node("sum").input[1] == "silu"


def test_the_sum_of_a_layer_that_is_kept_reads_what_it_is_given() -> None:
    """A kernel in fp16 adds fp16: its shortcut is rounded for no other's sake."""
    g = Graph([1, 16, 8, 8])
    down = g.conv("input", 16, 16, r=1, name="down")
    main = g.conv("input", 16, 16, name="main")
    out = g.op("Add", down, main, name="sum")
    model = g.model(out)
    assert set(View(quantized(model).proto).scales) == {"input", "main"}
    assert set(View(quantized(model, keep=["down"]).proto).scales) == {"input"}


def test_what_no_layer_reads_is_not_rounded() -> None:
    """The last layer's result, and what only pointwise operators and averages read."""
    g = Graph([1, 16, 8, 8])
    y = g.op("Sigmoid", g.op("Relu", g.conv("input", 16, 16, name="conv")))
    y = g.op("Exp", y)
    average = g.op("Flatten", g.op("GlobalAveragePool", y))
    view = View(quantized(g.model(average, y)).proto)
    assert set(view.scales) == {"input"}


def test_all_inputs_of_a_concat_and_its_result_have_one_scale() -> None:
    """The largest of theirs, though one of them is read by others as well."""
    g = Graph([1, 16, 8, 8])
    a = g.op("Relu", g.conv("input", 16, 16, name="a_conv"), name="a")
    b = g.op("Mul", g.conv("input", 16, 8, name="b_conv"), g.constant(np.float32(9)), name="b")
    both = g.op("Concat", a, b, "input", axis=1, name="both")
    view = View(quantized(g.model(g.conv(both, 40, 16, name="after"), g.conv(a, 16, 8))).proto)
    assert set(view.scales) == {"input", "a", "b", "both"}
    assert len(set(view.scales.values())) == 1
    assert [view.rounded("both", at) for at in range(3)] == ["a", "b", "input"]
    alone = quantized(g.model(a, b))
    apart = View(quantized(g.model(g.conv(a, 16, 8), g.conv(b, 8, 8))).proto).scales
    assert set(View(alone.proto).scales) == {"input"}
    assert view.scales["both"] == pytest.approx(max(apart.values()))


def test_a_concat_that_no_layer_reads_is_not_rounded() -> None:
    g = Graph([1, 16, 8, 8])
    both = g.op("Concat", g.conv("input", 16, 16), g.conv("input", 16, 8), axis=1)
    assert set(View(quantized(g.model(both)).proto).scales) == {"input"}


SHAPE = np.array([1, 16, 64, 1])
PASSING = {
    "MaxPool": lambda g, x: g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], name="op"),
    "AveragePool": lambda g, x: g.op("AveragePool", x, kernel_shape=[2, 2], name="op"),
    "Resize": lambda g, x: g.op(
        "Resize", x, "", g.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest", name="op"
    ),
    "Reshape": lambda g, x: g.op("Reshape", x, g.constant(SHAPE), name="op"),
    "Transpose": lambda g, x: g.op("Transpose", x, perm=[0, 1, 3, 2], name="op"),
    "Slice": lambda g, x: g.op(
        "Slice", x, *(g.constant(np.array([at])) for at in (1, 7, 3)), name="op"
    ),
    "Pad": lambda g, x: g.op(
        "Pad", x, g.constant(np.array([0] * 6 + [2, 2])), mode="reflect", name="op"
    ),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_moves_elements_passes_the_scale_through(kind: str) -> None:
    g = Graph([1, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16, name="before"), name="x")
    y = PASSING[kind](g, x)
    view = View(quantized(g.model(g.conv(y, 16, 16, name="after"))).proto)
    assert set(view.scales) == {"input", "x", "op"}
    assert view.scales["x"] == view.scales["op"] != view.scales["input"]
    assert view.rounded("op") == "x"
    assert view.rounded("after") == "op"


@pytest.mark.parametrize(
    "window", [{"op": "GlobalAveragePool"}, {"op": "AveragePool", "kernel_shape": [8, 8]}]
)
def test_an_average_of_many_pixels_has_a_scale_of_its_own(window: dict) -> None:
    g = Graph([16, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16), name="x")
    attributes = {key: value for key, value in window.items() if key != "op"}
    pooled = g.op("Flatten", g.op(window["op"], x, **attributes, name="pool"), name="flat")
    weight = g.constant(g.rng.standard_normal((16, 16)).astype(np.float32))
    view = View(quantized(g.model(g.op("Gemm", pooled, weight, name="fc"))).proto)
    assert set(view.scales) == {"input", "x", "pool", "flat"}
    assert view.scales["pool"] < view.scales["x"]
    assert view.rounded("fc") == "flat"


def test_a_number_that_is_padded_does_not_pass() -> None:
    g = Graph([1, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16), name="x")
    padding = g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    y = g.op("Pad", x, padding, g.constant(np.float32(-90)), name="pad")
    view = View(quantized(g.model(g.conv(y, 16, 16))).proto)
    assert set(view.scales) == {"input", "pad"}
    assert view.scales["pad"] == pytest.approx(90 / 127)


def test_relu_after_a_concat_passes_what_it_does_not_cut_off() -> None:
    """As in DenseNet: what is below 0 does not widen the scale."""
    g = Graph([1, 16, 8, 8])
    low = g.op("Sub", g.conv("input", 16, 16), g.constant(np.float32(100)), name="low")
    both = g.op("Concat", low, g.conv("input", 16, 16, name="high"), axis=1, name="both")
    view = View(quantized(g.model(g.conv(g.op("Relu", both, name="relu"), 32, 16))).proto)
    assert set(view.scales) == {"input", "low", "high", "both", "relu"}
    assert len(set(view.scales.values()) - {view.scales["input"]}) == 1
    assert view.scales["relu"] < 20 / 127  # not 100 / 127
    averaged = g.op("Relu", g.op("AveragePool", both, kernel_shape=[2, 2]), name="averaged")
    view = View(quantized(g.model(g.conv(averaged, 32, 16))).proto)
    assert view.scales["averaged"] > 80 / 127


def test_relu_after_a_sum_of_no_layer_is_rounded_once() -> None:
    g = Graph([1, 16, 8, 8])
    total = g.op("Add", g.op("MaxPool", "input", kernel_shape=[1, 1]), "input", name="sum")
    view = View(quantized(g.model(g.conv(g.op("Relu", total, name="relu"), 16, 16))).proto)
    assert set(view.scales) == {"relu"}


@pytest.mark.parametrize(
    ("group", "decision"), [(1, "int8"), (2, "int8"), (4, "float"), (8, "float"), (16, "int8")]
)
def test_groups_have_eight_channels_or_one(group: int, decision: str) -> None:
    g = Graph([1, 16, 8, 8])
    found = quantized(g.model(g.conv("input", 16, 16, group=group, name="conv")))
    (layer,) = found.report.layers
    assert layer.decision == decision
    assert layer.reason.startswith(f"reads {16 // group} channels a group") == (decision == "float")
    assert bool(View(found.proto).scales) == (decision == "int8")


def test_what_is_kept_reads_and_writes_floats() -> None:
    g = Graph([1, 16, 8, 8])
    a = g.op("Relu", g.conv("input", 16, 16, name="first"), name="a")
    b = g.op("Relu", g.conv(a, 16, 16, name="second"), name="b")
    model = g.model(g.conv(b, 16, 16, name="third"))
    found = quantized(model, keep=["second"])
    view = View(found.proto)
    assert set(view.scales) == {"input", "b"}
    assert view.node("second").input[0] == "a"
    assert view.node("second").input[1] in view.values
    assert [layer.decision for layer in found.report.layers] == ["int8", "float", "int8"]
    assert found.report.layers[1].reason == "kept, as asked for"


def test_a_product_with_a_vector_stays_in_floats() -> None:
    """Squeeze and excite at batch 1; its matrix is read in int8 where that saves something."""
    g = Graph([1, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16, name="conv"), name="x")
    gate = g.op("GlobalAveragePool", x)
    gate = g.op("Relu", g.conv(gate, 16, 8, r=1, name="squeeze"))
    gate = g.op("Sigmoid", g.conv(gate, 8, 16, r=1, name="excite"))
    y = g.op("Mul", x, gate, name="scaled")
    found = quantized(g.model(g.conv(y, 16, 16, r=1, name="project")))
    decisions = {layer.name: layer.decision for layer in found.report.layers}
    assert decisions == {"conv": "int8", "squeeze": "float", "excite": "float", "project": "int8"}
    assert "product with a vector (1 row)" in found.report.layers[1].reason
    assert set(View(found.proto).scales) == {"input", "scaled"}


def test_a_large_matrix_is_read_in_int8_even_for_one_vector() -> None:
    """It takes as long as its bytes: 4 Mi weights are read in about 2 us as fp16."""
    g = Graph([1, 2048])
    large = g.constant(np.full((2048, 4096), 0.01, np.float32))
    small = g.constant(np.full((2048, 256), 0.01, np.float32))
    found = quantized(
        g.model(g.op("MatMul", "input", large), g.op("MatMul", "input", small)), correct_bias=False
    )
    first, second = found.report.layers
    assert (first.decision, second.decision) == ("int8", "float")
    assert first.saved_us > 1 > second.saved_us


def test_computed_weights_stay_in_floats() -> None:
    g = Graph([1, 16, 16, 16])
    y = g.op("MatMul", "input", g.op("Relu", "input"), name="product")
    left = g.op("MatMul", g.constant(np.eye(16, dtype=np.float32)), y, name="left")
    found = quantized(g.model(g.conv(left, 16, 16)))
    reasons = [layer.reason for layer in found.report.layers]
    assert reasons[:2] == ["its weights are computed", "the matrix is on the left"]
    assert set(View(found.proto).scales) == {"left"}


def test_a_residual_net_is_rounded_once_a_layer() -> None:
    """The pools at both ends, and each layer's result but the last; not the input, since the stem
    reads three channels."""
    found = quantized(residual_net(16, 16, 32))
    view = View(found.proto)
    assert len(view.scales) == 8
    assert [layer.decision for layer in found.report.layers] == ["float", *["int8"] * 5]
    assert sum(node.op_type == "QuantizeLinear" for node in view.nodes) == 8
    assert isinstance(found.proto, onnx.ModelProto)
