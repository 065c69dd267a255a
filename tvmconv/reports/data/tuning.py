"""Workloads of a network with their tuned, or planned, choices: `TuningReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tvmconv.reports.data.report import Report

Status = Literal["planned", "measured", "recorded", "left out", "failed"]


@dataclass(frozen=True)
class TunedLayer:
    """One workload of the network, and the result of tuning it."""

    #: `ConvWorkload.to_json`, then the same in words.
    workload: str
    shape: str
    #: Number of kernels of the network with it, over all buckets.
    count: int
    #: Share of the network's estimated time, 0 to 1.
    share: float
    #: Number of configurations, and of those that are measured, or would be.
    space: int
    candidates: int
    #: ``recorded``: known before. ``left out``: no time for it, or nothing to choose from.
    status: Status
    #: Microseconds of the fastest and of the model's choice; 0 if unknown.
    us: float = 0.0
    model_us: float = 0.0
    #: The fastest family and configuration.
    choice: str = ""
    #: Reasons that it, or some of its candidates, failed.
    note: str = ""
    #: Seconds that it took, or would take.
    seconds: float = 0.0

    @property
    def gain(self) -> float:
        """Time of the model's choice over that of the fastest; 0 if unknown."""
        return self.model_us / self.us if self.us else 0.0


@dataclass(frozen=True)
class TuningReport(Report):
    """All workloads of a network, the largest share of its time first."""

    target: str
    arch: str
    #: The device that measured; empty if none did.
    device: str
    #: Path of the records.
    records: str
    layers: tuple[TunedLayer, ...]
    #: Seconds that tuning took, or would take.
    seconds: float

    @property
    def us(self) -> float:
        """Sum over all kernels whose time is known, in microseconds."""
        return sum(layer.us * layer.count for layer in self.layers)

    @property
    def model_us(self) -> float:
        """The same sum for the model's choices."""
        return sum(layer.model_us * layer.count for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names, with the sums."""
        return {**asdict(self), "us": self.us, "model_us": self.model_us}
