"""Scales in a file beside a float model: read, whoever wrote them.

path -> Sidecar
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from tvmconv.errors import QuantizationError


@dataclass(frozen=True)
class Scale:
    """The quantisation of an activation: ``(q - zero_point) * scale``, q of int8 or uint8."""

    scale: float
    zero_point: int = 0
    signed: bool = True


@dataclass(frozen=True)
class Sidecar:
    """The contents of a file of scales.

    Of weights only the names are kept: their scales are computed from the weights.
    """

    #: The file, for errors.
    source: str
    scales: Mapping[str, Scale]
    #: Tensors that the file names without a scale of the whole: one for each channel, or none as
    #: they are not to be quantised.
    per_channel: Set[str] = frozenset()
    not_quantised: Set[str] = frozenset()
    #: Nodes that are to be computed in floating point.
    float_nodes: Set[str] = frozenset()
    #: Tensors that the tool made for itself, and no model has.
    internal: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors that a model has to have."""
        return (*self.scales, *sorted(self.per_channel), *sorted(self.not_quantised))


def content(path: str | Path) -> tuple[str, str]:
    """The text of a file, and its name for errors. Raises `QuantizationError`."""
    if not isinstance(path, str | Path):
        raise QuantizationError(
            f"scales can't be a {type(path).__name__}",
            hint="give the path of OpenPPL's JSON or of a TensorRT calibration cache",
        )
    try:
        return Path(path).read_bytes().decode(), str(path)
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a null in the name
        raise QuantizationError(
            f"{path} can't be read",
            note=str(error),
            hint="give the path of OpenPPL's JSON or of a TensorRT calibration cache",
        ) from error
