"""Checks how well the cost model ranks the times that `benchmarks.model_samples` measured.

    python -m benchmarks.model_check          on the samples recorded for an H200
    python -m benchmarks.model_check --fit    also fits the constants to those not held out

Regret: the best time among the configurations that the model ranks first, over the best of all.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from schedules.conv.workload import ConvWorkload
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import CUDA_ARCHS, Hardware
from schedules.machine.model import FITTED, Fitted, time_of
from schedules.registry import family
from tvmconv.cli.inputs import run_or_tell
from tvmconv.reports.render.tables import figures

SAMPLES = Path(__file__).parent / "results" / "h200" / "model-samples.json"
#: Numbers of the model's first configurations for which regret is computed.
FIRST = (1, 4, 8)


@dataclass(frozen=True)
class Sample:
    """One workload by one family: the footprint and the measured time of each configuration."""

    name: str
    family: str
    held_out: bool
    footprints: tuple[Footprint, ...]
    us: tuple[float, ...]


@dataclass(frozen=True)
class Ranking:
    """The ranking of one sample.

    Spearman's rank correlation, regret by `FIRST`, and the median of predicted over measured time.
    """

    sample: Sample
    correlation: float
    regret: tuple[float, ...]
    scale: float


def hardware() -> Hardware:
    """Returns the hardware that the samples were measured on."""
    return next(one for one in CUDA_ARCHS if one.name == "sm_90a")


def read(path: Path = SAMPLES) -> list[Sample]:
    """Returns the samples of a file that `model_samples measure` wrote."""
    samples = []
    for entry in json.loads(path.read_text())["samples"]:
        w, one = ConvWorkload.from_json(entry["workload"]), family(entry["family"])
        configs = [config_of(one.config_type, row["config"]) for row in entry["rows"]]
        found = (one.footprint(w, config, hardware()) for config in configs)
        footprints = tuple(footprint for footprint in found if footprint is not None)
        us = tuple(row["us"] for row in entry["rows"])
        samples.append(Sample(entry["name"], one.name, entry["held_out"], footprints, us))
    return samples


def config_of(kind: type, fields: dict[str, Any]) -> Any:
    """Returns a configuration from JSON fields; lists become tuples."""
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def rank(sample: Sample, fitted: Fitted = FITTED) -> Ranking:
    """Ranks a sample by the model's predictions with these constants."""
    predicted = [time_of(one, hardware(), fitted).us for one in sample.footprints]
    order = sorted(range(len(predicted)), key=predicted.__getitem__)
    best = min(sample.us)
    regret = tuple(min(sample.us[at] for at in order[:count]) / best for count in FIRST)
    scale = statistics.median(p / us for p, us in zip(predicted, sample.us, strict=True))
    return Ranking(sample, correlation(predicted, sample.us), regret, scale)


def correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Returns Spearman's correlation: that of the ranks; equal values share their mean rank."""
    return statistics.correlation(_ranks(left), _ranks(right))


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(one) + (ordered.count(one) - 1) / 2 for one in values]


def summary(rankings: Sequence[Ranking]) -> list[float]:
    """Returns the mean correlation, and geometric means of each regret and of the scale."""
    columns = [*zip(*(one.regret for one in rankings), strict=True), [r.scale for r in rankings]]
    means = [statistics.geometric_mean(column) for column in columns]
    return [statistics.fmean(one.correlation for one in rankings), *means]


# ---------------------------------------------------------------- the fit


def loss(samples: Sequence[Sample], fitted: Fitted) -> float:
    """Returns the squared error of the logarithms, centred for each sample.

    Slow configurations get little weight, and the mean error of a sample counts a third.
    """
    total = 0.0
    for sample in samples:
        best = min(sample.us)
        weights = [(best / us) ** 1.5 for us in sample.us]
        errors = [
            math.log(time_of(one, hardware(), fitted).us / us)
            for one, us in zip(sample.footprints, sample.us, strict=True)
        ]
        mean = _mean(errors, weights)
        total += _mean([(one - mean) ** 2 for one in errors], weights) + 0.3 * mean**2
    return total / len(samples)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


#: Upper bounds of shares, and lower bounds of the times to begin and end.
MOST, LEAST = {"issue": 1.0, "dram": 1.0, "seen": 1.0}, {"start": 200.0, "begin_us": 0.3}


def fit(samples: Sequence[Sample], tries: int = 1500, seed: int = 0) -> Fitted:
    """Fits the constants by random steps in one at a time; a step is kept if it helps."""
    draw, best = random.Random(seed), FITTED
    least = loss(samples, best)
    steps = dict.fromkeys(dataclasses.asdict(best), 0.25)
    for _ in range(tries):
        name = draw.choice(list(steps))
        value = getattr(best, name) * math.exp(draw.gauss(0, steps[name]))
        value = max(LEAST.get(name, 0.0), min(MOST.get(name, math.inf), value))
        candidate = dataclasses.replace(best, **{name: value})
        found = loss(samples, candidate)
        steps[name] = max(0.02, steps[name] * (1.3 if found < least else 0.93))
        if found < least:
            best, least = candidate, found
    return best


def main(
    path: Annotated[Path, typer.Argument(help="JSON of model_samples")] = SAMPLES,
    fitting: Annotated[bool, typer.Option("--fit", help="also fit the constants")] = False,
) -> None:
    """Show how the model ranks the samples, the held-out ones last."""
    samples = read(path)
    fitted = fit([one for one in samples if not one.held_out]) if fitting else FITTED
    header = ["workload", "family", "n", "correlation", *(f"first {n}" for n in FIRST), "scale"]
    for held_out in (False, True):
        rankings = [rank(one, fitted) for one in samples if one.held_out == held_out]
        rows = [header]
        for one in rankings:
            numbers = [one.correlation, *one.regret, one.scale]
            cells = [one.sample.name, one.sample.family, str(len(one.sample.us))]
            rows.append([*cells, *(f"{value:.2f}" for value in numbers)])
        rows.append(["mean", "", "", *(f"{value:.3f}" for value in summary(rankings))])
        print("held out" if held_out else "fitted to")
        print(figures(rows, text=("workload", "family")))
    if fitting:
        print(fitted)


if __name__ == "__main__":
    run_or_tell(lambda: typer.run(main))
