"""Times of a network and of its layers: `LatencyReport`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tvmconv.reports.data.layer_times import LayerTime
from tvmconv.reports.data.report import Report

#: Beyond this spread (deviation / mean) the median should not be quoted without saying so.
UNSTABLE = 0.025
#: An enqueue-bound GPU waits between the events too, so its compute time never falls below the
#: time to enqueue; from this share on, the two count as one.
ENQUEUE_BOUND = 0.8


@dataclass(frozen=True)
class Timing:
    """The distribution of one duration over the runs."""

    runs: int
    min_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    #: Coefficient of variation: standard deviation / mean.
    variation: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Timing:
        """The distribution of ``samples_ms``, of which there is at least one."""
        ms = np.asarray(samples_ms, np.float64)
        mean = float(ms.mean())
        median, p90, p95, p99 = (float(p) for p in np.percentile(ms, [50, 90, 95, 99]))
        variation = float(ms.std()) / mean
        return cls(
            len(ms), float(ms.min()), mean, median, p90, p95, p99, float(ms.max()), variation
        )


@dataclass(frozen=True)
class LatencyReport(Report):
    """Times that `bench` measured, with buckets in the largest. ``print(report)`` is tables."""

    target: str
    arch: str | None
    #: First dimension of the first input: images a run.
    batch: int
    #: CPU threads TVM uses; None on a GPU.
    threads: int | None
    compute: Timing
    #: Until the call came back, the GPU still at work; None on a CPU, where that is the whole run.
    enqueue: Timing | None
    host_to_device: Timing
    device_to_host: Timing
    warmup_ms: float
    warmup_runs: int
    #: Of the outputs against the reference, as the caller found it; None if nobody looked.
    relative_l2: float | None
    #: Of the smaller buckets, the smallest first.
    smaller: tuple[LatencyReport, ...] = ()
    #: Every layer and every other kernel, in order, if that was asked for.
    layers: tuple[LayerTime, ...] = ()

    @property
    def throughput(self) -> float:
        """Images a second, by the median of the computation."""
        return self.batch / self.compute.median_ms * 1e3

    @property
    def warnings(self) -> tuple[str, ...]:
        """Cautions for whoever quotes the figures."""
        found = []
        if self.enqueue and self.enqueue.median_ms >= ENQUEUE_BOUND * self.compute.median_ms:
            found.append(
                "enqueue-bound: starting the kernels takes the CPU as long as the run, so the GPU "
                "waits, and its compute time counts the waiting"
            )
        if self.compute.variation > UNSTABLE:
            found.append(
                f"unstable: the coefficient of variation is {self.compute.variation:.1%}, over "
                f"{UNSTABLE:.1%}; is something else running, or a clock changing?"
            )
        if self.relative_l2 is None:
            found.append("unchecked: nobody compared this executable's outputs; see `compare`")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The fields as they are called here, with throughput and warnings."""
        derived = {"throughput_images_per_s": self.throughput, "warnings": list(self.warnings)}
        return {**asdict(self), **derived, "smaller": [one.to_json() for one in self.smaller]}
