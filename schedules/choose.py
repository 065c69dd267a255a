"""The registry of families, and the choice among them: the one that costs least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.families.depthwise.family import DepthwiseFamily
from schedules.families.depthwise_projection.family import DepthwiseProjectionFamily
from schedules.families.direct.family import DirectFamily
from schedules.families.few_channels.family import FewChannelsFamily
from schedules.families.mma_sync.family import MmaSyncFamily
from schedules.families.wgmma.family import WgmmaFamily
from schedules.families.wmma.family import WmmaFamily
from schedules.family import Family, Match, Reject
from schedules.machine import model
from schedules.machine.cost import Cost, Machine, conv_cost
from schedules.machine.hardware import Hardware

#: In order of preference, where they cost the same. The last one matches everything but a pool.
FAMILIES: tuple[Family, ...] = (
    FewChannelsFamily(),
    WgmmaFamily(),
    MmaSyncFamily(),
    WmmaFamily("wmma_packed", packed=True),
    WmmaFamily("wmma_nhwc", packed=False),
    DepthwiseFamily(),
    DepthwiseProjectionFamily(),
    DirectFamily(),
)

#: Estimates what a family's schedule of a workload takes, with a configuration, on a machine.
Estimate = Callable[[ConvWorkload, Family, Any, Hardware], Cost]


def predict(w: ConvWorkload, config: Any, hardware: Hardware) -> model.Prediction:
    """Predicts the time of `w` on a GPU with a configuration of any family.

    Raises ``LookupError`` for a configuration of no family, ``ValueError`` for a CPU.
    """
    if hardware.kind != "cuda":
        raise ValueError(f"the model is of GPUs, not of {hardware.name}")
    for candidate in FAMILIES:
        if isinstance(config, candidate.config_type):
            return model.time_of(candidate.footprint(w, config, hardware), hardware)
    raise LookupError(f"no family has configurations like {config!r}")


def kernel_cost(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
    """Returns the cost by which choices are ranked: for a GPU what the model predicts, for a CPU
    the roofline of the card that is emulated."""
    if hardware.kind != "cuda":
        return conv_cost(w, family, config, hardware.card)
    predicted = model.time_of(family.footprint(w, config, hardware), hardware)
    return Cost(predicted.us, predicted.limit)


def cost_on(
    machine: Machine, w: ConvWorkload, family: Family, config: Any, hardware: Hardware
) -> Cost:
    """Returns the cost of a choice for `hardware` on the machine that runs it. For a CPU it is the
    roofline of `machine`, which may also be a card whose costs are asked for."""
    if hardware.kind == "cuda":
        return kernel_cost(w, family, config, hardware)
    return conv_cost(w, family, config, machine)


@dataclass(frozen=True)
class Tuned:
    """What was measured to be fastest for a workload; `us` and `model_us` are microseconds of it
    and of what would have been chosen without."""

    family: Family
    config: Any
    us: float
    model_us: float


#: What tuning found for a workload; None where nothing is known that holds.
Lookup = Callable[[ConvWorkload, Hardware], Tuned | None]


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
    #: Where it was measured, not estimated. Then `cost` is the time measured, and `runner_up` what
    #: would have been chosen without, with its measured time; None where that is the same.
    tuned: Tuned | None = None


def family(name: str) -> Family:
    """The family of that name. Raises ``LookupError`` that lists the names."""
    for candidate in FAMILIES:
        if candidate.name == name:
            return candidate
    raise LookupError(f"no family {name!r} among {', '.join(f.name for f in FAMILIES)}")


def choose(
    w: ConvWorkload,
    hardware: Hardware,
    estimate: Estimate = kernel_cost,
    records: Lookup | None = None,
) -> Choice:
    """What `records` know to be fastest; where they know nothing, what is estimated to be."""
    choice = estimated(w, hardware, estimate)
    found = records(w, hardware) if records is not None else None
    return choice if found is None else _tuned(choice, found, estimate)


@lru_cache(maxsize=4096)
def estimated(w: ConvWorkload, hardware: Hardware, estimate: Estimate) -> Choice:
    """The family that costs least, each with its best configuration: on a GPU the one of its space
    that costs least, on a CPU its default, and so where that was found by measuring. The family
    that matches everything comes last on a GPU, whatever it is predicted to take: nothing else
    would be on tensor cores for sure.

    Raises ``LookupError`` for what no family computes: a pool in a kernel that can't have one."""

    found, rejects = options(w, hardware, estimate)
    if not found:
        raise LookupError(f"{w}, {w.epilogue}: " + "; ".join(map(str, rejects)))
    best, *others = found
    runner_up = others[0] if others else None
    return Choice(w, hardware, best.family, best.config, best.cost, runner_up, tuple(rejects))


def options(
    w: ConvWorkload, hardware: Hardware, estimate: Estimate = kernel_cost
) -> tuple[list[Option], list[Reject]]:
    """Every family that matches, in the order in which `estimated` prefers them, each with its best
    configuration; and why the others do not."""

    def rank(option: Option) -> tuple[bool, float]:
        last_resort = hardware.kind == "cuda" and option.family is FAMILIES[-1]
        return last_resort, option.cost.us

    found: list[Option] = []
    rejects: list[Reject] = []
    for candidate in FAMILIES:
        answer = candidate.match(w, hardware)
        if isinstance(answer, Reject):
            rejects.append(answer)
        else:
            found.append(_best(w, candidate, answer, hardware, estimate))
    return sorted(found, key=rank), rejects  # stable: ties by order


def _tuned(choice: Choice, found: Tuned, estimate: Estimate) -> Choice:
    """The choice made by measurement, with the times measured instead of those estimated."""
    limit = estimate(choice.workload, found.family, found.config, choice.hardware).limit
    cost = Cost(found.us, limit)
    if (found.family, found.config) == (choice.family, choice.config):
        return replace(choice, cost=cost, runner_up=None, tuned=found)
    others = Option(choice.family, choice.config, Cost(found.model_us, choice.cost.limit))
    return replace(
        choice,
        family=found.family,
        config=found.config,
        cost=cost,
        runner_up=others,
        tuned=found,
    )


def _best(
    w: ConvWorkload, family: Family, match: Match, hardware: Hardware, estimate: Estimate
) -> Option:
    """Of equal ones the default, then the first."""
    if hardware.kind != "cuda" or family.default_measured:
        return Option(family, match.config, estimate(w, family, match.config, hardware))
    if estimate is kernel_cost:
        # No footprint depends on these, so that what differs in them alone is searched for once.
        epilogue = Epilogue(residual=w.epilogue.residual)
        w = replace(w, epilogue=epilogue)
    config, cost = _least(w, family.name, match.config, hardware, estimate)
    return Option(family, config, cost)


@lru_cache(maxsize=4096)
def _least(
    w: ConvWorkload, name: str, default: Any, hardware: Hardware, estimate: Estimate
) -> tuple[Any, Cost]:
    """The configuration of a family that costs least, and what that is."""
    one = family(name)
    costs = (
        (config, estimate(w, one, config, hardware))
        for config in (default, *one.space(w, hardware))
    )
    return min(costs, key=lambda item: item[1].us)
