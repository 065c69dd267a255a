"""The cheapest assignment, against every assignment there is."""

from __future__ import annotations

import itertools
import random

import pytest

from tvmconv.passes.minimise import Factor, minimise


@pytest.mark.parametrize("seed", range(100))
def test_no_assignment_costs_less(seed: int) -> None:
    rng = random.Random(seed)
    names = "abcdefg"[: rng.randint(1, 7)]
    domains = {name: range(rng.randint(1, 3)) for name in names}
    factors = []
    for _ in range(rng.randint(0, 8)):
        seen = tuple(rng.sample(names, rng.randint(1, min(3, len(names)))))
        values = itertools.product(*(domains[name] for name in seen))
        factors.append(Factor(seen, {one: rng.randint(0, 9) for one in values}))

    def cost(values: tuple[int, ...]) -> float:
        return sum(factor.at(dict(zip(names, values, strict=True))) for factor in factors)

    found = minimise(domains, factors)
    assert set(found) == set(names)
    every = itertools.product(*(domains[name] for name in names))
    assert cost(tuple(found[name] for name in names)) == min(map(cost, every))


def test_of_equal_costs_the_first_value_wins() -> None:
    same = {(i, j): 1.0 for i in range(3) for j in range(3)}
    assert minimise({"a": (2, 0, 1), "b": (1, 2)}, [Factor(("a", "b"), same)]) == {"a": 2, "b": 1}
