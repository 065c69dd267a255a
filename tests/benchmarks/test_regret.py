"""`benchmarks.regret`: its arithmetic, and each command once on this CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import regret
from benchmarks.regret import Use, app, choice_summary, part_of, sample_of
from benchmarks.whole_space import SpaceRow, held_out, numbers
from schedules.machine.hardware import CUDA_ARCHS
from tests.support import networks
from tvmconv.errors import TvmconvError
from tvmconv.tuning.candidates import MOST, space
from tvmconv.tuning.measure import Measured, Timed

SM_90 = next(one for one in CUDA_ARCHS if one.name == "sm_90")
ROW = {"network": "net", "batch": 1, "workload": "a", "count": 3, "us": 10.0, "model_us": 20.0}
ROW["regret"] = 2.0


def test_each_workload_counts_once_and_each_network_as_its_sum() -> None:
    rows = [
        ROW,
        {**ROW, "workload": "b", "count": 1, "model_us": 10.0, "regret": 1.0},
        {**ROW, "network": "other"},
    ]
    summary = choice_summary(rows)
    assert summary["workloads"] == 2
    assert summary["geometric_mean"] == pytest.approx(math.sqrt(2))
    assert summary["worst"] == 2.0
    assert summary["networks"] == {"net b1": 70 / 40, "other b1": 2.0}


def test_parts_share_the_workloads_and_keep_their_uses() -> None:
    uses = [Use("a", 1, "x", 1), Use("a", 1, "y", 2), Use("b", 1, "x", 3), Use("b", 8, "z", 1)]
    assert part_of(uses, "1/1") == uses
    assert part_of(uses, "1/2") == [uses[0], uses[2], uses[3]]
    assert part_of(uses, "2/2") == [uses[1]]
    for wrong in ("0/2", "3/2", "2", "a/b", "-1/2"):
        with pytest.raises(TvmconvError, match="is not a part"):
            part_of(uses, wrong)


def test_a_sample_is_the_same_each_time() -> None:
    uses = [Use(name, 1, str(at), 1) for name in "ab" for at in range(50)]
    drawn = sample_of(uses, 7)
    assert drawn == sample_of(uses, 7)
    assert len(drawn) == 14
    assert len({use.workload for use in drawn}) == 7
    assert sample_of(uses, 60) == uses


def test_parts_of_one_run_join(tmp_path: Path) -> None:
    gpu = {"name": "H200", "driver_version": "1", "clocks.sm": "345 MHz"}
    facts = {"commit": "abc", "gpus": [gpu]}
    for name, row in (("1", ROW), ("2", {**ROW, "workload": "b", "regret": 8.0})):
        document = {"target": "cuda", "machine": facts, "summary": {}, "rows": [row]}
        (tmp_path / name).write_text(json.dumps(document))
    arguments = ["merge", str(tmp_path / "1"), str(tmp_path / "2"), "--out", str(tmp_path / "all")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "all").read_text())
    assert document["summary"]["geometric_mean"] == pytest.approx(4)
    assert len(document["rows"]) == 2
    assert [one["commit"] for one in document["machines"]] == ["abc", "abc"]
    other = {**facts, "gpus": [{**gpu, "driver_version": "2"}]}
    (tmp_path / "2").write_text(json.dumps({"machine": other, "rows": []}))
    wrong = CliRunner().invoke(app, arguments)
    assert isinstance(wrong.exception, TvmconvError)
    assert wrong.exception.note == "H200, driver 2, and H200, driver 1"
    space_row = {"ratio": 1.0, "model_us": 1.0, "best_us": 1.0}
    (tmp_path / "2").write_text(json.dumps({"machine": facts, "rows": [space_row]}))
    assert "mix choices and spaces" in str(CliRunner().invoke(app, arguments).exception)


def test_the_first_ones_are_compared_with_all() -> None:
    w = held_out()[0]
    whole = space(w, SM_90)[: MOST + 2]
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
        with pytest.raises(TvmconvError, match="are not numbers up to 7"):
            numbers(wrong, 8)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_network_is_planned_tuned_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regret.zoo, "load", lambda name: networks.small())
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    out = ["--out", str(tmp_path)]
    planning = ["plan", "--target", "llvm", "--networks", "small", "--batches", "1", *out]
    done = CliRunner().invoke(app, planning)
    assert done.exit_code == 0, done.output
    assert "convolutions that differ" in done.output
    plan = str(tmp_path / "plan.json")
    done = CliRunner().invoke(app, ["choice", plan, "--candidates", "2", *out])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "regret-llvm.json").read_text())
    assert len(document["rows"]) == 2
    assert all(row["regret"] >= 0.9 for row in document["rows"])
    assert document["summary"]["tuning_seconds"] > 0
    assert (tmp_path / "regret-llvm.jsonl").exists()
