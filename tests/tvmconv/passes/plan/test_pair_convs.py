"""A depthwise convolution and the 1x1 one after it become one kernel where that pays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from benchmarks.zoo.generated import mobilenet_v2
from schedules.choose import Policy, Tuned, choose, kernel_cost
from schedules.conv.precision import Precision
from schedules.conv.workload import ConvWorkload, Window
from schedules.family import Family
from schedules.machine.cost import Cost
from schedules.machine.hardware import CPU, Hardware
from schedules.threads import emulator
from tests.support import emulated, graphs
from tests.support.models import Graph
from tests.support.workloads import PAIRS
from tvmconv.compiler import toolchain
from tvmconv.errors import ModelError
from tvmconv.passes.plan.chooser import Chooser, LayoutName
from tvmconv.passes.plan.plan import Plan
from tvmconv.reports.collect.layer_times import layer_times
from tvmconv.runtime.feeds import random_feeds
from tvmconv.tuning.tune import workloads_of

SM_90A = toolchain.cuda_arch("sm_90a")
FUSED = "in the kernel of a convolution: project"


def clip(g: Graph, x: str) -> str:
    six = [g.constant(np.array(bound, np.float32)) for bound in (0.0, 6.0)]
    return g.op("Clip", x, *six)


def bottleneck(
    g: Graph, x: str, c: int, hidden: int, k: int, stride: int = 1, prefix: str = ""
) -> str:
    """MobileNetV2's block; the input is added where the shapes are the same."""
    expand, deep, project = (prefix + name for name in ("expand", "deep", "project"))
    y = clip(g, g.conv(x, c, hidden, 1, name=expand))
    y = g.conv(y, hidden, hidden, group=hidden, strides=[stride] * 2, name=deep)
    y = g.conv(clip(g, y), hidden, k, 1, name=project)
    return g.op("Add", y, x) if c == k and stride == 1 else y


def block(stride: int = 1, k: int = 16, batch: int | str = 2) -> onnx.ModelProto:
    g = Graph([batch, 16, 9, 7])
    return g.model(bottleneck(g, "input", 16, 40, k, stride))


def planned(
    model: onnx.ModelProto,
    hardware: Hardware = SM_90A,
    pairs: bool = True,
    layout: LayoutName | None = None,
    **policy: Any,
) -> Plan:
    return graphs.planned(model, Chooser(hardware, Policy(**policy), layout=layout), pairs)[1]


def families(model: onnx.ModelProto, **options: Any) -> dict[str, str]:
    found = planned(model, **options).values()
    return {one.name: one.kernels[0].choice.family.name for one in found}


def pair_costs(times: float) -> Callable[[ConvWorkload, Family, Any, Hardware], Cost]:
    """The model's estimate, that of pairs so many times as much."""

    def cost(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
        one = kernel_cost(w, family, config, hardware)
        return Cost(one.us * times, one.limit) if w.prologue else one

    return cost


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_PAIR", "1")


# ---------------------------------------------------------------- built


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("stride", "k"), [(1, 16), (1, 24), (2, 16)])
def test_a_block_is_reported_as_two_kernels(stride: int, k: int) -> None:
    report = tvmconv.inspect(block(stride, k), arch="sm_90a", records=False).plan
    convs = {conv.name: conv for conv in report.convs}
    assert list(convs) == ["expand", "deep", "project"]
    deep, project = convs["deep"], convs["project"]
    assert project.family == deep.family == "depthwise_projection"
    assert deep.part_of == "project"
    assert (deep.workloads, deep.kernels, deep.cost_us) == ((), (), 0.0)
    assert (deep.epilogue, deep.kind) == ("bias + clip(0, 6)", "depthwise")
    assert project.epilogue == ("bias + residual" if (stride, k) == (1, 16) else "bias")
    (text,) = project.workloads
    w = ConvWorkload.from_json(text)
    assert w.prologue is not None
    assert w.useful_macs == deep.useful_macs + project.useful_macs
    fates = {one.name: one.fate for one in report.operators}
    assert fates["deep"] == FUSED
    assert fates["project"] == "depthwise_projection kernel"
    assert sum(fate == FUSED for fate in fates.values()) == 2 + (project.epilogue != "bias")


@pytest.mark.skipif(not emulator.available(), reason="no g++")
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("stride", "k"), [(1, 16), (2, 24)])
def test_a_block_is_right(stride: int, k: int) -> None:
    model = block(stride, k)
    x = np.random.default_rng(3).standard_normal((2, 16, 9, 7)).astype(np.float32)
    (got,), (right,) = emulated.run(model, SM_90A, x), graphs.expected(model, x)
    assert np.linalg.norm(got - right) < 5e-3 * np.linalg.norm(right)


@pytest.mark.gpu
@pytest.mark.usefixtures("always")
def test_layer_times_have_the_multiply_adds_of_both() -> None:
    exe = tvmconv.build(block(), target="cuda")
    found = layer_times(exe, exe.transfer_in(random_feeds(exe.inputs)))
    layers = {one.name: one for one in found}
    (deep, project) = (one for one in exe.report.convs if one.name in ("deep", "project"))
    assert "deep" not in layers
    macs = layers["project"].tflops * layers["project"].us * 1e6 / 2
    assert macs == pytest.approx(deep.useful_macs + project.useful_macs)


@pytest.mark.usefixtures("always")
def test_both_ways_are_tuned() -> None:
    report = tvmconv.inspect(block(), arch="sm_90a")
    (text,) = next(conv.workloads for conv in report.convs if conv.name == "project")
    counts = workloads_of(report.plan)
    for one in (w := ConvWorkload.from_json(text), *w.apart):
        assert counts[one.to_json()] == 1
    assert len(counts) == 4


@pytest.mark.gpu
@pytest.mark.usefixtures("always")
def test_buckets_and_files_carry_pairs(tmp_path: Any) -> None:
    exe = tvmconv.build(block(batch="batch"), target="cuda", batch=[1, 3])
    exe.save(tmp_path / "pair.tvmconv")
    loaded = tvmconv.load(tmp_path / "pair.tvmconv")
    assert loaded.report.to_json() == exe.report.to_json()
    x = np.random.default_rng(0).standard_normal((2, 16, 9, 7)).astype(np.float32)
    for ours, theirs in zip(loaded(x), exe(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------- whether


@pytest.mark.parametrize("knob", ["", "1"])
def test_on_a_cpu_nothing_is_paired(knob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_PAIR", knob)
    assert families(block(), hardware=CPU)["deep"] == "depthwise"


def test_the_estimate_decides() -> None:
    cheap = families(block(), estimate=pair_costs(0.01))
    assert "deep" not in cheap
    assert cheap["project"] == "depthwise_projection"
    dear = families(block(), estimate=pair_costs(100.0))
    assert dear["deep"] == "depthwise"


def test_the_knob_decides_before_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_PAIR", "0")
    assert "deep" in families(block(), estimate=pair_costs(0.01))
    monkeypatch.setenv("TVMCONV_PAIR", "1")
    assert "deep" not in families(block(), estimate=pair_costs(100.0))


@pytest.mark.usefixtures("always")
def test_a_plan_without_pairs_has_none() -> None:
    """As of a simulation, which has one convolution at a time."""
    assert "deep" in families(block(), pairs=False)


@pytest.mark.parametrize(("us", "paired"), [(2.0, True), (30.0, False)])
def test_measured_times_of_all_three_decide(us: float, paired: bool) -> None:
    """Whatever the model says; but not measured times of some of them."""

    def records(w: ConvWorkload, hardware: Hardware) -> Tuned | None:
        if not (w.prologue or w.depthwise or w.c == 40):
            return None
        choice = choose(w, hardware)
        return Tuned(choice.family, choice.config, us if w.prologue else 10.0, 50.0)

    def some(w: ConvWorkload, hardware: Hardware) -> Tuned | None:
        return None if w.depthwise else records(w, hardware)

    estimate = pair_costs(100.0 if paired else 0.01)
    assert ("deep" not in families(block(), estimate=estimate, records=records)) == paired
    assert ("deep" not in families(block(), estimate=estimate, records=some)) != paired


@pytest.mark.usefixtures("always")
def test_who_else_reads_or_writes_forbids_it() -> None:
    def read_twice(g: Graph, deep: str) -> list[str]:
        return [g.conv(deep, 24, 16, 1, name="project"), deep]

    def residual_between(g: Graph, deep: str) -> list[str]:
        return [g.conv(g.op("Add", deep, "input"), 24, 16, 1, name="project")]

    def not_1x1(g: Graph, deep: str) -> list[str]:
        return [g.conv(deep, 24, 16, 3, name="project")]

    def odd_channels(g: Graph, deep: str) -> list[str]:
        return [g.conv(deep, 24, 15, 1, name="project")]

    def branches(g: Graph, deep: str) -> list[str]:
        one = g.conv(deep, 24, 16, 1, name="project")
        return [g.op("Concat", one, g.conv("input", 24, 16, 1), axis=1)]

    def own_residual(g: Graph, deep: str) -> list[str]:
        return [g.op("Add", g.conv(deep, 24, 24, 1, name="project"), deep)]

    for ending in (read_twice, residual_between, not_1x1, odd_channels, branches, own_residual):
        g = Graph([1, 24, 6, 7])
        deep = g.conv("input", 24, 24, group=24, name="deep")
        found = families(g.model(*ending(g, deep)))
        assert found["deep"] == "depthwise", ending.__name__
        assert found["project"] != "depthwise_projection", ending.__name__


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("factor", [1e6, np.inf])
def test_weights_that_fp16_cannot_hold_make_no_pair(factor: float) -> None:
    g = Graph([1, 16, 6, 7])
    deep = clip(g, g.conv("input", 16, 16, group=16, name="deep"))
    model = g.model(g.conv(deep, 16, 16, 1, name="project"))
    for one in model.graph.initializer:
        if list(one.dims) == [16, 1, 3, 3]:
            array = onnx.numpy_helper.to_array(one) * np.float32(factor)
            one.CopyFrom(onnx.numpy_helper.from_array(array, one.name))
    if np.isfinite(factor):
        deep, project = planned(model).values()
        assert (deep.name, project.name) == ("deep", "project")
        assert deep.region.kept == ("weights by channel",)
        assert project.region.kept == ()
        return
    with pytest.raises(ModelError, match="'project' has a weight of magnitude"):
        planned(model)


# ---------------------------------------------------------------- MobileNetV2, planned only


def two_blocks() -> onnx.ModelProto:
    """Its second and third."""
    g = Graph([128, 16, 112, 112])
    x = bottleneck(g, "input", 16, 96, 24, 2, prefix="second_")
    return g.model(bottleneck(g, x, 24, 144, 24, prefix="third_"))


@pytest.mark.parametrize(
    ("network", "convs", "pairs", "saved_us"),
    [
        (two_blocks, 6, 1, 0),
        pytest.param(lambda: mobilenet_v2(2), 53, 8, 100, marks=pytest.mark.slow),
    ],
    ids=["two blocks", "whole"],
)
def test_what_is_planned_of_mobilenet_v2(
    network: Callable[[], onnx.ModelProto],
    convs: int,
    pairs: int,
    saved_us: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    whole = tvmconv.inspect(model, arch="sm_90a", batch=128, records=False).plan
    monkeypatch.setenv("TVMCONV_PAIR", "0")
    apart = tvmconv.inspect(model, arch="sm_90a", batch=128, records=False).plan
    parts = [conv for conv in whole.convs if conv.part_of]
    assert len(parts) >= pairs
    assert len(whole.convs) == len(apart.convs) == convs
    assert whole.useful_macs == apart.useful_macs
    assert whole.cost_us < apart.cost_us - saved_us
    assert whole.floor_us < apart.floor_us - saved_us
    by_name = {conv.name: conv for conv in apart.convs}
    for part in parts:
        pair = next(conv for conv in whole.convs if conv.name == part.part_of)
        assert pair.cost_us < by_name[part.name].cost_us + by_name[pair.name].cost_us
        assert json.loads(pair.workloads[0])["prologue"]["groups"] > 1
        assert pair.tensor_core


def test_a_packed_tensor_is_not_what_a_pair_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_PAIR", "1")
    g = Graph([16, 16, 9, 7])
    found = planned(g.model(bottleneck(g, "input", 16, 48, 16)), layout="packed")
    reasons = {one.name: one.layout.reason for one in found.values()}
    assert reasons["expand"] == "read by a pair of convolutions"
    assert reasons["project"] == "written by a pair of convolutions"


# ---------------------------------------------------------------- the workload


def test_what_is_no_pair_is_refused() -> None:
    w = PAIRS["pair"]
    first = w.apart[0]
    for wrong in (
        replace(first, n=2),
        replace(first, k=64),
        replace(first, groups=1),
        replace(first, precision=Precision(result="float32")),
        replace(first, epilogue=replace(first.epilogue, residual=True)),
        replace(first, window=Window(9, 11, 64)),
    ):
        with pytest.raises(ValueError, match="prologue"):
            replace(w, prologue=wrong)


def test_a_pair_is_as_json_what_it_was() -> None:
    for w in PAIRS.values():
        assert ConvWorkload.from_json(w.to_json()) == w
        assert w.apart[0] == w.prologue
        assert w.apart[1].prologue is None
        assert w.in_shape == w.apart[0].in_shape
    assert "prologue" not in json.loads(PAIRS["pair"].apart[1].to_json())
