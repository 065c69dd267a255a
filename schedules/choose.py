"""The choice of a family and its configuration for a workload: the pair with the least cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.errors import FamilyError
from schedules.family import Family, Match, Reject
from schedules.machine import model
from schedules.machine.cost import Cost, Machine, conv_cost
from schedules.machine.hardware import Hardware
from schedules.registry import registered

#: A function that estimates the cost of a family's schedule with a configuration.
Estimate = Callable[[ConvWorkload, Family, Any, Hardware], Cost]


def predict(w: ConvWorkload, config: Any, hardware: Hardware) -> model.Prediction:
    """Predicts the time of `w` on a GPU with a configuration of any family.

    Raises ``LookupError`` if no family with a footprint has such configurations, ``ValueError`` for
    a CPU.
    """
    if hardware.kind != "cuda":
        raise ValueError(f"the model predicts GPUs, not {hardware.name}")
    for one in registered():
        if isinstance(config, one.config_type):
            footprint = one.footprint(w, config, hardware)
            if footprint is not None:
                return model.time_of(footprint, hardware)
    raise LookupError(f"no family has configurations like {config!r}")


def kernel_cost(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
    """Returns the cost by which choices are ranked.

    For a GPU it is the model's prediction, or the roofline for a family without a footprint. For a
    CPU it is the roofline of the card that is emulated.
    """
    footprint = family.footprint(w, config, hardware) if hardware.kind == "cuda" else None
    if footprint is None:
        return conv_cost(w, family, config, hardware.card)
    predicted = model.time_of(footprint, hardware)
    return Cost(predicted.us, predicted.limit)


def cost_on(
    machine: Machine, w: ConvWorkload, family: Family, config: Any, hardware: Hardware
) -> Cost:
    """Returns the cost of a choice for `hardware` on the machine that runs it.

    For a CPU it is the roofline of `machine`, which may be a card whose costs the user asked for.
    """
    if hardware.kind == "cuda":
        return kernel_cost(w, family, config, hardware)
    return conv_cost(w, family, config, machine)


@dataclass(frozen=True)
class Pinned:
    """A family and configuration that the user pinned for a workload."""

    family: Family
    config: Any


@dataclass(frozen=True)
class Tuned:
    """The fastest configuration measured for a workload.

    ``us`` is its time and ``model_us`` that of the model's choice, both measured, in microseconds.
    """

    family: Family
    config: Any
    us: float
    model_us: float


#: A function that returns the record of a workload, or None.
Lookup = Callable[[ConvWorkload, Hardware], Tuned | Pinned | None]


@dataclass(frozen=True)
class Policy:
    """The rules of a choice: `families` in order of preference, ranked by `estimate`.

    `records` take precedence for the workloads that they have.
    """

    families: tuple[Family, ...] = field(default_factory=registered)
    estimate: Estimate = kernel_cost
    records: Lookup | None = None


@dataclass(frozen=True)
class Option:
    """One way to compute a workload, and its estimated cost."""

    family: Family
    config: Any
    cost: Cost


@dataclass(frozen=True)
class Choice:
    """The family and configuration for a workload, and the others' costs or reasons to decline."""

    workload: ConvWorkload
    hardware: Hardware
    family: Family
    config: Any
    cost: Cost
    #: The next best; None if only one family matches.
    runner_up: Option | None
    #: The families that decline.
    rejects: tuple[Reject, ...]
    #: "record": `tune` measured it. "pinned": the user set it, in the build or in a record.
    chosen_by: Literal["model", "record", "pinned"] = "model"
    #: The measured times, if a record decided. Then `cost` is the measured time, and `runner_up`
    #: is the model's choice with its measured time, or None if it is the same.
    tuned: Tuned | None = None


def choose(w: ConvWorkload, hardware: Hardware, policy: Policy | None = None) -> Choice:
    """Returns the recorded choice for `w`, or else the one with the least estimated cost.

    policy: by default the registered families, by `kernel_cost`, without records. Raises
    `FamilyError` if no family matches.
    """
    policy = policy or Policy()
    choice = estimated(w, hardware, policy.estimate, policy.families)
    found = policy.records(w, hardware) if policy.records is not None else None
    if found is None or found.family not in policy.families:
        return choice
    if isinstance(found, Tuned):
        return _tuned(choice, found, policy.estimate)
    return pin(choice, found, policy.estimate)


@lru_cache(maxsize=4096)
def estimated(
    w: ConvWorkload, hardware: Hardware, estimate: Estimate, families: tuple[Family, ...]
) -> Choice:
    """Returns the family with the least cost, each with its best configuration.

    On a GPU that is the cheapest of its space. On a CPU, or if the family's default was measured,
    it is the default. A family of last resort comes last on a GPU whatever its cost, as it leaves
    tensor cores unused. Raises `FamilyError` if no family matches.
    """
    found, rejects = options(w, hardware, Policy(families, estimate))
    if not found:
        reasons = "; ".join(map(str, rejects))
        raise FamilyError(f"no family computes {w}, epilogue {w.epilogue}", note=reasons)
    best, *others = found
    runner_up = others[0] if others else None
    return Choice(w, hardware, best.family, best.config, best.cost, runner_up, tuple(rejects))


def options(
    w: ConvWorkload, hardware: Hardware, policy: Policy | None = None
) -> tuple[list[Option], list[Reject]]:
    """Returns matching families with their best configurations, best first, and rejections."""
    policy = policy or Policy()

    def rank(option: Option) -> tuple[bool, float]:
        return hardware.kind == "cuda" and option.family.last_resort, option.cost.us

    found: list[Option] = []
    rejects: list[Reject] = []
    for one in policy.families:
        answer = one.match(w, hardware)
        if isinstance(answer, Reject):
            rejects.append(answer)
        else:
            found.append(_best(w, one, answer, hardware, policy.estimate))
    return sorted(found, key=rank), rejects  # stable: ties by order


def pin(choice: Choice, pinned: Pinned, estimate: Estimate = kernel_cost) -> Choice:
    """Returns `choice` with the pinned family and configuration, at its estimated cost."""
    cost = estimate(choice.workload, pinned.family, pinned.config, choice.hardware)
    same = (pinned.family, pinned.config) == (choice.family, choice.config)
    return replace(
        choice,
        family=pinned.family,
        config=pinned.config,
        cost=cost,
        runner_up=choice.runner_up if same else Option(choice.family, choice.config, choice.cost),
        chosen_by="pinned",
        tuned=None,
    )


def _tuned(choice: Choice, found: Tuned, estimate: Estimate) -> Choice:
    """Returns the choice of a record, with measured times instead of estimates."""
    limit = estimate(choice.workload, found.family, found.config, choice.hardware).limit
    same = (found.family, found.config) == (choice.family, choice.config)
    model_cost = Cost(found.model_us, choice.cost.limit)
    return replace(
        choice,
        family=found.family,
        config=found.config,
        cost=Cost(found.us, limit),
        runner_up=None if same else Option(choice.family, choice.config, model_cost),
        chosen_by="record",
        tuned=found,
    )


def _best(
    w: ConvWorkload, family: Family, match: Match, hardware: Hardware, estimate: Estimate
) -> Option:
    """Returns a family with its cheapest configuration; among equals the default."""
    if hardware.kind != "cuda" or family.default_measured:
        return Option(family, match.config, estimate(w, family, match.config, hardware))
    if estimate is kernel_cost:
        # No footprint depends on the rest of the epilogue: workloads that differ only there share a
        # search.
        epilogue = Epilogue(residual=w.epilogue.residual)
        w = replace(w, epilogue=epilogue)
    config, cost = _least(w, family, match.config, hardware, estimate)
    return Option(family, config, cost)


@lru_cache(maxsize=4096)
def _least(
    w: ConvWorkload, family: Family, default: Any, hardware: Hardware, estimate: Estimate
) -> tuple[Any, Cost]:
    """Returns the cheapest configuration of a family, and its cost."""
    costs = (
        (config, estimate(w, family, config, hardware))
        for config in (default, *family.space(w, hardware))
    )
    return min(costs, key=lambda item: item[1].us)


def forget() -> None:
    """Drops the cached choices, as after a change of what a family offers in a running process."""
    estimated.cache_clear()
    _least.cache_clear()
