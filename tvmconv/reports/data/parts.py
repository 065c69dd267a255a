"""The parts of a network of which onnxruntime runs some, as reports have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvmconv.specs import OPEN, size_text


@dataclass(frozen=True)
class FallbackReport:
    """One node that onnxruntime runs, and why."""

    name: str
    operator: str
    reason: str


@dataclass(frozen=True)
class PartReport:
    """One part."""

    #: ``compiled`` or ``onnxruntime``.
    side: str
    #: Number of nodes of the simplified graph.
    nodes: int
    #: For onnxruntime: its nodes, in order.
    fallbacks: tuple[FallbackReport, ...] = ()


@dataclass(frozen=True)
class CrossingReport:
    """A tensor that one part gives and others read."""

    name: str
    dtype: str
    #: `OPEN` where only a run decides.
    shape: tuple[int, ...]
    #: Numbers of parts, from 1.
    source: int
    readers: tuple[int, ...]

    @property
    def moved_bytes(self) -> int | None:
        """Its bytes; None if only a run decides."""
        if OPEN in self.shape:
            return None
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        size = self.moved_bytes
        told = "only a run decides how many bytes" if size is None else f"{size / 1e3:.1f} kB"
        shape = ", ".join(map(size_text, self.shape))
        readers = ", ".join(map(str, self.readers))
        return f"{self.name}: {self.dtype}[{shape}], {told}, part {self.source} to {readers}"


def part_from_json(item: dict[str, Any]) -> PartReport:
    """Inverse of ``asdict``."""
    told: Sequence[dict[str, Any]] = item["fallbacks"]
    return PartReport(**{**item, "fallbacks": tuple(FallbackReport(**one) for one in told)})
