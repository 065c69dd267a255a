"""Tuning on this CPU: candidates are checked before they are timed, and nothing stops the rest."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto, helper
from tvm.target.codegen import llvm_get_system_cpu

import tvmconv
from schedules.choose import choose, kernel_cost
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.family import Reject
from schedules.machine.hardware import CPU, CUDA_ARCHS
from schedules.machine.processor import Processor
from schedules.registry import FAMILIES
from tests.support import networks
from tests.support.workloads import PAIRS, WORKLOADS
from tvmconv.errors import FamilyError, TargetError, TuningError, UnsupportedOperatorError
from tvmconv.records import store as book
from tvmconv.tuning import workloads
from tvmconv.tuning.budget import Budget, Pace, Want
from tvmconv.tuning.candidates import rank_on, sample, space
from tvmconv.tuning.kernels import Target
from tvmconv.tuning.workloads import Progress, TuningOptions

TARGET = Target("llvm", llvm_get_system_cpu())
W = ConvWorkload(1, 9, 8, 24, 20, 3, 3, padding=(1, 1, 1, 1), epilogue=Epilogue(True, True))
SM_90 = next(one for one in CUDA_ARCHS if one.name == "sm_90")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cloudpickle") is None, reason="the tune extra is not installed"
)


# --- candidates -----------------------------------------------------------------------------
@pytest.mark.parametrize("hardware", [CPU, SM_90], ids=lambda one: one.name)
@pytest.mark.parametrize("name", WORKLOADS | PAIRS)
def test_the_space_is_all_there_is_the_models_choice_first(name: str, hardware: Any) -> None:
    w = (WORKLOADS | PAIRS)[name]
    matching = [f for f in FAMILIES if not isinstance(f.match(w, hardware), Reject)]
    if not matching:
        with pytest.raises(FamilyError, match="no family computes"):
            space(w, hardware)
        assert name in PAIRS
        assert hardware is CPU
        return
    whole = space(w, hardware)
    chosen = choose(w, hardware)
    assert (whole[0].family, whole[0].config) == (chosen.family, chosen.config)
    expected = {(f.name, c) for f in matching for c in f.space(w, hardware)}
    found = [(one.family.name, one.config) for one in whole]
    assert len(set(found)) == len(found)
    assert set(found) >= expected
    costs = [one.predicted_us for one in whole[1:]]
    assert costs == sorted(costs)
    assert costs[0] == kernel_cost(w, whole[1].family, whole[1].config, hardware).us


def test_another_ranking_changes_the_order_alone() -> None:
    def by_threads(w: ConvWorkload, family: Any, config: Any, hardware: Any) -> float:
        return -float(getattr(config, "warps", 0))

    ranked = space(W, SM_90, by_threads)
    assert {one.config for one in ranked} == {one.config for one in space(W, SM_90)}
    warps = [getattr(one.config, "warps", 0) for one in ranked[1:]]
    assert warps == sorted(warps, reverse=True)
    assert warps[0] > warps[-1] == 0


def test_a_cpu_is_tuned_by_its_own_costs() -> None:
    """No candidate is predicted to be faster than the CPU can be."""
    assert isinstance(TARGET.machine, Processor)
    w = ConvWorkload(1, 56, 56, 64, 64, 3, 3, padding=(1, 1, 1, 1))
    for one in space(w, CPU, rank_on(TARGET.machine)):
        macs = one.family.padded_macs(w, one.config)
        assert one.predicted_us >= 2 * macs / TARGET.machine.peak_tflops("float16") / 1e6
    assert Target("cuda", "sm_90").machine is SM_90.card


def test_a_sample_keeps_the_first_and_the_order() -> None:
    whole = space(W, SM_90)
    part = sample(whole, 20)
    assert len(part) == 20
    assert part[0] is whole[0]
    at = [whole.index(one) for one in part]
    assert at == sorted(at)
    assert at[-1] > 20, "not simply the first"
    assert sample(whole[:5], 20) == whole[:5]


# --- a budget -------------------------------------------------------------------------------
def test_a_budget_is_split_by_shares_and_what_is_left_goes_on() -> None:
    budget = Budget(100.0, Pace(1.0))
    assert budget.allot([Want(0.5, 99), Want(0.3, 99), Want(0.2, 99)], 0.0) == [50, 30, 20]
    assert budget.allot([Want(0.5, 32), Want(0.3, 99), Want(0.2, 99)], 0.0) == [32, 40, 28]
    assert budget.allot([Want(0.9, 32), Want(0.1, 32)], 90.0) == [9, 0], "one alone tells nothing"
    budget.begun = 50
    assert budget.allot([Want(1.0, 99)], 10.0) == [40]
    assert budget.allot([Want(1.0, 99)], 200.0) == [0]
    assert Budget(math.inf, Pace(1.0)).allot([Want(0.5, 32), Want(0.5, 3)], 1e9) == [32, 3]


def test_the_pace_follows_what_is_seen() -> None:
    pace = Pace.guessed("cuda", jobs=15, apart=False)
    assert pace.each == pytest.approx(0.2)
    pace.saw(8, 16.0)
    assert pace.each == pytest.approx((8 * 0.2 + 16.0) / 16)


class SlowStart:
    """Measures nothing: the first workload in 20 s of its own clock, the others in none. Compiles
    ahead."""

    disturbs = False
    target = Target("llvm", llvm_get_system_cpu())
    now = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        SlowStart.now = 0.0

    def __enter__(self) -> SlowStart:
        return self

    def __exit__(self, *error: object) -> None: ...

    def device(self) -> str:
        return "none"

    def compile(self, w: Any, candidates: Any) -> Any:
        return SimpleNamespace(candidates=candidates)

    def measure(self, compiling: Any, **options: Any) -> Any:
        SlowStart.now = 20.0
        raise TuningError("nothing is measured")


def test_what_seemed_too_long_is_taken_up_once_others_were_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "Workshop", SlowStart)
    monkeypatch.setattr(workloads, "perf_counter", lambda: SlowStart.now)
    counts = {replace(W, n=n).to_json(): 1 for n in range(1, 9)}
    options = TuningOptions(jobs=1, records=tmp_path / "r", budget_s=40.0)
    report = workloads.measure_workloads(counts, "llvm", SlowStart.target.arch, options)
    assert [layer.status for layer in report.layers] == ["failed"] * 8


# --- networks -------------------------------------------------------------------------------
def tune(path: Path, **options: Any) -> Any:
    options = {"batch": 1, "records": path, "most": 2, "jobs": 1, **options}
    return tvmconv.tune(networks.small(), "llvm", **options)


@pytest.mark.slow
def test_a_record_of_a_family_that_is_not_asked_for_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    tune(path, families=["wmma_nhwc"])
    same = tune(path, families=["wmma_nhwc"], dry_run=True)
    assert {layer.status for layer in same.layers} == {"recorded"}
    other = tune(path, families=["direct"], dry_run=True)
    assert "recorded" not in {layer.status for layer in other.layers}


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "records" / "r.jsonl"

    def stop(at: Progress) -> None:
        if at.layer.status == "measured":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(path, watch=stop)
    (first,) = book.read(path)
    steps: list[Progress] = []
    report = tune(path, watch=steps.append)
    assert [layer.status for layer in report.layers] == ["recorded", "measured"]
    assert report.layers[0].us == first.us
    assert len(book.read(path)) == 2
    assert {step.total for step in steps} == {1}
    assert steps[-1].done == 1
    again = tune(path)
    assert [layer.status for layer in again.layers] == ["recorded", "recorded"]
    assert again.us == pytest.approx(report.us)
    exe = tvmconv.build(networks.small(), "llvm", batch=1, records=path)
    assert all(conv.tuned >= 0.9 for conv in exe.report.convs)
    assert tvmconv.compare(networks.small(), exe).passed(5e-3)


def test_a_dry_run_writes_and_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    report = tune(path, dry_run=True, most=32)
    assert [layer.status for layer in report.layers] == ["planned", "planned"]
    assert all(2 < layer.candidates == min(32, layer.space) for layer in report.layers)
    assert report.seconds > 1
    assert not path.exists()
    assert "2 planned; about" in str(report)
    brief = tune(path, dry_run=True, most=32, budget_s=report.seconds / 4)
    assert all(2 <= layer.candidates <= 8 for layer in brief.layers)
    assert tune(path, dry_run=True, budget_s=1e-3).layers[0].status == "left out"


def test_a_dry_run_for_a_gpu_needs_none(tmp_path: Path) -> None:
    report = tvmconv.tune(
        networks.small(), "cuda", arch="sm_90", batch=8, dry_run=True, records=tmp_path / "r"
    )
    assert all(2 < layer.candidates == min(32, layer.space) for layer in report.layers)


def test_without_a_gpu_nothing_is_measured_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvmconv.runtime.gpu.detect_arch", lambda: None)
    with pytest.raises(TargetError, match="nothing can be measured for sm_90 here"):
        tvmconv.tune(networks.small(), "cuda", arch="sm_90", batch=1, records=tmp_path / "r")


def test_shares_count_how_often_a_workload_occurs(tmp_path: Path) -> None:
    report = tvmconv.tune(
        networks.small(), "llvm", batch=[1, 2], dry_run=True, records=tmp_path / "r"
    )
    assert sum(layer.share for layer in report.layers) == pytest.approx(1.0)
    assert len(report.layers) == 4, "two in each bucket"
    shares = [layer.share for layer in report.layers]
    assert shares == sorted(shares, reverse=True)


def test_what_can_not_be_built_is_not_tuned(tmp_path: Path) -> None:
    model = networks.small()
    node = model.graph.node.add()
    node.op_type, node.name, node.domain = "Odd", "where", "my.ops"
    model.opset_import.add(domain="my.ops", version=1)
    node.input.append("pooled")
    node.output.append("where")
    where = helper.make_tensor_value_info("where", TensorProto.INT64, [2, None])
    model.graph.output.append(where)
    with pytest.raises(UnsupportedOperatorError, match="nothing to tune"):
        tvmconv.tune(model, "llvm", batch=1, records=tmp_path / "r")


@pytest.mark.slow
def test_machines_behind_a_tracker_measure(tmp_path: Path) -> None:
    """Here one server, which is this machine."""
    pytest.importorskip("tornado", reason="the tune extra is not installed")
    from tvm.rpc.server import Server
    from tvm.rpc.tracker import Tracker

    host = "127.0.0.1"
    tracker = Tracker(host, port=9190, port_end=9290, silent=True)
    server = Server(
        host,
        port=9300,
        port_end=9400,
        tracker_addr=(host, tracker.port),
        key="this",
        silent=True,
    )
    try:
        machines = tvmconv.Tracker(host, tracker.port, "this")
        report = tune(tmp_path / "r.jsonl", tracker=machines)
    finally:
        server.terminate()
        tracker.terminate()
    assert [layer.status for layer in report.layers] == ["measured", "measured"]
    assert [one.measured for one in book.read(tmp_path / "r.jsonl")] == [2, 2]
