"""Which kernels `benchmarks.convs` times; what they take, only a GPU tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import convs
from benchmarks.convs import CUDNN, Row, jobs, speed_ups, workload
from schedules.choose import Policy, choose
from tvmconv.compiler import toolchain
from tvmconv.records import store as records


@pytest.mark.parametrize("name", ["tutorial", "resnet18.stem", "resnet50.layer4.expand"])
def test_what_a_build_takes_comes_first(name: str) -> None:
    found = jobs([name], [1], "sm_90a")
    w = workload(name, found[0].batch)
    choice = choose(w, toolchain.cuda_arch("sm_90a"), Policy(records=records.lookup("sm_90a")))
    assert (found[0].family, found[0].config) == (choice.family.name, choice.config)
    assert len(found) == len(set(found))
    assert "wmma_nhwc" in {job.family for job in found}
    assert all(job.workload == w for job in found)


def test_a_record_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lookup = records.lookup
    path = tmp_path / "none.jsonl"
    path.write_text("")

    def none(arch: str, choice: Any = True) -> Any:
        return lookup(arch, path)

    name, batch = "resnet50.layer3.reduce", 1
    (tuned, *_) = jobs([name], [batch], "sm_90a")
    monkeypatch.setattr(convs.records, "lookup", none)
    plain = jobs([name], [batch], "sm_90a")
    assert tuned not in plain
    assert len(plain) == len({job.family for job in plain})


def test_speed_is_that_of_what_a_build_takes() -> None:
    def row(family: str, chosen: bool, us: float, name: str = "a", batch: int = 1) -> Row:
        return Row(name, batch, family, "", chosen, 0.0, us, 0.0)

    rows = [row(CUDNN, False, 8), row("x", True, 2), row("y", False, 1)]
    rows += [row(CUDNN, False, 1, "b"), row("x", True, 1, "b")]
    rows += [row(CUDNN, False, 3, batch=8), row("y", True, 6, batch=8)]
    assert speed_ups(rows) == pytest.approx({1: 2.0, 8: 0.5})
