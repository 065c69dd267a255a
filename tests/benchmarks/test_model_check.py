"""The cost model against times measured on an H200, of workloads that it was not fitted to."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pytest

from benchmarks import model_check, model_samples
from benchmarks.model_check import FIRST, Sample, correlation, rank, summary
from schedules.conv.workload import ConvWorkload
from schedules.machine.footprint import MMA, Footprint
from schedules.machine.model import FITTED, time_of
from schedules.registry import family


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return model_check.read()


def test_the_samples_are_of_the_workloads_named(samples: list[Sample]) -> None:
    entries = json.loads(model_check.SAMPLES.read_text())["samples"]
    for entry in entries:
        shapes = model_samples.HELD_OUT if entry["held_out"] else model_samples.FIT
        w = model_samples.workload(shapes[entry["name"]])
        assert ConvWorkload.from_json(entry["workload"]) == w
        one = family(entry["family"])
        for row in entry["rows"]:
            config = model_check.config_of(one.config_type, row["config"])
            assert one.padded_macs(w, config) >= w.useful_macs
            assert row["us"] > 1
        assert sum(row["default"] for row in entry["rows"]) == 1
    assert {s.name for s in samples} == {*model_samples.FIT, *model_samples.HELD_OUT}
    assert not set(model_samples.FIT.values()) & set(model_samples.HELD_OUT.values())
    assert all(len(s.us) == len(s.footprints) >= 10 for s in samples)


def test_it_ranks_what_it_has_not_seen(samples: list[Sample]) -> None:
    held_out = [rank(one) for one in samples if one.held_out]
    assert len(held_out) >= 20
    mean, first, first_4, first_8, scale = summary(held_out)
    assert mean > 0.75
    assert first < 1.15
    assert first_4 < 1.05
    assert first_8 < 1.02
    assert scale == pytest.approx(1, abs=0.1)
    assert all(one.correlation > 0.3 and one.regret[-1] < 1.1 for one in held_out)


def test_it_ranks_better_than_padding_alone(samples: list[Sample]) -> None:
    """Which is all that a roofline tells configurations apart by."""
    found = []
    for one in samples:
        work = [f.blocks * f.macs for f in one.footprints]
        if one.held_out and len(set(work)) > 1:
            found.append((rank(one).correlation, correlation(work, one.us)))
    model, padding = (statistics.fmean(column) for column in zip(*found, strict=True))
    assert model > padding + 0.3


def test_correlation_is_of_ranks() -> None:
    assert correlation([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Equal ones share the mean of their ranks: 0.5, 0.5, 2 against 0, 1, 2.
    assert correlation([5, 5, 7], [1, 2, 3]) == pytest.approx(0.8660254)


def fake(*us: float) -> Sample:
    """Of which the model takes the first to be the fastest, and so on."""
    f = Footprint(
        132, 128, 64, 0, MMA, "float16", 1 << 20, 1 << 12, 1 << 10, 1 << 10, 1 << 10, 1 << 20, 4
    )
    footprints = tuple(replace(f, steps=4 * (at + 1)) for at in range(len(us)))
    return Sample("fake", "wmma_nhwc", False, footprints, us)


def test_regret_is_of_the_best_among_the_first() -> None:
    found = rank(fake(3.0, 4.0, 2.0, 6.0, 5.0, 1.5, 7.0, 8.0, 1.0))
    assert dict(zip(FIRST, found.regret, strict=True)) == {1: 3.0, 4: 2.0, 8: 1.5}
    assert found.correlation == correlation(range(9), found.sample.us)


def test_a_fit_recovers_constants() -> None:
    """Of times that the model itself predicts with others than it has."""
    other = replace(FITTED, pace=6.0, begin_us=2.0)
    bare = [fake(*[1.0] * 6), fake(*[1.0] * 9)]
    samples = [
        replace(s, us=tuple(time_of(f, model_check.hardware(), other).us for f in s.footprints))
        for s in bare
    ]
    before = model_check.loss(samples, FITTED)
    found = model_check.fit(samples, tries=300)
    assert model_check.loss(samples, other) == pytest.approx(0)
    assert model_check.loss(samples, found) < before / 20
