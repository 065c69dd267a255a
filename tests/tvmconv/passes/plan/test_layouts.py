"""Layouts follow what they cost; whoever can't read the chosen one gets a copy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import tvmconv
from schedules.choose import kernel_cost
from schedules.conv.workload import NHWC, PACKED, ConvWorkload
from schedules.family import Family
from schedules.machine.cost import Cost
from schedules.machine.hardware import Hardware
from tests.support.models import Graph, residual_net
from tvmconv.compiler import build as compiler
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.plan import Plan, plan
from tvmconv.reports.data.build import BuildReport


def packed_is_cheap(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
    """A hundredth for writing packed; a copy costs a few microseconds, a convolution 1000."""
    return Cost(10.0 if w.out_layout == PACKED else 1000.0, "arithmetic")


def packed_is_dear(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
    return Cost(1000.0 if PACKED in (w.in_layout, w.out_layout) else 10.0, "arithmetic")


def planned(estimate: Any, mod: Any, regions: Any, chooser: Chooser, *options: Any) -> Plan:
    """`plan` by that estimate."""
    policy = replace(chooser.policy, estimate=estimate)
    return plan(mod, regions, replace(chooser, policy=policy), *options)


def built(monkeypatch: pytest.MonkeyPatch, model: Any, estimate: Any) -> BuildReport:
    """The report of the model, planned with that estimate and held to onnxruntime."""
    monkeypatch.setattr(compiler, "plan", partial(planned, estimate))
    exe = tvmconv.build(model, target="llvm", batch=16)
    shape = exe.inputs[0].shape
    x = np.random.default_rng(5).standard_normal(shape).astype("f")
    report = tvmconv.compare(model, exe, {"input": x})
    assert report.passed(5e-3), str(report)
    return exe.report


def out_layouts(report: BuildReport) -> dict[str, str]:
    return {conv.name: conv.out_layout for conv in report.convs}


def test_packed_where_it_costs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    report = built(monkeypatch, residual_net("batch"), packed_is_cheap)
    convs = report.convolutions
    assert {conv.out_layout for conv in convs} == {str(PACKED)}
    assert {conv.family for conv in convs} == {"wmma_packed"}
    # A convolution that reads a packed one reads it so, without a copy between them.
    assert str(PACKED) in {conv.in_layout for conv in convs}
    assert "costs least" in {conv.why_layout for conv in convs}


def test_other_readers_get_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooling, a concat and the network's output read what a convolution writes packed."""
    g = Graph(["batch", 16, 8, 8])
    x = g.op("Relu", g.conv("input", 16, 32, name="one"))
    pooled = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = g.conv(pooled, 32, 16, name="two")
    z = g.op("Concat", g.conv(x, 32, 16, 1, name="three"), g.op("Tanh", x), axis=1)
    report = built(monkeypatch, g.model(y, z), packed_is_cheap)
    assert set(out_layouts(report).values()) == {str(PACKED)}


def test_never_packed_where_it_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    report = built(monkeypatch, residual_net("batch"), packed_is_dear)
    assert {conv.out_layout for conv in report.convs} == {str(NHWC)}


def test_where_nothing_is_gained_it_is_nhwc(monkeypatch: pytest.MonkeyPatch) -> None:
    report = built(monkeypatch, residual_net("batch"), kernel_cost)
    for conv in report.convolutions:
        assert conv.out_layout == str(NHWC)
        assert conv.why_layout == f"costs no more than {PACKED}"


def test_a_copy_that_costs_more_than_it_saves_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One microsecond less for the convolution, at least two for the copy that pooling needs."""

    def a_little_cheaper(w: ConvWorkload, family: Family, config: Any, hardware: Any) -> Cost:
        return Cost(99.0 if w.out_layout == PACKED else 100.0, "arithmetic")

    g = Graph(["batch", 16, 8, 8])
    x = g.conv(g.op("Relu", g.conv("input", 16, 32, name="one")), 32, 16, name="two")
    report = built(monkeypatch, g.model(g.op("GlobalMaxPool", x)), a_little_cheaper)
    assert out_layouts(report) == {"one": str(PACKED), "two": str(NHWC)}


BARRED = {
    "groups": (lambda g: g.conv("input", 32, 32, group=2), "groups and transposed"),
    "channels": (lambda g: g.conv("input", 32, 24), "24 channels are no multiple of 16"),
    "a matrix": (
        lambda g: g.op("MatMul", g.op("Flatten", g.op("GlobalAveragePool", "input")),
                       g.constant((g.rng.standard_normal((32, 16)) / 6).astype("f"))),
        "a matrix",
    ),
    "a branch": (
        lambda g: g.op("Concat", g.conv("input", 32, 16), g.conv("input", 32, 16, 1), axis=1),
        "part of a larger tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BARRED)
def test_declined_what_can_not_be_packed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, why = BARRED[name]
    g = Graph(["batch", 32, 6, 6])
    report = built(monkeypatch, g.model(g.op("Relu", write(g))), packed_is_cheap)
    assert {conv.out_layout for conv in report.convs} == {str(NHWC)}
    assert all(why in conv.why_layout for conv in report.convs)


def test_declined_a_batch_that_is_no_multiple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "plan", partial(planned, packed_is_cheap))
    report = tvmconv.inspect(residual_net("batch"), target="llvm", batch=24)
    assert {conv.out_layout for conv in report.convs} == {str(NHWC)}
    assert "a batch of 24 is no multiple of 16" in {conv.why_layout for conv in report.convs}
