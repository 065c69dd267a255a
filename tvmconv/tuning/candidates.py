"""Candidates to measure: every family's configurations for a workload, the best ranked first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from schedules.choose import Policy, choose, cost_on
from schedules.conv.workload import ConvWorkload
from schedules.family import Family, Reject
from schedules.machine.cost import Machine
from schedules.machine.hardware import Hardware

#: Candidates of a workload that are compiled and measured by default.
MOST = 32


@dataclass(frozen=True)
class Candidate:
    """A way to compute a workload, and its predicted time in microseconds."""

    family: Family
    config: Any
    predicted_us: float

    def __str__(self) -> str:
        """The family's name and the configuration."""
        return f"{self.family.name}, {self.config}"


#: Sort key of `space`, in microseconds; only the order matters.
Rank = Callable[[ConvWorkload, Family, Any, Hardware], float]


def rank_on(machine: Machine) -> Rank:
    """Returns the ranking by estimated cost on a machine."""

    def rank(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> float:
        return cost_on(machine, w, family, config, hardware).us

    return rank


def space(
    w: ConvWorkload,
    hardware: Hardware,
    rank: Rank | None = None,
    families: Sequence[Family] | None = None,
) -> list[Candidate]:
    """Returns every configuration of every matching family, without repeats.

    The first is the choice without tuning. The others follow in the order of `rank`, equal ones
    shuffled: families enumerate knobs in loops, so otherwise the first of equal ones would differ
    only in the innermost knob.

    rank: by default the costs of `hardware.card`. families: by default all registered ones. Raises
    `FamilyError` if none matches.
    """
    rank = rank or rank_on(hardware.card)
    policy = Policy() if families is None else Policy(tuple(families))
    chosen = choose(w, hardware, policy)
    first = Candidate(chosen.family, chosen.config, rank(w, chosen.family, chosen.config, hardware))
    others: dict[tuple[str, Any], Candidate] = {}
    for family in policy.families:
        answer = family.match(w, hardware)
        if isinstance(answer, Reject):
            continue
        for config in (answer.config, *family.space(w, hardware)):
            key = (family.name, config)
            if key not in others and key != (first.family.name, first.config):
                others[key] = Candidate(family, config, rank(w, family, config, hardware))
    mixed = list(others.values())
    random.Random(0).shuffle(mixed)
    return [first, *sorted(mixed, key=lambda one: one.predicted_us)]


def sample(whole: list[Candidate], most: int) -> list[Candidate]:
    """Returns the first of a space and random others, in their order: `most` in total, or all."""
    if len(whole) <= most:
        return whole
    kept = {0, *random.Random(0).sample(range(1, len(whole)), most - 1)}
    return [one for at, one in enumerate(whole) if at in kept]
