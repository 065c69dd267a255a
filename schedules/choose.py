"""The registry of families, and the choice among them: the first in order that matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schedules.depthwise import DepthwiseFamily
from schedules.direct import DirectFamily
from schedules.family import Family, Reject
from schedules.hardware import Hardware
from schedules.wmma import WmmaFamily
from schedules.workload import ConvWorkload

#: In order of preference. The last one matches everything.
FAMILIES: tuple[Family, ...] = (
    WmmaFamily("wmma_packed", packed=True),
    WmmaFamily("wmma_nhwc", packed=False),
    DepthwiseFamily(),
    DirectFamily(),
)


@dataclass(frozen=True)
class Choice:
    """Which family computes a workload, how, and why those before it do not."""

    workload: ConvWorkload
    hardware: Hardware
    family: Family
    config: Any
    rejects: tuple[Reject, ...]


def family(name: str) -> Family:
    """The family of that name. Raises ``LookupError`` that lists the names."""
    for candidate in FAMILIES:
        if candidate.name == name:
            return candidate
    raise LookupError(f"no family {name!r} among {', '.join(f.name for f in FAMILIES)}")


def choose(w: ConvWorkload, hardware: Hardware) -> Choice:
    """The first family that matches, with its default configuration."""
    rejects: list[Reject] = []
    for candidate in FAMILIES:
        answer = candidate.match(w, hardware)
        if not isinstance(answer, Reject):
            return Choice(w, hardware, candidate, answer.config, tuple(rejects))
        rejects.append(answer)
    raise AssertionError("the last family matches everything")
