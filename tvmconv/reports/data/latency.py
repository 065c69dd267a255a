"""Times of a network and of its layers: `LatencyReport`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tvmconv.reports.data.layer_times import LayerTime
from tvmconv.reports.data.report import Report

#: Spread (deviation / mean) above which the report warns.
UNSTABLE = 0.025
#: An enqueue-bound GPU also waits between the events, so its compute time is never below the time
#: to enqueue. From this share on, the run counts as enqueue-bound.
ENQUEUE_BOUND = 0.8


@dataclass(frozen=True)
class Timing:
    """The distribution of a duration over runs."""

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
        """Returns the distribution of at least one sample, in milliseconds."""
        ms = np.asarray(samples_ms, np.float64)
        mean = float(ms.mean())
        median, p90, p95, p99 = (float(p) for p in np.percentile(ms, [50, 90, 95, 99]))
        variation = float(ms.std()) / mean
        return cls(
            len(ms), float(ms.min()), mean, median, p90, p95, p99, float(ms.max()), variation
        )


@dataclass(frozen=True)
class LatencyReport(Report):
    """Times of `bench`; for buckets those of the largest. ``print(report)`` is tables."""

    target: str
    arch: str | None
    #: First dimension of the first input: images per run.
    batch: int
    #: CPU threads that TVM uses; None on a GPU.
    threads: int | None
    compute: Timing
    #: Time until the call returns, the GPU still at work; None on a CPU.
    enqueue: Timing | None
    host_to_device: Timing
    device_to_host: Timing
    warmup_ms: float
    warmup_runs: int
    #: Relative l2 error of the outputs, as the caller gave it; None if unchecked.
    relative_l2: float | None
    #: Reports of the smaller buckets, the smallest first.
    smaller: tuple[LatencyReport, ...] = ()
    #: Every layer and other kernel, in order, if requested.
    layers: tuple[LayerTime, ...] = ()
    #: Shape of every input as it is fed, by name.
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Images per second, by the median of the computation."""
        return self.batch / self.compute.median_ms * 1e3

    @property
    def warnings(self) -> tuple[str, ...]:
        """Cautions about the figures."""
        found = []
        if self.enqueue and self.enqueue.median_ms >= ENQUEUE_BOUND * self.compute.median_ms:
            found.append(
                "enqueue-bound: the CPU takes as long to start the kernels as the run takes, so "
                "the GPU waits, and its compute time includes the waiting"
            )
        if self.compute.variation > UNSTABLE:
            found.append(
                f"unstable: the coefficient of variation is {self.compute.variation:.1%}, over "
                f"{UNSTABLE:.1%}; is something else running, or a clock changing?"
            )
        if self.relative_l2 is None:
            found.append("unchecked: this executable's outputs were not compared; see `compare`")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names here, with throughput and warnings."""
        derived = {"throughput_images_per_s": self.throughput, "warnings": list(self.warnings)}
        return {**asdict(self), **derived, "smaller": [one.to_json() for one in self.smaller]}
