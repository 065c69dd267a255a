"""The registry of families, and the choice among them: the one that costs least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schedules.cost import Cost, conv_cost
from schedules.depthwise import DepthwiseFamily
from schedules.direct import DirectFamily
from schedules.family import Family, Reject
from schedules.few_channels import FewChannelsFamily
from schedules.hardware import Hardware
from schedules.wmma import WmmaFamily
from schedules.workload import ConvWorkload

#: In order of preference, where they cost the same. The last one matches everything.
FAMILIES: tuple[Family, ...] = (
    FewChannelsFamily(),
    WmmaFamily("wmma_packed", packed=True),
    WmmaFamily("wmma_nhwc", packed=False),
    DepthwiseFamily(),
    DirectFamily(),
)

#: Estimates what a family's schedule of a workload takes, with a configuration, on a machine.
Estimate = Callable[[ConvWorkload, Family, Any, Hardware], Cost]


@dataclass(frozen=True)
class Option:
    """One way to compute a workload, and what it is estimated to cost."""

    family: Family
    config: Any
    cost: Cost


@dataclass(frozen=True)
class Choice:
    """Which family computes a workload, how, and what became of the others."""

    workload: ConvWorkload
    hardware: Hardware
    family: Family
    config: Any
    cost: Cost
    #: The next best; None where only one family matches.
    runner_up: Option | None
    #: Those that do not match, and why.
    rejects: tuple[Reject, ...]


def family(name: str) -> Family:
    """The family of that name. Raises ``LookupError`` that lists the names."""
    for candidate in FAMILIES:
        if candidate.name == name:
            return candidate
    raise LookupError(f"no family {name!r} among {', '.join(f.name for f in FAMILIES)}")


def choose(w: ConvWorkload, hardware: Hardware, estimate: Estimate = conv_cost) -> Choice:
    """The family that costs least, each with its default configuration."""
    options: list[Option] = []
    rejects: list[Reject] = []
    for candidate in FAMILIES:
        answer = candidate.match(w, hardware)
        if isinstance(answer, Reject):
            rejects.append(answer)
        else:
            cost = estimate(w, candidate, answer.config, hardware)
            options.append(Option(candidate, answer.config, cost))
    best, *others = sorted(options, key=lambda option: option.cost.us)  # stable: ties by order
    runner_up = others[0] if others else None
    return Choice(w, hardware, best.family, best.config, best.cost, runner_up, tuple(rejects))
