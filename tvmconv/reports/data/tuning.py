"""Workloads of a network with their tuned, or planned, choices: `TuningReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tvmconv.reports.data.report import Report

Status = Literal["planned", "measured", "recorded", "left out", "failed"]


@dataclass(frozen=True)
class TunedLayer:
    """One workload of the network, and what became of it."""

    #: `ConvWorkload.to_json`, and the same in words.
    workload: str
    shape: str
    #: Kernels of the network, all buckets together, that it is.
    count: int
    #: Of the network's estimated time, 0 to 1.
    share: float
    #: Configurations there are, and how many of them are measured, or would be.
    space: int
    candidates: int
    #: ``recorded``: known before. ``left out``: no time for it, or nothing to choose from.
    status: Status
    #: Microseconds of the fastest and of the model's choice; 0 where nothing is known.
    us: float = 0.0
    model_us: float = 0.0
    #: Family and configuration that won.
    choice: str = ""
    #: Why it failed, or some of its candidates did.
    note: str = ""
    #: What it took, or would.
    seconds: float = 0.0

    @property
    def gain(self) -> float:
        """Time of the model's choice over that of the fastest; 0 where one is not known."""
        return self.model_us / self.us if self.us else 0.0


@dataclass(frozen=True)
class TuningReport(Report):
    """All workloads of a network, the largest share of its time first."""

    target: str
    arch: str
    #: What measured; empty where nothing was.
    device: str
    #: The file.
    records: str
    layers: tuple[TunedLayer, ...]
    #: That tuning took, or would.
    seconds: float

    @property
    def us(self) -> float:
        """Sum over all kernels whose time is known."""
        return sum(layer.us * layer.count for layer in self.layers)

    @property
    def model_us(self) -> float:
        """The same sum by the model's choices."""
        return sum(layer.model_us * layer.count for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """The fields by their names, with the sums."""
        return {**asdict(self), "us": self.us, "model_us": self.model_us}
