"""By what a layer's kernel was chosen, and the one reason that a report shows for it."""

from __future__ import annotations

import json

import tvmconv
from schedules.families.wmma.config import WmmaConfig
from tests.support import networks
from tests.support.models import Graph
from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.render.build import layer_table, reasons


def test_a_pinned_layer_says_so() -> None:
    configs = {"first": WmmaConfig(1, 1, 1, 1)}
    report = tvmconv.inspect(networks.small(), "llvm", batch=1, configs=configs, records=False).plan
    first, second = report.convs
    assert (first.chosen_by, first.why_family) == ("pinned", "set by hand")
    assert second.chosen_by == "model"
    rows = layer_table(report.convs).splitlines()
    assert rows[0].endswith("chosen")
    assert [row.partition(" ")[0] for row in rows if row.endswith("pinned")] == ["first"]


def test_without_pins_and_records_there_is_no_such_column() -> None:
    report = tvmconv.inspect(networks.small(), "llvm", batch=1, records=False).plan
    assert {conv.chosen_by for conv in report.convs} == {"model"}
    assert "chosen" not in layer_table(report.convs)


def test_a_depthwise_layer_has_one_reason_and_the_others_are_in_the_json() -> None:
    g = Graph([1, 32, 9, 9])
    model = g.model(g.conv("input", 32, 32, group=32, name="depthwise"))
    report = tvmconv.inspect(model, arch="sm_90a", records=False).plan
    (conv,) = report.convs
    assert (conv.family, conv.why_family) == ("depthwise", "depthwise")
    assert reasons(report.convs) == "not on tensor cores:\n  1 x depthwise"
    assert conv.declined["wgmma"] == "32 groups"
    assert {"mma_sync", "few_channels"} <= conv.declined.keys()
    again = BuildReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again.convs[0].declined == conv.declined


def test_a_simulated_network_has_no_columns_of_times() -> None:
    report = tvmconv.build(networks.small(), "hmma-sim", batch=1).report
    assert not report.machine.name
    text = str(report)
    assert "there is no model of what runs this network" in text
    assert " us" not in layer_table(report.convs)
    assert report.cost_us == 0
