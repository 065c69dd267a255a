"""Whole networks, built for llvm and run, against onnxruntime; and what their reports say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.models import Array, Graph, random_feed, residual_net
from tvmconv.passes.plan.chooser import LayoutName
from tvmconv.reports.data.build import BuildReport

#: Relative l2 error that fp16 operands and activations may cost a few layers: each rounds by at
#: most 2**-11, and the errors of layers add up.
BOUND = 2e-3


def check(
    model: onnx.ModelProto, shape: tuple[int, ...], bound: float = BOUND, **options: Any
) -> BuildReport:
    """Builds the model for llvm, compares it with onnxruntime, gives the report."""
    exe = tvmconv.build(model, target="llvm", shapes={"input": shape}, **options)
    report = tvmconv.compare(model, exe, random_feed(shape))
    assert report.passed(bound), str(report)
    return exe.report


@pytest.mark.parametrize(
    ("batch", "layout"), [(1, None), (17, None), (16, None), (16, "packed"), (3, "packed")]
)
def test_residual_net(batch: int, layout: LayoutName | None) -> None:
    report = check(residual_net("batch"), (batch, 3, 12, 12), layout=layout)
    assert report.tensorized == len(report.convolutions) == 5
    assert len(report.convs) == 6, "the classifier is a matrix product"
    packed = {conv.family for conv in report.convs if conv.out_layout == "NHWC16n16c"}
    assert packed == ({"wmma_packed"} if batch == 16 and layout else set())
    assert report.peak_activation_bytes > 0
    assert report.weight_bytes > 0


def test_report_tells_what_became_of_every_operator() -> None:
    model = residual_net(1)
    report = check(model, (1, 3, 12, 12))
    assert [one.name for one in report.operators] == [node.name for node in model.graph.node]
    fates = {one.name: one.fate for one in report.operators}
    by_operator = {one.operator: one.fate for one in report.operators}
    assert by_operator["Conv"] == "wmma_nhwc kernel"
    assert by_operator["MaxPool"] == "a kernel of TVM's"
    adds = [fate for name, fate in fates.items() if name.startswith("add")]
    assert all(fate.startswith("in the kernel of a convolution: conv") for fate in adds)
    text = str(report)
    assert "5 of 5 convolutions and 1 of 1 matrix products on tensor cores (emulated)" in text
    assert BuildReport.from_json(report.to_json()) == report


def test_batch_norm_is_folded() -> None:
    g = Graph([1, 8, 9, 9])
    x = g.conv("input", 8, 12, bias=False)
    scale, shift, mean = (g.constant(g.rng.standard_normal(12).astype("f")) for _ in range(3))
    variance = g.constant(g.rng.uniform(0.5, 2, 12).astype("f"))
    x = g.op("Relu", g.op("BatchNormalization", x, scale, shift, mean, variance))
    report = check(g.model(x), (1, 8, 9, 9))
    fates = {one.operator: one.fate for one in report.operators}
    assert fates["BatchNormalization"].startswith("folded into the weights of a convolution: conv")
    assert report.convs[0].epilogue == "bias + relu"


def test_both_sides_of_a_residual_are_convolutions() -> None:
    g = Graph([2, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16))
    y = g.op("Add", g.conv(x, 16, 24), g.conv(x, 16, 24, 1))
    report = check(g.model(g.op("Relu", y)), (2, 16, 8, 8))
    assert sorted(conv.epilogue for conv in report.convs) == [
        "bias",
        "bias + relu",
        "bias + residual + relu",
    ]


def test_sum_that_is_read_twice_is_not_swallowed() -> None:
    """As between MobileNetV2's linear bottlenecks: the residual is itself a bare convolution."""
    g = Graph([1, 16, 8, 8])
    x = g.conv("input", 16, 16, 1)
    y = g.op("Relu", g.conv(x, 16, 32, 1))
    z = g.op("Add", x, g.conv(y, 32, 16, 1))
    report = check(g.model(z, x), (1, 16, 8, 8))
    assert report.convs[-1].epilogue == "bias + residual"


def test_residual_that_is_the_convolution_itself() -> None:
    g = Graph([1, 8, 8, 8])
    x = g.conv("input", 8, 8)
    report = check(g.model(g.op("Relu", g.op("Add", x, x))), (1, 8, 8, 8))
    assert report.convs[0].epilogue == "bias + relu * 2"


def test_residual_that_is_the_convolution_s_input() -> None:
    g = Graph([1, 8, 8, 8])
    x = g.op("Relu", "input")
    report = check(g.model(g.op("Add", g.conv(x, 8, 8), x)), (1, 8, 8, 8))
    assert report.convs[0].epilogue == "bias + residual"


OTHER_CONVOLUTIONS = {
    "1-D": lambda g: (g.op("Conv", "input", g.constant(_normal(g, 4, 8, 3))), (1, 8, 9)),
    "3-D": lambda g: (
        g.op("Conv", "input", g.constant(_normal(g, 4, 8, 3, 3, 3))),
        (1, 8, 5, 6, 7),
    ),
    "transposed": lambda g: (
        g.op(
            "ConvTranspose",
            g.conv("input", 8, 8),
            g.constant(_normal(g, 8, 4, 3, 3)),
            strides=[2, 2],
        ),
        (1, 8, 9, 9),
    ),
}


def _normal(g: Graph, *shape: int) -> Array:
    return (g.rng.standard_normal(shape) / 8).astype("f")


@pytest.mark.parametrize("name", OTHER_CONVOLUTIONS)
def test_convolutions_of_other_kinds_are_tensorized(name: str) -> None:
    shape = OTHER_CONVOLUTIONS[name](Graph([1]))[1]
    g = Graph(shape)
    y, _ = OTHER_CONVOLUTIONS[name](g)
    report = check(g.model(y), shape)
    assert report.tensorized == len(report.convolutions)
    fates = [one.fate for one in report.operators if one.name == y]
    assert fates == ["wmma_nhwc kernel"]


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_computed_weights_are_left_to_tvm(operator: str) -> None:
    g = Graph([1, 8, 9, 9])
    weight = g.op("Mul", g.op("ReduceMean", "input"), g.constant(_normal(g, 8, 8, 3, 3)))
    y = g.op(operator, "input", weight)
    report = check(g.model(y), (1, 8, 9, 9))
    (fate,) = (one.fate for one in report.operators if one.name == y)
    assert "a kernel of TVM's" in fate
    assert "weights are computed" in report.convs[0].why_family


def test_not_a_number_is_not_hidden() -> None:
    """An activation must not turn a NaN, or what fp16 overflows to, into a plausible zero."""
    g = Graph([1, 8, 9, 7])
    x = g.op("Relu", g.conv("input", 8, 16))
    y = g.op("Clip", g.conv("input", 8, 16), g.constant(np.float32(0)), g.constant(np.float32(6)))
    model, feeds = g.model(x, y), random_feed((1, 8, 9, 7))
    exe = tvmconv.build(model, target="llvm")
    feeds["input"][0, 0, 4, 3] = np.nan
    report = tvmconv.compare(model, exe, feeds)
    assert [one.finite for one in report.outputs] == [False, False]
    relu, clip = exe.run(feeds).values()
    assert np.isnan(relu).sum() == np.isnan(clip).sum() == 16 * 9


def test_equal_filters_keep_their_names() -> None:
    g = Graph([1, 8, 8, 8])
    weight = g.constant(_normal(g, 8, 8, 3, 3))
    left = g.op("Conv", "input", weight, pads=[1, 1, 1, 1], name="one")
    right = g.op("Conv", g.op("Tanh", "input"), weight, pads=[1, 1, 1, 1], name="two")
    y = g.op("Concat", g.op("Sigmoid", right), g.op("Relu", left), axis=1)
    report = check(g.model(y), (1, 8, 8, 8))
    assert {conv.name: conv.epilogue for conv in report.convs} == {"one": "relu", "two": "sigmoid"}


def test_convolution_with_an_empty_bias_name() -> None:
    g = Graph([1, 8, 8, 8])
    x = g.op("Conv", "input", g.constant(_normal(g, 8, 8, 3, 3)), "")
    y = g.op("Add", x, g.constant(_normal(g, 1, 8, 1, 1)))
    assert check(g.model(y), (1, 8, 8, 8)).tensorized == 1


def test_every_convolution_is_in_the_report() -> None:
    g = Graph([1, 8, 5, 6, 7])
    report = check(
        g.model(g.op("Conv", "input", g.constant(_normal(g, 4, 8, 3, 3, 3)))), (1, 8, 5, 6, 7)
    )
    assert (report.tensorized, len(report.convs)) == (1, 1)
    assert "1 of 1 convolutions on tensor cores" in str(report)
    assert report.convs[0].useful_macs == 4 * 3 * 4 * 5 * 8 * 27


def test_integer_image() -> None:
    g = Graph([1, 8, 9, 9], dtype="uint8")
    x = g.op("Cast", "input", to=onnx.TensorProto.FLOAT)
    model = g.model(g.op("Conv", x, g.constant(_normal(g, 8, 8, 3, 3))))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    image = g.rng.integers(0, 255, (1, 8, 9, 9)).astype("uint8")
    exe = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, exe, {"input": image}).passed(BOUND)


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-0.5, 0.75), (None, 1.0), (0.25, None)])
@pytest.mark.parametrize("opset", [10, 17])
def test_clip(bounds: tuple[float | None, float | None], opset: int) -> None:
    g = Graph([1, 8, 9, 7])
    x = g.conv("input", 8, 16)
    low, high = bounds
    if opset < 11:
        given = {"min": low, "max": high}
        y = g.op("Clip", x, **{name: value for name, value in given.items() if value is not None})
    else:
        names = ["" if v is None else g.constant(np.float32(v)) for v in bounds]
        y = g.op("Clip", x, *names)
    report = check(g.model(y, opset=opset), (1, 8, 9, 7))
    assert "clip" in report.convs[0].epilogue


def test_what_the_epilogue_can_not_do_is_left_to_tvm() -> None:
    g = Graph([1, 8, 9, 7])
    x = g.conv("input", 8, 16)
    y = g.op("Add", x, g.constant(g.rng.standard_normal((1, 16, 9, 7)).astype("f")))
    z = g.op("Sigmoid", g.op("Add", y, g.op("GlobalAveragePool", x)))
    report = check(g.model(z), (1, 8, 9, 7))
    fates = [one.fate for one in report.operators if one.operator == "Add"]
    assert len(fates) == 2
    assert all("a kernel of TVM's" in fate for fate in fates)


def test_depthwise_and_grouped_say_why_they_are_not_tensorized() -> None:
    g = Graph([1, 16, 9, 9])
    x = g.op("Relu", g.conv("input", 16, 16, group=16))
    x = g.conv(x, 16, 32, 1)
    x = g.conv(x, 32, 32, group=4)
    x = g.conv(x, 32, 32, group=8)
    report = check(g.model(x), (1, 16, 9, 9))
    assert [conv.family for conv in report.convs] == [
        "depthwise",
        "wmma_nhwc",
        "wmma_nhwc",
        "direct",
    ]
    assert "depthwise" in report.convs[0].why_family
    assert "4 input channels per group" in report.convs[3].why_family


def test_concat_and_pooling_follow_in_fp16() -> None:
    g = Graph([2, 16, 10, 10])
    x = g.op("Relu", g.conv("input", 16, 16))
    pooled = g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = g.op("Concat", x, pooled, axis=1)
    z = g.op("AveragePool", g.conv(y, 32, 8), kernel_shape=[2, 2], strides=[2, 2])
    check(g.model(z), (2, 16, 10, 10))


def test_twice_the_same_filter_is_stored_once() -> None:
    g = Graph([1, 32, 8, 8])
    weight = g.constant(g.rng.standard_normal((32, 32, 3, 3)).astype("f") / 12)
    x = g.op("Conv", "input", weight, pads=[1, 1, 1, 1], name="first")
    x = g.op("Conv", g.op("Relu", x), weight, pads=[1, 1, 1, 1], name="second")
    report = check(g.model(x), (1, 32, 8, 8))
    assert [conv.name for conv in report.convs] == ["first", "second"]
    assert report.weight_bytes == 32 * 32 * 9 * 2


def test_nhwc_input_and_two_outputs() -> None:
    g = Graph([1, 10, 12, 3])
    x = g.op("Transpose", "input", perm=[0, 3, 1, 2])
    x = g.op("Relu", g.conv(x, 3, 8))
    y = g.op("Transpose", g.conv(x, 8, 8), perm=[0, 2, 3, 1])
    check(g.model(x, y), (1, 10, 12, 3))


def test_fp16_model_keeps_its_dtypes() -> None:
    g = Graph([1, 8, 9, 9], dtype="float16")
    model = g.model(g.op("Relu", g.conv("input", 8, 16)))
    exe = tvmconv.build(model, target="llvm")
    assert (exe.inputs[0].dtype, exe.outputs[0].dtype) == ("float16", "float16")
    feeds = random_feed((1, 8, 9, 9), dtype="float16")
    assert tvmconv.compare(model, exe, feeds).passed(BOUND)


def test_model_may_be_a_path_bytes_or_a_proto(tmp_path: Path) -> None:
    model = residual_net(1)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    feeds = random_feed((1, 3, 12, 12))
    results = [
        tvmconv.build(form, target="llvm").run(feeds)["output"]
        for form in (model, path, str(path), path.read_bytes())
    ]
    assert all(np.array_equal(results[0], result) for result in results)


def test_building_leaves_the_model_alone() -> None:
    model = residual_net(1)
    before = model.SerializeToString()
    tvmconv.build(model, target="llvm")
    assert model.SerializeToString() == before


def test_dump_keeps_the_module_after_every_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVMCONV_DUMP", str(tmp_path / "dump"))
    tvmconv.build(residual_net(1), target="llvm")
    files = {path.name: path.read_text() for path in (tmp_path / "dump").iterdir()}
    folded = max(name for name in files if name.endswith("fold_layouts.py"))
    assert "R.nn.conv2d" in files[folded]
    lowered = files["2_lower_00_lower_convs.py"]
    assert "R.call_tir(cls.conv_wmma_nhwc" in lowered
    assert "wmma.accumulator" in lowered
    assert any(name.startswith("4_machine") for name in files)


def test_inspect_agrees_with_build() -> None:
    model = residual_net("batch")
    seen = tvmconv.inspect(model, target="llvm", batch=2)
    built = tvmconv.build(model, target="llvm", batch=2).report
    assert seen.convs == built.convs
    assert seen.plan.operators == built.operators
    assert seen.plan.conversions == built.conversions
    assert tvmconv.inspect(model, batch=2).plan.arch == "sm_90a"
