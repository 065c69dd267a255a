"""What tuning did, or would do: `TuningReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tvmconv.reports.tables import figures, microseconds, percent

HEADER = (
    *("convolution", "x", "share", "space", "tried", "us", "model's us", "gain"),
    *("status", "choice"),
)
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
class TuningReport:
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
        """Of all kernels that are known, in sum."""
        return sum(layer.us * layer.count for layer in self.layers)

    @property
    def model_us(self) -> float:
        """Of the same as the model would choose."""
        return sum(layer.model_us * layer.count for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "us": self.us, "model_us": self.model_us}

    def __str__(self) -> str:
        text = ("convolution", "status", "choice")
        parts = [figures([HEADER, *map(_row, self.layers)], text)]
        parts += [f"{layer.shape}: {layer.note}" for layer in self.layers if layer.note]
        return "\n".join([*parts, self._summary()])

    def _summary(self) -> str:
        counted = dict.fromkeys(("measured", "recorded", "planned", "left out", "failed"), 0)
        for layer in self.layers:
            counted[layer.status] += 1
        said = ", ".join(f"{n} {status}" for status, n in counted.items() if n)
        place = self.device or f"{self.target} {self.arch}"
        took = "about " if counted["planned"] else ""
        text = f"{len(self.layers)} workloads on {place}: {said}; {took}{self.seconds:.0f} s"
        if counted["left out"]:
            text += "\nleft out: the budget does not suffice, or there is one configuration alone"
        if self.us:
            text += (
                f"\nmeasured and recorded ones in sum {microseconds(self.us)} us, as the model "
                f"chooses {microseconds(self.model_us)} us: {self.model_us / self.us:.2f} times"
            )
        return text + f"\nrecords: {self.records}"


def _row(layer: TunedLayer) -> tuple[str, ...]:
    return (
        layer.shape,
        str(layer.count),
        percent(layer.share, 1.0),
        str(layer.space),
        str(layer.candidates),
        microseconds(layer.us),
        microseconds(layer.model_us),
        f"{layer.gain:.2f}" if layer.gain else "-",
        layer.status,
        layer.choice,
    )
