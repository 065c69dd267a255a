"""`bench` times what it says it times, and warns where its figures should not be quoted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest
import tvm

import tvmconv
from tests.support import networks
from tvmconv.errors import FeedError
from tvmconv.reports.collect import latency
from tvmconv.reports.collect.latency import Effort
from tvmconv.reports.data.latency import LatencyReport, Timing
from tvmconv.runtime.feeds import random_feeds
from tvmconv.specs import TensorSpec

QUICK: dict[str, Any] = {
    "warmup_ms": 5.0,
    "min_runs": 5,
    "min_seconds": 0.02,
    "layers": False,
}


class Sleeper:
    """Looks like an `Executable`, and takes known times: 2, 6 and 4 ms."""

    target, arch = "llvm", "sleepy"
    inputs = (TensorSpec("x", (4, 3), "float32"),)
    in_parts = False

    def __init__(self) -> None:
        self.enqueued = 0

    def device(self) -> Any:
        return tvm.cpu()

    def each_bucket(self, feeds: Any) -> Iterator[tuple[Sleeper, Any]]:
        yield self, random_feeds(self.inputs) if feeds is None else feeds

    def transfer_in(self, feeds: Any) -> list[Any]:
        assert feeds["x"].shape == (4, 3)
        sleep(0.002)
        return ["tensor"]

    def bind(self, feeds: Any) -> Sleeper:
        return self

    def run(self) -> None:
        """As a binding of it."""
        self.enqueue(["tensor"])

    def enqueue(self, tensors: list[Any]) -> list[Any]:
        assert tensors == ["tensor"]
        self.enqueued += 1
        sleep(0.006)
        return ["result"]

    def transfer_out(self, results: list[Any]) -> dict[str, Any]:
        assert results == ["result"]
        sleep(0.004)
        return {}


def timing(median_ms: float = 1.0, variation: float = 0.001) -> Timing:
    return replace(Timing.of([median_ms] * 10), variation=variation)


def report(**changes: Any) -> LatencyReport:
    """One that has nothing to warn of."""
    plain: dict[str, Any] = {
        "target": "cuda",
        "arch": "sm_90",
        "batch": 8,
        "threads": None,
        "compute": timing(2.0),
        "enqueue": timing(0.1),
        "host_to_device": timing(),
        "device_to_host": timing(),
        "warmup_ms": 200.0,
        "warmup_runs": 7,
        "relative_l2": 1e-3,
    }
    return LatencyReport(**{**plain, **changes})


# --- the distribution -----------------------------------------------------------------------
def test_the_distribution_of_one_to_hundred() -> None:
    found = Timing.of(list(np.random.default_rng(0).permutation(np.arange(1.0, 101.0))))
    assert (found.runs, found.min_ms, found.max_ms) == (100, 1, 100)
    assert (found.mean_ms, found.median_ms) == (50.5, 50.5)
    assert found.p90_ms == pytest.approx(90.1)
    assert found.p95_ms == pytest.approx(95.05)
    assert found.p99_ms == pytest.approx(99.01)
    assert found.variation == pytest.approx(np.sqrt((100**2 - 1) / 12) / 50.5)


def test_one_sample_is_a_distribution() -> None:
    found = Timing.of([3.0])
    assert found.min_ms == found.median_ms == found.p99_ms == 3
    assert found.variation == 0


# --- how long to measure --------------------------------------------------------------------
def test_runs_go_on_until_there_are_enough_and_time_has_passed() -> None:
    assert latency.host_time(lambda: None, Effort(min_runs=7, min_seconds=0)).runs == 7
    began = perf_counter()
    found = latency.host_time(lambda: sleep(0.001), Effort(min_runs=1, min_seconds=0.05))
    assert perf_counter() - began >= 0.05
    assert 2 < found.runs <= 50


def test_runs_end_at_the_most_asked_for() -> None:
    effort = Effort(min_runs=2, min_seconds=60, max_runs=9)
    assert latency.host_time(lambda: None, effort).runs == 9


def test_warm_up_runs_at_least_once_and_for_its_time() -> None:
    assert latency.warm_up(lambda: None, Effort(warmup_ms=0)) == 1
    began = perf_counter()
    assert latency.warm_up(lambda: sleep(0.001), Effort(warmup_ms=30)) > 1
    assert perf_counter() - began >= 0.03


@pytest.mark.parametrize("wrong", [{"min_runs": 0}, {"min_runs": 5, "max_runs": 4}])
def test_an_effort_that_gives_no_samples_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="min_runs"):
        Effort(**wrong)


# --- bench ----------------------------------------------------------------------------------
def test_computing_and_copying_are_timed_apart() -> None:
    exe: Any = Sleeper()
    found = tvmconv.bench(exe, **QUICK)
    # Sleep is never shorter than asked for; how much longer is up to the machine.
    assert 6 <= found.compute.min_ms < 6 + 4
    assert 2 <= found.host_to_device.min_ms < 2 + 4
    assert 4 <= found.device_to_host.min_ms < 4 + 2
    assert found.compute.runs >= 5
    assert found.enqueue is None, "on a CPU the call is the whole run"
    assert found.threads == tvm.runtime.num_threads()
    assert (found.target, found.arch, found.batch) == ("llvm", "sleepy", 4)
    assert found.throughput == pytest.approx(4000 / found.compute.median_ms)
    # One run before all, for outputs to copy.
    assert exe.enqueued == 1 + found.warmup_runs + found.compute.runs


def test_bench_on_a_built_network() -> None:
    exe = tvmconv.build(networks.small(), target="llvm", batch=3)
    found = tvmconv.bench(exe, relative_l2=2e-4, **QUICK)
    assert found.batch == 3
    assert 0 < found.compute.min_ms <= found.compute.median_ms <= found.compute.p99_ms
    assert "batch 3 on llvm" in str(found)
    assert "2.00e-04" in str(found)
    with pytest.raises(FeedError):
        tvmconv.bench(exe, {"x:0": np.zeros((1, 3, 12, 12), "f4")}, **QUICK)


def test_feeds_by_default_are_seeded_and_of_the_specs_dtypes() -> None:
    specs = [
        TensorSpec("image", (2, 500), "float16"),
        TensorSpec("ids", (9,), "int64"),
        TensorSpec("mask", (9,), "bool"),
    ]
    feeds, again = random_feeds(specs), random_feeds(specs)
    for spec in specs:
        assert feeds[spec.name].shape == spec.shape
        assert feeds[spec.name].dtype == spec.dtype
        np.testing.assert_array_equal(feeds[spec.name], again[spec.name])
    assert abs(float(feeds["image"].std()) - 1) < 0.1
    assert set(feeds["ids"]) == {0, 1}


# --- on a GPU -------------------------------------------------------------------------------
class FakeEvents:
    """Keeps a diary instead of a clock; every run took 5 ms."""

    diary: list[str]

    def __init__(self, device: Any) -> None:
        self.diary.append(f"on {device}")

    def record(self) -> str:
        self.diary.append("record")
        return "event"

    def elapsed_ms(self, start: str, stop: str) -> float:
        self.diary.append("wait")
        return 5.0


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    FakeEvents.diary = []
    monkeypatch.setattr(latency, "_CudaEvents", FakeEvents)
    return FakeEvents.diary


def test_a_run_is_enqueued_while_the_one_before_computes(diary: list[str]) -> None:
    effort = Effort(min_runs=3, min_seconds=0)
    compute, enqueue = latency.cuda_time(lambda: diary.append("enqueue"), tvm.cpu(), effort)
    run = ["record", "enqueue", "record"]
    assert diary == ["on cpu:0", *run, *run, "wait", *run, "wait", "wait"]
    assert compute.runs == enqueue.runs == 3
    assert compute.median_ms == 5
    assert enqueue.median_ms < 1


def test_for_cuda_the_gpus_own_time_is_reported(diary: list[str]) -> None:
    exe: Any = Sleeper()
    exe.target, exe.arch = "cuda", "sm_90"
    found = tvmconv.bench(exe, **QUICK)
    assert found.compute.median_ms == 5
    assert found.enqueue is not None
    assert 6 <= found.enqueue.min_ms < 10
    assert found.threads is None
    assert any("enqueue-bound" in warning for warning in found.warnings)


@pytest.mark.gpu
def test_gpu_time_is_less_than_the_wall_and_more_than_nothing() -> None:
    model = networks.small(side=112)
    exe = tvmconv.build(model, batch=64)
    error = tvmconv.compare(model, exe).relative_l2
    found = tvmconv.bench(exe, relative_l2=error, min_seconds=0.3)
    tensors = exe.transfer_in(random_feeds(exe.inputs))

    def run() -> None:
        exe.enqueue(tensors)
        exe.device().sync()

    wall = latency.host_time(run, Effort(min_seconds=0.3))
    assert found.enqueue is not None
    assert 0.005 < found.compute.median_ms < 1.1 * wall.median_ms
    assert found.host_to_device.median_ms > 0.1, "9.6 MB do not cross in less"
    assert found.compute.runs == found.enqueue.runs


# --- the report -----------------------------------------------------------------------------
def test_a_good_measurement_has_no_warnings() -> None:
    assert report().warnings == ()
    assert "Warning" not in str(report())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"enqueue": timing(1.7)}, "enqueue-bound"),
        ({"compute": timing(2.0, variation=0.026)}, "unstable"),
        ({"relative_l2": None}, "unchecked"),
    ],
)
def test_what_a_reader_has_to_know_is_said(changes: dict[str, Any], word: str) -> None:
    (warning,) = report(**changes).warnings
    assert warning.startswith(word)
    assert f"Warning: {word}" in str(report(**changes))


def test_the_table_has_a_row_for_every_duration() -> None:
    rows = {line.split("  ")[0] for line in str(report()).splitlines()}
    assert {"ms", "compute", "enqueue", "host to device", "device to host"} <= rows
    assert "enqueue" not in str(report(enqueue=None, target="llvm", threads=2))


def test_json_has_every_figure() -> None:
    found = json.loads(json.dumps(report().to_json(), allow_nan=False))
    assert found["compute"]["median_ms"] == 2
    assert found["throughput_images_per_s"] == pytest.approx(4000)
    assert found["warnings"] == []
    assert {"min_ms", "mean_ms", "p90_ms", "p95_ms", "p99_ms", "variation", "runs"} <= set(
        found["enqueue"]
    )


def test_timing_needs_no_onnx() -> None:
    code = "import sys, tvmconv; tvmconv.bench; print([m for m in sys.modules if 'onnx' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
