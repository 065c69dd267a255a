"""`tvmconv.inspect`: what it says of a model before any build, checked against counts by hand."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper

import tvmconv
from benchmarks.zoo import zoo
from tests.support.calibrated import quantized
from tests.support.models import Graph, residual_net
from tvmconv.compiler.targets import find_processor
from tvmconv.errors import TargetError
from tvmconv.reports.data.build import ConvReport, MachineReport
from tvmconv.reports.data.capability import CapabilityReport, KindReport


def by_kind(report: CapabilityReport) -> dict[str, KindReport]:
    return {one.kind: one for one in (*report.kinds, *report.traits)}


def sums(report: CapabilityReport) -> dict[str, tuple[int, int]]:
    """Count and multiply-adds of every kind and trait."""
    return {one.kind: (one.count, one.macs) for one in (*report.kinds, *report.traits)}


def recurrent() -> onnx.ModelProto:
    """Two convolutions, then an LSTM, which can't be built, and a classifier."""
    g = Graph(["batch", 3, 32, 32])
    x = g.op("Relu", g.conv("input", 3, 16, name="dense"))
    x = g.conv(x, 16, 32, group=2, strides=[2, 2], name="grouped")
    x = g.op("Reshape", x, g.constant(np.array([0, 256, 32])))
    x = g.op("Transpose", x, perm=[1, 0, 2])
    gates, state = (g.constant(np.zeros((1, 64, n), "float32")) for n in (32, 16))
    x = g.op("LSTM", x, gates, state, hidden_size=16)
    x = g.op("Squeeze", x, g.constant(np.array([1])))
    return g.model(g.op("MatMul", x, g.constant(np.zeros((16, 10), "float32")), name="classes"))


# --- kinds, by hand -------------------------------------------------------------------------
def test_kinds_of_convolutions_and_their_multiply_adds() -> None:
    g = Graph([2, 3, 16, 16])
    x = g.op("Relu", g.conv("input", 3, 16, strides=[2, 2]))  # 8x8
    x = g.op("Relu", g.conv(x, 16, 32, group=2))
    x = g.op("Relu", g.conv(x, 32, 32, group=32))
    x = g.op("Relu", g.conv(x, 32, 16, r=1))
    x = g.op("Relu", g.conv(x, 16, 16, pads=[2] * 4, dilations=[2, 2]))
    weight = g.constant(g.rng.standard_normal((16, 8, 2, 2)).astype("f4"))
    x = g.op("ConvTranspose", x, weight, strides=[2, 2])  # 16x16
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    x = g.op("Gemm", x, g.constant(g.rng.standard_normal((8, 10)).astype("f4")))
    report = tvmconv.inspect(g.model(x), target="llvm")
    first, dilated = 2 * 64 * 16 * 9 * 3, 2 * 64 * 16 * 9 * 16
    pointwise, transposed = 2 * 64 * 16 * 32, 2 * 256 * 8 * 16
    assert sums(report) == {
        "dense": (4, first + dilated + pointwise + transposed),
        "grouped": (1, 2 * 64 * 32 * 9 * 8),
        "depthwise": (1, 2 * 64 * 32 * 9),
        "matrix product": (1, 2 * 8 * 10),
        "1x1": (1, pointwise),
        "strided": (2, first + transposed),
        "dilated": (1, dilated),
        "transposed": (1, transposed),
        "few input channels": (1, first),
    }
    assert report.all.count == 7
    assert report.all.macs == sum(kind.macs for kind in report.kinds)
    channels = {conv.kind: conv.group_channels for conv in report.convs if conv.kind != "dense"}
    assert channels == {"grouped": 8, "depthwise": 1, "matrix product": 8}
    assert report.suited.count == 4, "neither the first, nor depthwise, nor a product"


def test_one_and_three_dimensions() -> None:
    g = Graph([1, 16, 20])
    line = g.constant(g.rng.standard_normal((16, 16, 3)).astype("f4"))
    report = tvmconv.inspect(g.model(g.op("Conv", "input", line)), target="llvm")
    assert sums(report) == {"dense": (1, 18 * 16 * 16 * 3), "1-D": (1, 18 * 16 * 16 * 3)}
    g = Graph([1, 8, 5, 6, 7])
    cube = g.constant(g.rng.standard_normal((16, 8, 3, 3, 3)).astype("f4"))
    report = tvmconv.inspect(g.model(g.op("Conv", "input", cube)), target="llvm")
    macs = 3 * 4 * 5 * 16 * 8 * 27
    assert sums(report) == {"dense": (1, macs), "3-D": (1, macs)}
    assert report.all.tensor_core_macs == macs


def test_products_of_activations_count_and_are_ours_where_the_instruction_is() -> None:
    g = Graph([1, 4, 10, 12])
    x = g.op("MatMul", "input", g.op("Transpose", "input", perm=[0, 1, 3, 2]))
    x = g.op("MatMul", x, g.constant(g.rng.standard_normal((10, 16)).astype("f4")))
    report = tvmconv.inspect(g.model(x), target="llvm")
    assert sums(report) == {
        "matrix product": (1, 4 * 10 * 16 * 10),
        "product of activations": (1, 4 * 10 * 10 * 12),
    }
    assert report.all.tensor_core_macs == 4 * 10 * 16 * 10 + 4 * 10 * 10 * 12
    assert "2 of 2 matrix products on tensor cores" in str(report)
    old = tvmconv.inspect(g.model(x), arch="sm_75")
    assert old.all.tensor_core_macs == 4 * 10 * 16 * 10
    assert "sm_75 has no mma.sync of 16 terms" in str(old)


def test_weights_in_integers_are_parameters_and_scales_are_not() -> None:
    model = residual_net(1)
    quantised, floats = (tvmconv.inspect(one, "llvm") for one in (quantized(model).proto, model))
    assert quantised.parameters == floats.parameters


# --- whole networks -------------------------------------------------------------------------
def test_resnet18() -> None:
    report = tvmconv.inspect(zoo.load("resnet18"), arch="sm_90", batch=1)
    assert len(report.convolutions) == 20
    assert round(report.all.macs / 1e9, 2) == 1.81
    assert report.all.tensor_core_macs == report.all.macs
    assert report.parameters == 11_689_512
    counts = {name: count for name, (count, _) in sums(report).items()}
    # Strided: the stem, and in three stages the first convolution and the shortcut.
    assert counts == {
        "dense": 20,
        "matrix product": 1,
        "1x1": 3,
        "strided": 7,
        "few input channels": 1,
    }
    assert [one.cause for one in report.plan.conversions] == ["input 'input' is NCHW in the model"]
    assert {one.operator: one.count for one in report.operators} == {
        "BatchNormalization": 20,
        "Conv": 20,
        "Relu": 17,
        "Add": 8,
        "Flatten": 1,
        "Gemm": 1,
        "GlobalAveragePool": 1,
        "MaxPool": 1,
    }
    text = str(report)
    assert "can be built" in text
    assert "on tensor cores: 100% of all multiply-adds, 100% of those of conv" in text
    # layer1: two pairs that are alike
    assert any(line.split()[:2] == ["layer1.0.conv1", "2"] for line in text.splitlines())


def test_mobilenet_v2() -> None:
    report = tvmconv.inspect(zoo.load("mobilenet_v2"), arch="sm_90", batch=1)
    kinds = by_kind(report)
    assert (kinds["dense"].count, kinds["depthwise"].count) == (35, 17)
    # (channels, side of the output) of each, from the paper's table 2
    depthwise = (
        [(32, 112), (96, 56), (144, 56), (144, 28), (192, 28), (192, 28), (192, 14)]
        + [(384, 14)] * 4
        + [(576, 14)] * 2
        + [(576, 7)]
        + [(960, 7)] * 3
    )
    assert kinds["depthwise"].macs == sum(c * side * side * 9 for c, side in depthwise)
    # In one kernel with the 1x1 after it a depthwise convolution is on tensor cores, too.
    alone = [conv for conv in report.convs if conv.kind == "depthwise" and not conv.part_of]
    apart = sum(conv.useful_macs for conv in alone)
    assert 0 < apart < kinds["depthwise"].macs
    assert report.all.tensor_core_macs == report.all.macs - apart
    assert report.suited.tensor_core_macs == report.suited.macs
    assert round(report.all.macs / 1e9, 2) == 0.30
    assert report.parameters == 3_504_872


# --- floors, costs, the card ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("arch", "card", "tflops", "gbps"), [("sm_90", "H200", 790, 4300), ("sm_86", "A10", 125, 600)]
)
def test_floor_is_of_the_card_that_is_named(
    arch: str, card: str, tflops: float, gbps: float
) -> None:
    g = Graph([32, 64, 56, 56])
    report = tvmconv.inspect(g.model(g.op("Relu", g.conv("input", 64, 64))), arch=arch)
    (conv,) = report.convs
    macs = 32 * 56 * 56 * 64 * 64 * 9
    # The image in fp16 twice, less what the output has in fp32, and the filter.
    moved = 32 * 56 * 56 * 64 * (2 + 2) + 64 * 64 * 9 * 2
    assert conv.floor_us == pytest.approx(max(2 * macs / tflops / 1e6, moved / gbps / 1e3))
    assert conv.cost_us >= conv.floor_us
    assert (report.plan.machine.name, report.plan.machine.asked_for) == (card, "")
    assert f"\nmachine: {card}: " in str(report)


def _relu() -> onnx.ModelProto:
    g = Graph([32, 64, 56, 56])
    return g.model(g.op("Relu", g.conv("input", 64, 64)))


def test_a_cpu_has_costs_and_floors_of_its_own() -> None:
    report = tvmconv.inspect(_relu(), target="llvm")
    (conv,) = report.convs
    cpu = find_processor(report.plan.arch)
    macs = 32 * 56 * 56 * 64 * 64 * 9
    assert conv.floor_us == pytest.approx(2 * macs / cpu.peak_tflops("float16") / 1e6)
    assert conv.cost_us == pytest.approx(2 * macs / cpu.tflops("mma", "float16") / 1e6)
    assert (report.plan.machine.name, report.plan.machine.source) == (cpu.name, cpu.source)
    assert conv.instruction_tflops == 0
    assert "H200" not in str(report)


def test_costs_of_a_gpu_are_shown_if_they_are_asked_for_and_titled_so() -> None:
    report = tvmconv.inspect(_relu(), target="llvm", as_arch="sm_90a")
    (conv,), (own,) = report.convs, tvmconv.inspect(_relu(), target="llvm").convs
    macs = 32 * 56 * 56 * 64 * 64 * 9
    assert conv.cost_us == pytest.approx(2 * macs / 635 / 1e6)
    assert (conv.family, conv.config) == (own.family, own.config), "nothing else is chosen"
    assert "as on an H200 (sm_90a)" in str(report).splitlines()[0]
    a100 = tvmconv.inspect(_relu(), target="llvm", as_arch="sm_80")
    assert a100.convs[0].cost_us == pytest.approx(2 * macs / 312 / 1e6)
    assert "as on an A100 SXM 40 GB (sm_80)" in str(a100)


def test_of_a_simulation_no_time_is_told_but_a_gpus_if_asked_for() -> None:
    report = tvmconv.inspect(_relu(), target="hmma-sim")
    (conv,) = report.convs
    assert conv.cost_us == conv.floor_us == report.plan.cost_us == 0
    assert report.plan.machine == MachineReport()
    (conv,) = tvmconv.inspect(_relu(), target="hmma-sim", as_arch="sm_70").convs
    assert conv.cost_us >= conv.floor_us > 0


def test_a_network_for_a_gpu_has_the_costs_of_that_gpu() -> None:
    with pytest.raises(TargetError, match="for sm_80 are those of its GPU, not of sm_90a"):
        tvmconv.inspect(_relu(), arch="sm_80", as_arch="sm_90a")
    with pytest.raises(TargetError, match="no CUDA architecture 'sm_9'"):
        tvmconv.inspect(_relu(), target="llvm", as_arch="sm_9")


def test_padding_of_a_kernel_counts_as_waste() -> None:
    g = Graph([1, 24, 16, 16])
    report = tvmconv.inspect(g.model(g.conv("input", 24, 24, r=1)), target="llvm")
    # 24 channels in steps of 16 and 24 columns in tiles of 16 are 32 x 32.
    assert report.all.padded_macs == 16 * 16 * 32 * 32
    assert report.plan.waste == pytest.approx(1 - 24 * 24 / 32 / 32)


# --- what can't be built --------------------------------------------------------------------
def test_convolutions_are_told_where_an_operator_is_missing() -> None:
    report = tvmconv.inspect(recurrent(), target="llvm", batch=2, fallback="none")
    assert not report.buildable
    assert report.unsupported == {"LSTM": 1}
    assert [(one.operator, one.count) for one in report.operators if not one.supported] == [
        ("LSTM", 1)
    ]
    supported = {one.operator: one.count for one in report.operators if one.supported}
    assert supported["Conv"] == 2
    macs = {conv.name: conv.useful_macs for conv in report.convs}
    assert macs == {
        "dense": 2 * 32 * 32 * 16 * 27,
        "grouped": 2 * 16 * 16 * 32 * 8 * 9,
        "classes": 2 * 256 * 16 * 10,
    }
    assert sums(report)["strided"] == (1, macs["grouped"])
    assert all(conv.floor_us > 0 and conv.cost_us == 0 for conv in report.convs)
    assert not any(conv.tensor_core for conv in report.convs)
    text = str(report)
    assert "can't be built: LSTM x1" in text
    assert "on tensor cores:" not in text
    assert "32x3x32x32" not in text
    assert "2x3x32x32, 16x3x3x3" in text


def test_a_custom_operator_hides_shapes_but_not_kinds() -> None:
    g = Graph([1, 3, 8, 8])
    x = g.conv("input", 3, 16, name="before")
    g.nodes.append(helper.make_node("Odd", [x], ["odd"], name="odd", domain="my.ops"))
    model = g.model(g.conv("odd", 16, 32, group=16, name="after"))
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    shape = helper.make_tensor_value_info("after", onnx.TensorProto.FLOAT, [1, 32, 8, 8])
    model.graph.output[0].CopyFrom(shape)
    report = tvmconv.inspect(model, target="llvm")
    assert report.unsupported == {"my.ops.Odd": 1}
    assert sums(report)["depthwise"] == (1, 0)
    assert sums(report)["dense"] == (1, 64 * 16 * 27)
    assert "without 1 whose shapes can't be inferred" in str(report)


def test_one_operator_can_be_supported_and_not() -> None:
    g = Graph([1, 16, 8, 8])
    scales = g.constant(np.array([1, 1, 2, 2], "float32"))
    x = g.op("Resize", g.conv("input", 16, 16), "", scales, nearest_mode="floor")
    corner = g.constant(np.array([0, 0, 0, 0, 1, 1, 1, 1], "float32"))
    mode = "tf_crop_and_resize"
    x = g.op("Resize", x, corner, scales, coordinate_transformation_mode=mode)
    report = tvmconv.inspect(g.model(x), target="llvm", fallback="none")
    resizes = [one for one in report.operators if one.operator == "Resize"]
    assert {(one.supported, one.count, one.reason) for one in resizes} == {
        (True, 1, ""),
        (False, 1, mode),
    }
    assert report.operators[0] == resizes[0], "what can't be built comes first"
    assert not report.buildable


def test_what_is_missing_after_constants_are_folded_is_told_of_the_model_s_own_node() -> None:
    g = Graph([1, 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 16))
    total = g.op("Cast", g.op("ReduceMax", x, keepdims=0), to=onnx.TensorProto.INT64)
    shape = g.op("Reshape", total, g.constant(np.array([1])))
    y = g.op("Reshape", x, g.op("Concat", shape, g.constant(np.array([-1])), axis=0))
    report = tvmconv.inspect(g.model(y), target="llvm")
    refused = [one for one in report.operators if not one.supported]
    assert [(one.operator, one.count, one.reason) for one in refused] == [
        ("Reshape", 1, "its input 1 is no constant")
    ]
    assert sums(report) == {"dense": (1, 64 * 16 * 16 * 9)}


def test_a_network_of_no_layers() -> None:
    g = Graph([1, 4])
    report = tvmconv.inspect(g.model(g.op("Relu", "input")), target="llvm")
    assert (report.kinds, report.all.count, report.buildable) == ((), 0, True)
    assert "Relu" in str(report)


# --- forms ----------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [residual_net("batch"), recurrent()], ids=["built", "missing"])
def test_json_both_ways(model: onnx.ModelProto) -> None:
    report = tvmconv.inspect(model, target="llvm", batch=4)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert CapabilityReport.from_json(data) == report
    assert data["all"]["macs"] == report.all.macs
    assert [one["kind"] for one in data["kinds"]] == [one.kind for one in report.kinds]


def test_buckets_are_told_of_each() -> None:
    report = tvmconv.inspect(residual_net("batch"), target="llvm", batch=[1, 8])
    assert [one.batch for one in (*report.smaller, report.plan)] == [1, 8]
    assert report.all.macs == 8 * report.smaller[0].useful_macs
    assert "bucket of 8" in str(report)


def test_two_hundred_layers_are_a_readable_table() -> None:
    g = Graph([1, 16, 8, 8])
    x = "input"
    for _ in range(200):
        x = g.op("Relu", g.conv(x, 16, 16))
    report = tvmconv.inspect(g.model(x), target="llvm")
    assert report.all.count == 200
    assert report.all.macs == 200 * 64 * 16 * 16 * 9
    assert len(str(report).splitlines()) < 40
    assert all(isinstance(conv, ConvReport) for conv in report.convs)
