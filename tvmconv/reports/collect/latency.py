"""`bench`: the time of a network, split into computing, enqueueing and copying.

On a GPU a `Binding` is run, one CUDA graph, and timed between two CUDA events. Each run is enqueued
while the previous one computes, so that the events enclose only the GPU's work. If enqueueing is
slower, the GPU waits, and the report warns. On a CPU the call is the computation, timed by the
clock. Copies are timed by the clock, one at a time.

Needs only TVM's runtime, not its compiler, so that it works wherever a saved network runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import tvm

from tvmconv.reports.collect.layer_times import layer_times
from tvmconv.reports.data.latency import LatencyReport, Timing
from tvmconv.runtime import cuda as cuda_runtime
from tvmconv.specs import batch_of, shapes_of

if TYPE_CHECKING:
    from tvmconv.runtime.executable import Executable


@dataclass(frozen=True)
class Effort:
    """Limits of a measurement: at least ``min_runs`` and ``min_seconds``, at most ``max_runs``."""

    warmup_ms: float = 200.0
    min_runs: int = 10
    min_seconds: float = 1.0
    max_runs: int = 10_000

    def __post_init__(self) -> None:
        if not 1 <= self.min_runs <= self.max_runs:
            raise ValueError(f"{self}: runs are at least 1, and min_runs at most max_runs")

    def enough(self, runs: int, began: float) -> bool:
        """Returns True if ``runs`` runs since ``began``, as `perf_counter` reads, are enough."""
        waited = perf_counter() - began >= self.min_seconds
        return runs >= self.max_runs or (runs >= self.min_runs and waited)


def bench(
    exe: Executable,
    feeds: Mapping[str, Any] | None = None,
    *,
    relative_l2: float | None = None,
    warmup_ms: float = 200.0,
    min_runs: int = 10,
    min_seconds: float = 1.0,
    max_runs: int = 10_000,
    layers: bool = True,
) -> LatencyReport:
    """Times ``exe`` on ``feeds``, arrays by input name; for buckets each of them.

    relative_l2: the error that `compare` found; without it the report says "unchecked". Warm-up
    lasts ``warmup_ms``. Runs follow until there are ``min_runs`` and ``min_seconds`` have passed,
    or ``max_runs``; copies get a fifth of that time. layers: then time each layer and other kernel
    by itself, which takes a few more runs. Raises `FeedError` for feeds that do not fit,
    `TargetError` if the device fails.
    """
    effort = Effort(warmup_ms, min_runs, min_seconds, max_runs)
    reports = [_bench(*one, relative_l2, effort, layers) for one in exe.each_bucket(feeds)]
    return replace(reports[-1], smaller=tuple(reports[:-1]))


def _bench(
    exe: Executable,
    feeds: Mapping[str, Any],
    relative_l2: float | None,
    effort: Effort,
    layers: bool,
) -> LatencyReport:
    """Times one batch; see `bench`."""
    device, tensors = exe.device(), exe.transfer_in(feeds)
    outputs = exe.enqueue(tensors)

    # With parts in onnxruntime a run waits for the device several times: the clock times it.
    on_gpu = exe.target == "cuda" and not exe.in_parts
    bound = exe.bind(feeds).run if on_gpu else None
    start: Callable[[], object] = bound or (lambda: exe.enqueue(tensors))

    def run() -> None:
        start()
        device.sync()

    def copy_in() -> None:
        exe.transfer_in(feeds)
        device.sync()

    warmup_runs = warm_up(run, effort)
    enqueue: Timing | None = None
    if on_gpu:
        compute, enqueue = cuda_time(start, device, effort)
    else:
        compute = host_time(run, effort)
    brief = replace(effort, min_seconds=effort.min_seconds / 5)
    return LatencyReport(
        target=exe.target,
        arch=exe.arch,
        batch=batch_of(exe.inputs),
        shapes=shapes_of(exe.inputs),
        threads=None if enqueue else tvm.runtime.num_threads(),
        compute=compute,
        enqueue=enqueue,
        host_to_device=host_time(copy_in, brief),
        device_to_host=host_time(lambda: exe.transfer_out(outputs), brief),
        warmup_ms=effort.warmup_ms,
        warmup_runs=warmup_runs,
        relative_l2=relative_l2,
        layers=layer_times(exe, tensors) if layers else (),
    )


# --- stopwatches; the benchmarks time other programs with the same ones ----------------------
def warm_up(run: Callable[[], object], effort: Effort) -> int:
    """Calls ``run`` until ``effort.warmup_ms`` have passed, at least once. Returns the calls."""
    began, runs = perf_counter(), 0
    while runs == 0 or (perf_counter() - began) * 1e3 < effort.warmup_ms:
        run()
        runs += 1
    return runs


def host_time(run: Callable[[], object], effort: Effort) -> Timing:
    """Times ``run`` by the clock. It has to wait for the work that it starts on a device."""
    samples: list[float] = []
    began = perf_counter()
    while not effort.enough(len(samples), began):
        start = perf_counter()
        run()
        samples.append((perf_counter() - start) * 1e3)
    return Timing.of(samples)


def cuda_time(
    enqueue: Callable[[], object], device: tvm.runtime.Device, effort: Effort
) -> tuple[Timing, Timing]:
    """Returns GPU time and enqueue time of the work that ``enqueue`` starts on ``device``.

    It goes to the device's current stream. Raises `TargetError` if CUDA reports an error.
    """
    events = _CudaEvents(device)
    compute: list[float] = []
    enqueued: list[float] = []
    running: deque[tuple[cuda_runtime.Event, cuda_runtime.Event]] = deque()
    began = perf_counter()
    while not effort.enough(len(enqueued), began):
        start = events.record()
        before = perf_counter()
        enqueue()
        enqueued.append((perf_counter() - before) * 1e3)
        running.append((start, events.record()))
        if len(running) > 1:  # one computes, one waits behind it
            compute.append(events.elapsed_ms(*running.popleft()))
    compute += [events.elapsed_ms(*pair) for pair in running]
    return Timing.of(compute), Timing.of(enqueued)


class _CudaEvents:
    """CUDA's own stopwatch.

    TVM's ``runtime.timer.cuda`` is a pair of the same events, but only C++ can start and stop it,
    and its RPC time evaluator returns means.
    """

    def __init__(self, device: tvm.runtime.Device) -> None:
        self._stream = cuda_runtime.current_stream(device)

    def record(self) -> cuda_runtime.Event:
        """Returns an event that happens when the stream has done all its present work."""
        return cuda_runtime.Event(timed=True).record(self._stream)

    def elapsed_ms(self, start: cuda_runtime.Event, stop: cuda_runtime.Event) -> float:
        """Waits for ``stop``. Returns the milliseconds between the two."""
        return stop.ms_since(start)
