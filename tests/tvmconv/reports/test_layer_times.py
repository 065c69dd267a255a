"""Times of layers: every kernel of a run once, by the right name; shares of the right rates."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tvmconv
from schedules.machine.hardware import CUDA_ARCHS
from schedules.machine.model import LIMITS
from tests.support.models import Graph, residual_net
from tvmconv.reports.collect import layer_times
from tvmconv.reports.data.build import BuildReport, ConvReport
from tvmconv.reports.data.layer_times import LayerTime
from tvmconv.reports.render.layer_times import layer_table
from tvmconv.runtime.feeds import random_feeds


def model(batch: int | str = 2) -> Any:
    """Two convolutions that are one kernel, a pool, a transposed one of 4 kernels, a product."""
    g, draw = Graph([batch, 16, 12, 10]), np.random.default_rng(0).standard_normal
    x = g.conv("input", 16, 16, name="first")
    x = g.conv(g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4), 16, 16, name="second")
    weight = g.constant(draw((16, 24, 4, 4)).astype("f4"), "up.weight")
    attributes = {"strides": [2, 2], "pads": [1] * 4}
    y = g.op("ConvTranspose", x, weight, name="up", **attributes)
    return g.model(g.op("Sigmoid", y))


def times(exe: tvmconv.Executable) -> tuple[LayerTime, ...]:
    return layer_times.layer_times(exe, exe.transfer_in(random_feeds(exe.inputs)))


def test_every_kernel_of_a_run_once_in_order() -> None:
    exe = tvmconv.build(model(), target="llvm")
    found = times(exe)
    layers = [one for one in found if one.family]
    assert [(one.name, one.kernels) for one in layers] == [("first", 1), ("second", 1), ("up", 4)]
    assert any("pool" in one.name for one in found if not one.family)
    assert all(one.us > 0 for one in found)
    kernels = {conv.name: conv.kernels for conv in exe.report.convs}
    assert kernels["first"] == kernels["second"]
    assert len(kernels["up"]) == 4
    # In the order of the run: the pool is between the convolutions.
    names = [one.name for one in found]
    assert names.index("first") < names.index("second") - 1


def test_the_figures_follow_from_time_and_report() -> None:
    exe = tvmconv.build(residual_net(2), target="llvm")
    convs = {conv.name: conv for conv in exe.report.convs}
    found = [one for one in times(exe) if one.family]
    assert {one.name for one in found} == set(convs)
    for one in found:
        conv = convs[one.name]
        assert one.tflops == pytest.approx(2 * conv.useful_macs / one.us / 1e6)
        assert one.gbps == pytest.approx(conv.moved_bytes / one.us / 1e3)
        assert (one.shape, one.config, one.limit) == (conv.shape, conv.config, conv.limit)
        assert one.margin == pytest.approx(conv.runner_up_us / conv.cost_us)
        # Of this CPU nobody knows the rates.
        assert one.instruction_share == one.chip_share == one.memory_share == 0


def test_bench_shows_them_and_json_has_all() -> None:
    exe = tvmconv.build(model("n"), target="llvm", batch=[1, 2])
    effort = {"warmup_ms": 1.0, "min_runs": 2, "min_seconds": 0.01}
    report = tvmconv.bench(exe, **effort)
    assert [len(one.layers) > 3 for one in (*report.smaller, report)] == [True, True]
    text = str(report)
    assert all(word in text for word in ("all layers", "all others", "12x10x16->16 3x3"))
    assert max(map(len, text.splitlines())) <= 120
    assert "runner-up" not in text, "on a CPU estimates are a GPU's"
    layers = json.loads(json.dumps(report.to_json()))["layers"]
    named = next(one for one in layers if one["name"] == "first")
    assert {"us", "tflops", "gbps", "memory_share", "limit", "runner_up", "margin"} <= set(named)
    assert tvmconv.bench(exe, layers=False, **effort).layers == ()


def cuda_report(model: Any, arch: str) -> BuildReport:
    plan = tvmconv.inspect(model, "cuda", arch=arch).plan
    assert plan is not None
    return plan


def test_on_a_gpu_shares_are_of_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """With times that are given: half of what the memory takes."""
    report = cuda_report(residual_net(64), "sm_90a")
    hardware = next(one for one in CUDA_ARCHS if one.name == "sm_90a")
    calls = [
        (conv.kernels[0], 2 * conv.moved_bytes / hardware.card.memory_gbps / 1e3)
        for conv in report.convs
    ]

    class Given:
        target, arch, in_parts = "cuda", "sm_90a", False

    exe: Any = Given()
    exe.report = report
    monkeypatch.setattr(layer_times, "_on_gpu", lambda *_: [("fill", 3.0), *calls])
    first, *found = layer_times.layer_times(exe, [])
    assert first == LayerTime("fill", 3.0)
    assert [one.name for one in found] == [conv.name for conv in report.convs]
    for one in found:
        assert one.memory_share == pytest.approx(0.5)
        assert one.chip_share == pytest.approx(one.tflops / 790)
        assert one.instruction_share == pytest.approx(one.tflops / 635)
        assert one.limit in LIMITS
    text = layer_table([first, *found])
    assert max(map(len, text.splitlines())) <= 120
    assert "50%" in text
    assert text.splitlines()[-2].startswith("fill")


def test_reports_of_layers_survive_json() -> None:
    report = cuda_report(residual_net(2), "sm_90")
    again = BuildReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report
    assert all(conv.kernels and conv.moved_bytes > 0 for conv in again.convs)
    assert {conv.instruction_tflops for conv in again.convs if conv.tensor_core} == {635.0}


def test_kernels_that_no_layer_claims_are_others() -> None:
    """Of an artifact of an older build, which has no names of kernels."""
    exe = tvmconv.build(residual_net(1), target="llvm")
    older = tuple(replace(conv, kernels=()) for conv in exe.report.convs)
    found = times(replace(exe, report=replace(exe.report, convs=older)))
    assert not any(one.family for one in found)
    kernels = [kernel for conv in exe.report.convs for kernel in conv.kernels]
    assert not Counter(kernels) - Counter(one.name for one in found)


def test_alike_ones_are_one_row_with_their_sum() -> None:
    one = LayerTime("a", 10.0, shape="8x5x5x16 -> 16, 3x3, 2 groups", family="direct", tflops=1.0)
    lines = layer_table([one, replace(one, name="b", us=30.0), LayerTime("copy", 60.0)])
    row = next(line for line in lines.splitlines() if line.startswith("a "))
    # 10 us at 1 TFLOP/s and 30 us of the same work: 20 us at half of that.
    assert row.split() == ["a", "2", "5x5x16->16", "3x3", "g2", "40.0", "40%", "0.5", "0"]
    assert lines.splitlines()[-1].split() == ["all", "others", "1", "60.0", "60%"]


@pytest.mark.gpu
def test_layers_on_a_gpu_sum_to_about_the_network() -> None:
    net = residual_net(64)
    exe = tvmconv.build(net)
    report = tvmconv.bench(exe, min_seconds=0.2)
    total = sum(one.us for one in report.layers) / 1e3
    assert 0.5 * report.compute.median_ms < total < 2 * report.compute.median_ms
    assert all(0 < one.memory_share < 2 for one in report.layers if one.family)
    assert isinstance(exe.report.convs[0], ConvReport)
