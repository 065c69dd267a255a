"""Layers of a quantised network, what was decided of each, and the errors: `QuantizationReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tvmconv.reports.data.report import Report, finite_or_none

Decision = Literal["int8", "float"]


@dataclass(frozen=True)
class QuantizedLayer:
    """One convolution or matrix product, and what was decided."""

    name: str
    #: One of `tvmconv.reports.data.capability.KINDS`, and its sizes in words.
    kind: str
    shape: str
    macs: int
    #: Signal to noise of the layer's output, after its activation, in the quantised model against
    #: the float one, in dB; infinite if equal. The errors of all layers before it are in it.
    snr_db: float
    decision: Decision
    #: The reason of the decision, in a few words.
    reason: str
    #: Microseconds that the layer saves, or would save, in int8, by its floor.
    saved_us: float
    #: Relative l2 error of the network's outputs with this layer alone in int8; None if it was not
    #: measured, as without a bound on the error.
    alone: float | None = None


@dataclass(frozen=True)
class QuantizedOutput:
    """The error of one output."""

    name: str
    #: Over all feeds: ||float - quantised|| / ||float||; infinite if the float one is all zeros.
    relative_l2: float
    snr_db: float


@dataclass(frozen=True)
class QuantizationReport(Report):
    """All layers in order, and the errors of the outputs. ``print(report)`` is a table."""

    method: str
    #: Number of feeds that it was calibrated and measured on.
    feeds: int
    #: The machine whose microseconds are told.
    machine: str
    #: The bound that was asked for; None if none was.
    max_error: float | None
    outputs: tuple[QuantizedOutput, ...]
    layers: tuple[QuantizedLayer, ...]

    @property
    def relative_l2(self) -> float:
        """The largest relative l2 error of an output; 0 without outputs in floating point."""
        return max((output.relative_l2 for output in self.outputs), default=0.0)

    @property
    def quantized(self) -> tuple[str, ...]:
        """Names of the layers in int8."""
        return tuple(layer.name for layer in self.layers if layer.decision == "int8")

    @property
    def saved_us(self) -> float:
        """Microseconds that the layers in int8 save."""
        return sum(layer.saved_us for layer in self.layers if layer.decision == "int8")

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names, infinity as None, with the largest error."""
        plain = asdict(self)
        for key in ("outputs", "layers"):
            plain[key] = [finite_or_none(one) for one in plain[key]]
        more = {"relative_l2": self.relative_l2, "saved_us": self.saved_us}
        return finite_or_none({**plain, **more})
