"""Minimises a sum of costs over variables, where each cost depends on a few of them.

Bucket elimination (Dechter 1999), which generalises the shortest path of a chain to DAGs. Variables
are eliminated one by one, the one with the fewest neighbours first. Exact; the time is exponential
only in the number of neighbours of a variable when it is eliminated.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class Factor(Generic[Name, Value]):
    """A term of the sum: costs by the values of its variables, in order."""

    variables: tuple[Name, ...]
    costs: Mapping[tuple[Value, ...], float]

    def at(self, assignment: Mapping[Name, Value]) -> float:
        """The cost of an assignment of all variables."""
        return self.costs[tuple(assignment[name] for name in self.variables)]


def minimise(
    domains: Mapping[Name, Sequence[Value]], factors: Sequence[Factor[Name, Value]]
) -> dict[Name, Value]:
    """Returns the value of every variable for which the sum of all factors is least.

    Among values of the same cost it takes the first in the variable's domain.
    """
    adjacent = {name: _neighbours(name, ()) for name in domains}
    seen_by: dict[Name, list[Factor[Name, Value]]] = {name: [] for name in domains}
    for factor in factors:
        for name in dict.fromkeys(factor.variables):
            adjacent[name] |= _neighbours(name, factor.variables)
            seen_by[name].append(factor)
    solved: list[tuple[Name, dict[tuple[Value, ...], Value], tuple[Name, ...]]] = []
    while adjacent:
        name = min(adjacent, key=lambda one: len(adjacent[one]))
        around = tuple(adjacent.pop(name))
        best, costs = _eliminated(name, around, domains, seen_by.pop(name))
        solved.append((name, best, around))
        for one in around:
            del adjacent[one][name]
            adjacent[one] |= _neighbours(one, around)
            left = [factor for factor in seen_by[one] if name not in factor.variables]
            seen_by[one] = [*left, Factor(around, costs)]
    assignment: dict[Name, Value] = {}
    for name, best, around in reversed(solved):
        assignment[name] = best[tuple(assignment[one] for one in around)]
    return assignment


def _neighbours(name: Name, variables: Sequence[Name]) -> dict[Name, None]:
    """Variables other than `name`, in order."""
    return dict.fromkeys(one for one in variables if one != name)


def _eliminated(
    name: Name,
    around: tuple[Name, ...],
    domains: Mapping[Name, Sequence[Value]],
    factors: Sequence[Factor[Name, Value]],
) -> tuple[dict[tuple[Value, ...], Value], dict[tuple[Value, ...], float]]:
    """The best value of `name`, and its cost, for every assignment of its neighbours."""
    best: dict[tuple[Value, ...], Value] = {}
    costs: dict[tuple[Value, ...], float] = {}
    for values in itertools.product(*(domains[one] for one in around)):
        given = dict(zip(around, values, strict=True))
        for value in domains[name]:
            cost = sum(factor.at({**given, name: value}) for factor in factors)
            if values not in costs or cost < costs[values]:
                best[values], costs[values] = value, cost
    return best, costs
