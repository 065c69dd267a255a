"""The report of a build: conversions that are left, each with its cause; the path; the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from schedules.choose import Estimate, Policy, choose, kernel_cost
from schedules.conv.precision import FP16
from schedules.conv.workload import PACKED, ConvWorkload
from schedules.family import Family
from schedules.machine.cost import Cost
from schedules.machine.hardware import CPU, Hardware
from schedules.machine.processor import LEAST_US
from tests.support.models import Graph, residual_net
from tests.support.workloads import quantised
from tvmconv.onnx import frontend, kinds
from tvmconv.onnx import model as onnx_model
from tvmconv.passes import pipeline
from tvmconv.passes.graph import bindings, op_name
from tvmconv.passes.kernels.lower_convs import lower_convs
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.plan import plan
from tvmconv.passes.regions.anchors import anchors
from tvmconv.passes.regions.regions import find_regions
from tvmconv.reports.collect.conversions import conversions
from tvmconv.reports.collect.layers import emulated_by
from tvmconv.reports.data.build import BuildReport, ConversionReport, MachineReport
from tvmconv.reports.render import build as render
from tvmconv.reports.render import tables


def left(model: onnx.ModelProto, estimate: Estimate = kernel_cost) -> list[ConversionReport]:
    """The conversions that the report tells of, which are as many as there are."""
    simple = frontend.simplify(onnx_model.fix_shapes(onnx_model.read(model)))
    mod = pipeline.run(frontend.to_relax(simple), pipeline.GRAPH_PASSES, "test")
    named = list(zip(anchors(mod), kinds.convolutions(simple), strict=True))
    mod = pipeline.run(mod, pipeline.TIDY_PASSES, "test")
    planned = plan(mod, find_regions(mod, named), Chooser(CPU, Policy(estimate=estimate)))
    found = conversions(mod, planned, CPU.card, simple, FP16)
    lowered = lower_convs(planned)(mod)
    transposes = [b for b in bindings(lowered) if op_name(b.value) == "relax.permute_dims"]
    assert len(found) == len(transposes), lowered.script(show_meta=False)
    return list(found)


def causes(found: list[ConversionReport]) -> list[tuple[str, str]]:
    return [(one.conversion, one.cause) for one in found]


IN = ("NCHW -> NHWC", "input 'input' is NCHW in the model")


# --- conversions ----------------------------------------------------------------------------
def test_an_nchw_input_is_converted_once() -> None:
    (found,) = left(residual_net(1))
    assert causes([found]) == [IN]
    assert found.shape == (1, 3, 12, 12)
    # Read in fp32, written in fp16; so little that it takes what the least of kernels does.
    assert found.moved_bytes == 3 * 12 * 12 * (4 + 2)
    assert found.us == 2.0


def test_a_large_one_is_limited_by_memory() -> None:
    g = Graph([64, 16, 64, 64])
    x = g.op("GlobalAveragePool", g.conv("input", 16, 16))
    (found,) = left(g.model(x))
    assert found.moved_bytes == 64 * 16 * 64 * 64 * 6
    assert found.us == pytest.approx(found.moved_bytes / CPU.card.memory_gbps / 1e3)


def test_flatten_of_an_image_reads_nchw() -> None:
    g = Graph([1, 3, 8, 8])
    x = g.op("MaxPool", g.conv("input", 3, 16), kernel_shape=[2, 2], strides=[2, 2])
    x = g.op("Flatten", x, name="flat")
    weight = g.constant(g.rng.standard_normal((256, 10)).astype("f4"))
    found = left(g.model(g.op("MatMul", x, weight)))
    assert causes(found) == [IN, ("NHWC -> NCHW", "Flatten 'flat' reads NCHW")]
    assert found[1].moved_bytes == 4 * 4 * 16 * (2 + 2), "fp16, as max pooling keeps it"


def test_flatten_of_one_pixel_reads_any_layout() -> None:
    g = Graph([1, 3, 8, 8])
    x = g.op("Flatten", g.op("GlobalAveragePool", g.conv("input", 3, 16)), name="flat")
    assert causes(left(g.model(x))) == [IN]


def test_an_nhwc_network_converts_nothing() -> None:
    g = Graph([1, 8, 8, 3])
    x = g.op("Transpose", "input", perm=[0, 3, 1, 2])
    x = g.op("Relu", g.conv(g.op("Relu", g.conv(x, 3, 16)), 16, 16, strides=[2, 2]))
    assert left(g.model(g.op("Transpose", x, perm=[0, 2, 3, 1]))) == []


def test_an_nchw_output_is_converted_for_itself() -> None:
    g = Graph([1, 3, 8, 8])
    x = g.conv("input", 3, 16, name="first")
    y = g.conv(g.op("Relu", x), 16, 16, name="second")
    found = left(g.model(x, y))
    outputs = [("NHWC -> NCHW", f"output {n!r} is NCHW in the model") for n in ("first", "second")]
    assert causes(found) == [IN, *outputs]


def test_a_row_of_pixels_is_told_past_its_reshapes() -> None:
    g = Graph([1, 16, 8])
    weight = g.constant(g.rng.standard_normal((16, 16, 3)).astype("f4"))
    found = left(g.model(g.op("Conv", "input", weight, name="line")))
    assert causes(found) == [IN, ("NHWC -> NCHW", "output 'line' is NCHW in the model")]


def test_a_transpose_of_the_model_is_its_own() -> None:
    g = Graph([1, 3, 8, 8])
    x = g.op("Relu", g.conv("input", 3, 16))
    found = left(g.model(g.op("Softmax", g.op("Transpose", x, perm=[0, 1, 3, 2]), axis=-1)))
    assert causes(found)[0] == IN
    assert [one.cause for one in found[1:]] == ["a transpose of the model's own"]


def test_a_3d_convolution_says_that_its_planes_are_images() -> None:
    g = Graph([1, 4, 6, 8, 8])
    weight = g.constant(g.rng.standard_normal((16, 4, 3, 3, 3)).astype("f4"))
    found = left(g.model(g.op("Conv", "input", weight)))
    assert {one.cause for one in found} == {"a 3-D convolution's planes are computed as images"}


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_computed_weights_cost_conversions(operator: str) -> None:
    g = Graph([16, 144])
    weight = g.op("Reshape", "input", g.constant(np.array([16, 16, 3, 3])))
    x = g.constant(g.rng.standard_normal((1, 16, 8, 8)).astype("f4"))
    x = g.op(operator, g.conv(x, 16, 16), g.op("Relu", weight), name="computed")
    found = left(g.model(g.conv(x, 16, 16, name="after")))
    told = {one.cause for one in found}
    if operator == "Conv":
        assert "the weights of a convolution are computed" in told
    else:
        assert "TVM computes transposed convolutions in NCHW" in told


def packing(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
    """An estimate by which whoever writes packed takes a thousandth."""
    cost = kernel_cost(w, family, config, hardware)
    return Cost(cost.us / 1000 if w.out_layout == PACKED else cost.us * 1000, cost.limit)


def test_a_packed_tensor_is_copied_for_those_who_read_nhwc() -> None:
    g = Graph([16, 16, 8, 8])
    x = g.op("AveragePool", g.conv("input", 16, 32), kernel_shape=[2, 2], strides=[2, 2])
    found = left(g.model(g.op("GlobalAveragePool", x)), packing)
    assert causes(found) == [IN, ("NHWC16n16c -> NHWC", "read by avg_pool2d")]
    assert found[1].shape == (16, 8, 8, 32)
    assert found[1].moved_bytes == 16 * 8 * 8 * 32 * 4


# --- the report -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return tvmconv.build(residual_net("batch"), target="llvm", batch=[1, 4])


def test_report_comes_back_from_json_and_from_a_file(
    exe: tvmconv.Executable, tmp_path: Path
) -> None:
    again = BuildReport.from_json(json.loads(json.dumps(exe.report.to_json())))
    assert again == exe.report
    assert len(again.conversions) == 1
    assert [one.shape for one in again.smaller[0].conversions] == [(1, 3, 12, 12)]
    exe.save(tmp_path / "file")
    assert tvmconv.load(tmp_path / "file").report == exe.report


def test_a_report_from_before_kernels_were_told_is_read(exe: tvmconv.Executable) -> None:
    data = exe.report.to_json()
    del data["kernels"], data["machine"]
    for conv in data["convs"]:
        del conv["declined"], conv["chosen_by"]
    again = BuildReport.from_json(data)
    assert (again.kernels, again.machine) == ((), MachineReport())
    assert again.convs[0] == replace(exe.report.convs[0], declined={}, chosen_by="default")


@pytest.mark.parametrize(
    ("vnni", "how"),
    [(True, "emulated, 1 of 8 bits by VNNI"), (False, "emulated, 1 of 8 bits by vectors")],
)
def test_a_report_says_what_multiplies_8_bit_integers_on_a_cpu(
    exe: tvmconv.Executable, vnni: bool, how: str
) -> None:
    w = quantised(ConvWorkload(1, 8, 8, 16, 16, 3, 3), "uint8", "uint8", "scale")
    hardware = replace(CPU, vnni=vnni)
    by = emulated_by(choose(w, hardware))
    first, *others = exe.report.convs
    report = replace(exe.report, convs=(replace(first, emulated_by=by), *others))
    assert f" on tensor cores ({how})" in str(report)
    assert " on tensor cores (emulated)" in str(exe.report)
    assert emulated_by(choose(replace(w, precision=FP16), hardware)) == ""


@pytest.mark.parametrize("key", ["operators", "target", "convs"])
def test_what_is_no_report_is_refused(exe: tvmconv.Executable, key: str) -> None:
    data = exe.report.to_json()
    del data[key]
    with pytest.raises(KeyError):
        BuildReport.from_json(data)


def test_path_is_the_sum_of_its_costs(exe: tvmconv.Executable) -> None:
    report = exe.report
    assert all(conv.cost_us >= conv.floor_us > 0 for conv in report.convs)
    assert all(conv.limit in ("arithmetic", "memory", "latency") for conv in report.convs)
    assert report.conversion_us == LEAST_US
    # All of them small.
    assert report.kernel_us == len(report.kernels) * LEAST_US > report.conversion_us
    assert report.cost_us == sum(conv.cost_us for conv in report.convs) + report.kernel_us
    # `direct` matches everything, so whatever is on tensor cores has a runner-up.
    assert {conv.runner_up for conv in report.convs} == {"direct"}
    assert all(conv.runner_up_us >= conv.floor_us for conv in report.convs)


def test_report_shows_path_and_conversions(exe: tvmconv.Executable) -> None:
    text = str(exe.report)
    assert "of which conversions of layouts 1.00" in text
    assert "input 'input' is NCHW in the model" in text
    assert "GHz, assumed: " in text
    assert "H200" not in text


def test_alike_layers_are_one_row_and_all_are_in_the_sum(exe: tvmconv.Executable) -> None:
    convs = exe.report.convs
    rows = [row.split() for row in render.layer_table(convs * 40).splitlines()]
    assert len(rows) < 10
    assert sum(int(row[1]) for row in rows[2:-1]) == int(rows[-1][1]) == 40 * len(convs)
    macs = 40 * sum(conv.useful_macs for conv in convs) / 1e6
    assert float(rows[-1][2]) == pytest.approx(macs, abs=0.05)


def test_a_network_without_convolutions_has_a_report() -> None:
    g = Graph([1, 4])
    report = tvmconv.build(g.model(g.op("Relu", "input")), target="llvm").report
    assert (report.convs, report.conversions) == ((), ())
    assert [one.moved_bytes for one in report.kernels] == [2 * 4 * 4]
    assert report.cost_us == LEAST_US
    assert "0 of 0" in str(report)


# --- numbers in text ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("format_", "arguments", "text"),
    [
        (tables.percent, (0, 0), "-"),
        (tables.percent, (0, 5), "0%"),
        (tables.percent, (1, 1000), "<1%"),
        (tables.percent, (1, 4), "25%"),
        (tables.percent, (999, 1000), "99.9%"),
        (tables.percent, (99999, 100000), "99.9%"),
        (tables.percent, (7, 7), "100%"),
        (tables.microseconds, (0,), "-"),
        (tables.microseconds, (1.234,), "1.23"),
        (tables.microseconds, (9.96,), "10.0"),
        (tables.microseconds, (12.34,), "12.3"),
        (tables.microseconds, (99.6,), "100"),
        (tables.mib, (1.5 * 2**20,), "1.5"),
    ],
)
def test_figures(format_: Callable[..., str], arguments: tuple[float, ...], text: str) -> None:
    assert format_(*arguments) == text
