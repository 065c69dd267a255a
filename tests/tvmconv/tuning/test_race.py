"""Successive elimination: the fastest wins, seldom by mistake, and with few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tvmconv.tuning import race
from tvmconv.tuning.race import Rules


def runners(means: list[float], spread: float, seed: int = 0) -> list[Callable[[], float]]:
    """Times about these means, each with a relative standard deviation of `spread`."""
    draw = np.random.default_rng(seed)
    return [lambda mean=mean: mean * (1 + spread * draw.standard_normal()) for mean in means]


def tail(t: float, freedom: float) -> float:
    """Probability of Student's t above `t`, by integration of its density."""
    at = np.linspace(t, t + 2000, 400_001)
    norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    scale = math.exp(norm) / math.sqrt(freedom * math.pi)
    density = scale * (1 + at**2 / freedom) ** (-(freedom + 1) / 2)
    return float((density[1:] + density[:-1]).sum() / 2 * (at[1] - at[0]))


@pytest.mark.parametrize("freedom", [4, 8, 30, 1000])
@pytest.mark.parametrize("level", [0.95, 0.999, 0.99997])
def test_quantiles_are_those_of_students_t(level: float, freedom: float) -> None:
    """An expansion: of few degrees of freedom and far out it falls short, as its docstring says."""
    above = tail(race.quantile(level, freedom), freedom)
    assert 0.99 <= above / (1 - level) <= (1.12 if freedom >= 8 else 2.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_fastest_wins(seed: int) -> None:
    means = [1.2, 1.05, 2.0, 1.0, 1.5, 3.0]
    result = race.run(runners(means, 0.02, seed))
    assert result.winner == 3
    assert result.medians[3] == pytest.approx(1.0, rel=0.03)


def test_the_slow_are_measured_seldom() -> None:
    rules = Rules()
    result = race.run(runners([1.0, 1.02, *[2.0] * 30], 0.03), rules)
    counts = [len(times) for times in result.samples]
    assert counts[2:] == [rules.min_rounds] * 30
    assert min(counts[:2]) > rules.min_rounds, "the two that are close are told apart by more"


def test_it_ends_when_all_left_are_alike() -> None:
    exact = race.run(runners([1.0, 1.001, 1.002], 0.0001))
    assert exact.rounds == Rules().min_rounds
    noisy = race.run(runners([1.0, 1.0], 0.2), Rules(max_rounds=12))
    assert noisy.rounds == 12


def test_it_ends_when_there_is_no_time_left() -> None:
    asked = iter([False, False, True])
    result = race.run(runners([1.0, 1.0], 0.2), enough=lambda: next(asked))
    assert result.rounds == Rules().min_rounds + 2


def test_drift_meets_all_alike() -> None:
    """The clock slows by a half while it runs; one after the other, the later would lose."""
    at = iter(range(10_000))
    times = [lambda mean=mean: mean * (1 + next(at) / 400) for mean in (1.02, 1.0)]
    result = race.run(times, Rules(max_rounds=100, close=0.0))
    assert result.winner == 1


def test_the_fastest_is_seldom_dropped() -> None:
    """Of 100 races of equals hardly one ends by a test: 5 % is the bound for all of its tests."""
    early = sum(
        len(race.run(runners([1.0] * 4, 0.1, seed), Rules(max_rounds=10)).samples[0]) < 10
        for seed in range(100)
    )
    assert early <= 100 * 0.05


def test_equal_samples_without_spread() -> None:
    assert not race.slower([1.0, 1.0], [1.0, 1.0], 0.99)
    assert race.slower([1.1, 1.1], [1.0, 1.0], 0.99)


def test_one_contender() -> None:
    assert race.run([lambda: 3.0]).winner == 0
    with pytest.raises(ValueError, match="contenders"):
        race.run([])


@pytest.mark.parametrize(
    "wrong",
    [{"min_rounds": 1}, {"max_rounds": 4}, {"error": 0.0}, {"close": -0.1}, {"warmup_rounds": -1}],
    ids=str,
)
def test_rules_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Rules"):
        Rules(**wrong)  # type: ignore[arg-type]
