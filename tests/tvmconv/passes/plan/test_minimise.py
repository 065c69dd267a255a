"""The cheapest assignment, against trying all of them."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvmconv.passes.plan.minimise import Factor, minimise

Problem = tuple[dict[str, tuple[int, ...]], list[Factor[str, int]]]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to six variables of up to three values, and costs that see up to three of them."""
    names = "abcdef"[: draw(st.integers(1, 6))]
    domains = {name: tuple(range(draw(st.integers(1, 3)))) for name in names}
    factors = []
    for _ in range(draw(st.integers(0, 8))):
        seen = tuple(draw(st.lists(st.sampled_from(names), max_size=3, unique=True)))
        assignments = list(itertools.product(*(domains[name] for name in seen)))
        costs = {one: float(draw(st.integers(0, 9))) for one in assignments}
        factors.append(Factor(seen, costs))
    return domains, factors


def total(factors: list[Factor[str, int]], assignment: dict[str, int]) -> float:
    return sum(factor.at(assignment) for factor in factors)


@given(problems())
def test_none_is_cheaper(problem: Problem) -> None:
    domains, factors = problem
    found = minimise(domains, factors)
    assert set(found) == set(domains)
    assert all(value in domains[name] for name, value in found.items())
    least = min(
        total(factors, dict(zip(domains, values, strict=True)))
        for values in itertools.product(*domains.values())
    )
    assert total(factors, found) == least


def test_of_equal_ones_the_first_of_the_domain() -> None:
    domains = {"a": ("x", "y"), "b": ("y", "x")}
    equal = Factor(("a", "b"), dict.fromkeys(itertools.product(*domains.values()), 1.0))
    assert minimise(domains, [equal]) == {"a": "x", "b": "y"}
    assert minimise(domains, []) == {"a": "x", "b": "y"}


@pytest.mark.parametrize("length", [1, 2, 300])
def test_a_long_chain_is_no_trouble(length: int) -> None:
    """Each link costs 1 where it changes; the ends want different values, the last more."""
    names = list(range(length))
    domains = dict.fromkeys(names, (0, 1))
    factors = [Factor((0,), {(0,): 0.0, (1,): 3.0}), Factor((names[-1],), {(0,): 5.0, (1,): 0.0})]
    change = {(a, b): float(a != b) for a in (0, 1) for b in (0, 1)}
    factors += [Factor(pair, change) for pair in itertools.pairwise(names)]
    found = minimise(domains, factors)
    assert math.isclose(sum(f.at(found) for f in factors), 3.0 if length == 1 else 1.0)
