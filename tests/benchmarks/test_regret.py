"""`benchmarks.regret`: its arithmetic, and each command once on this CPU."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import regret
from benchmarks.regret import ChoiceRow, SpaceRow, app, held_out, numbers
from schedules.hardware import CPU
from tests import networks
from tvmconv.errors import TvmconvError
from tvmconv.tuning.candidates import MOST, space
from tvmconv.tuning.measure import Measured, Timed

ROW = ChoiceRow("net", 1, "a", "a", 3, us=10.0, model_us=20.0, choice="")


def test_each_workload_counts_once_and_each_network_as_its_sum() -> None:
    rows = [
        ROW,
        replace(ROW, workload="b", count=1, us=10.0, model_us=10.0),
        replace(ROW, network="other"),
    ]
    summary = regret.choice_summary(rows)
    assert summary["workloads"] == 2
    assert summary["geometric_mean"] == pytest.approx(math.sqrt(2))
    assert summary["worst"] == 2.0
    assert summary["networks"] == {"net b1": 70 / 40, "other b1": 2.0}


def test_the_first_ones_are_compared_with_all() -> None:
    w = held_out()[0]
    whole = space(w, CPU)[: MOST + 2]
    times = [30.0, 20.0, *[25.0] * (MOST - 2), math.inf, 16.0]
    timed = tuple(Timed(one, us) for one, us in zip(whole, times, strict=True))
    row = SpaceRow.of(Measured(w, timed, timed[-1], 7, 1.0), 99)
    assert (row.ratio, row.best_rank, row.failed) == (20 / 16, MOST + 1, 1)
    assert (row.space, row.measured, row.model_us) == (99, MOST + 2, 30.0)


def test_there_are_twenty_that_differ() -> None:
    assert len(set(held_out())) == 20


def test_numbers() -> None:
    assert numbers("0-2,7", 8) == [0, 1, 2, 7]
    for wrong in ("8", "0-8", "a", ""):
        with pytest.raises(TvmconvError, match="are no numbers up to 7"):
            numbers(wrong, 8)


def test_a_space_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    arguments = ["space", "--target", "llvm", "--workloads", "13", "--most", "3"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--commit", "abc"])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "space-llvm.json").read_text())
    (row,) = document["rows"]
    assert row["measured"] == 3
    assert row["ratio"] >= 1
    assert document["summary"]["workloads"] == 1
    assert document["machine"]["commit"] == "abc"
    assert "geometric mean of the first 32" in done.output


def test_a_network_is_tuned_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regret.zoo, "load", lambda name: networks.small())
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    arguments = ["choice", "--target", "llvm", "--networks", "small", "--batches", "1"]
    arguments += ["--candidates", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "regret-llvm.json").read_text())
    assert len(document["rows"]) == 2
    assert all(row["regret"] >= 0.9 for row in document["rows"])
    assert document["summary"]["tuning_seconds"].keys() == {"small b1"}
    assert (tmp_path / "regret-llvm.jsonl").exists()
