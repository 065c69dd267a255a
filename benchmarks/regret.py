"""Measures the cost of choosing by the cost model instead of by measurement, on this machine.

    python -m benchmarks.regret plan --networks resnet18,resnet50 --batches 1,8 --arch sm_90a
    python -m benchmarks.regret choice build/reports/plan.json
    python -m benchmarks.regret space --workloads 0-9

``choice``: time of the model's choice over the fastest that tuning finds, for every convolution of
the planned networks, each measured once; both from one race. Several GPUs take a part each.
``space``: the best of the 32 that the model ranks first over the best of the whole space, or of a
sample of it (`benchmarks.whole_space`). ``merge`` joins the files of parts.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import tvmconv
from benchmarks import whole_space
from benchmarks.regret_report import geometric_mean, merge, write
from benchmarks.whole_space import place_of, space_summary
from benchmarks.zoo import zoo
from intrinsics.dtypes import FP16
from tvmconv.cli.inputs import run_or_tell, tell
from tvmconv.cli.tune import parse_budget
from tvmconv.errors import DownloadError, TvmconvError
from tvmconv.reports.data.tuning import TunedLayer
from tvmconv.tuning.candidates import MOST
from tvmconv.tuning.tune import workloads_of
from tvmconv.tuning.workloads import TuningOptions, measure_workloads

app = typer.Typer(
    help="Measure the cost of choosing by the cost model: plan, then choice; or space. Then merge.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="space")(whole_space.whole_space)


@dataclass(frozen=True)
class Use:
    """The number of times that a convolution occurs in a network at a batch."""

    network: str
    batch: int
    workload: str
    count: int


@app.command()
def plan(
    networks: Annotated[str, typer.Option(help="of the zoo, with commas; default: all")] = "",
    batches: Annotated[str, typer.Option(help="batch sizes, with commas")] = "1,8,32,128",
    target: Annotated[str, typer.Option(help="cuda or llvm")] = "cuda",
    arch: Annotated[str | None, typer.Option(help="architecture; default: this machine's")] = None,
    out: Annotated[Path, typer.Option(help="folder for plan.json")] = Path("build/reports"),
) -> None:
    """List the convolutions of networks of the zoo; needs no GPU."""
    uses: list[Use] = []
    for name in networks.split(",") if networks else zoo.names():
        try:
            model = zoo.load(name)
        except DownloadError as error:
            tell(f"{name} is left out: {error}")
            continue
        for batch in map(int, batches.split(",")):
            report = tvmconv.inspect(
                model, target, arch=arch, batch=batch, records=False,
                io_dtype=FP16.name, io_layout="NHWC",  # as networks are fed in practice
            )  # fmt: skip
            counts = workloads_of(report.plan)
            uses += [Use(name, batch, workload, count) for workload, count in counts.items()]
    out.mkdir(parents=True, exist_ok=True)
    document = {"target": target, "uses": [asdict(use) for use in uses]}
    (out / "plan.json").write_text(json.dumps(document) + "\n")
    print(f"{len({use.workload for use in uses})} convolutions that differ, of {len(uses)}")


def part_of(uses: Sequence[Use], part: str) -> list[Use]:
    """Returns the uses of part i of n, written ``i/n``, i from 1: every n-th workload.

    Raises `TvmconvError` for another text.
    """
    number, _, of = part.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise TvmconvError(f"{part!r} is not a part", hint="write 1/4, 2/4, ...")
    mine = set(list(dict.fromkeys(use.workload for use in uses))[int(number) - 1 :: int(of)])
    return [use for use in uses if use.workload in mine]


def sample_of(uses: Sequence[Use], count: int) -> list[Use]:
    """Returns all uses of ``count`` random workloads, the same ones each time."""
    distinct = list(dict.fromkeys(use.workload for use in uses))
    drawn = set(random.Random(0).sample(distinct, min(count, len(distinct))))
    return [use for use in uses if use.workload in drawn]


@dataclass(frozen=True)
class ChoiceRow:
    """The result for a convolution, ``count`` times in a network. Times in microseconds."""

    network: str
    batch: int
    shape: str
    workload: str
    count: int
    us: float
    model_us: float
    choice: str

    regret: float

    @classmethod
    def of(cls, use: Use, layer: TunedLayer) -> ChoiceRow:
        """Returns the row of a use, from the tuned layer."""
        return cls(
            use.network, use.batch, layer.shape, use.workload, use.count,
            layer.us, layer.model_us, layer.choice, layer.model_us / layer.us,
        )  # fmt: skip


def choice_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the summary of rows as in the JSON.

    Each workload counts once in the mean; each network is the sum of its layers.
    """
    distinct = {row["workload"]: row["regret"] for row in rows}
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        networks.setdefault(f"{row['network']} b{row['batch']}", []).append(row)
    return {
        "workloads": len(distinct),
        "geometric_mean": geometric_mean(list(distinct.values())),
        "worst": max(distinct.values(), default=1.0),
        "networks": {
            name: sum(r["model_us"] * r["count"] for r in some)
            / sum(r["us"] * r["count"] for r in some)
            for name, some in networks.items()
        },
    }


@app.command()
def choice(
    planned: Annotated[Path, typer.Argument(help="JSON of `plan`")],
    part: Annotated[str, typer.Option(help="i/n: every n-th convolution")] = "1/1",
    sample: Annotated[int | None, typer.Option(min=1, help="at random; default: all")] = None,
    arch: Annotated[str | None, typer.Option(help="architecture; default: this machine's")] = None,
    budget: Annotated[str | None, typer.Option(help="as of `tvmconv tune`")] = None,
    most: Annotated[int, typer.Option("--candidates", min=2, help="of each convolution")] = MOST,
    records: Annotated[Path | None, typer.Option(help="file to add to; default: in --out")] = None,
    out: Annotated[Path, typer.Option(help="folder for the JSON")] = Path("build/reports"),
    commit: Annotated[str | None, typer.Option(help="commit, outside of a git checkout")] = None,
) -> None:
    """Tune what was planned, and show how much slower the model's choices are."""
    document = json.loads(planned.read_text())
    target = document["target"]
    uses = [Use(**use) for use in document["uses"]]
    uses = part_of(uses if sample is None else sample_of(uses, sample), part)
    counts: Counter[str] = Counter()
    for use in uses:
        counts[use.workload] += use.count
    out.mkdir(parents=True, exist_ok=True)
    options = TuningOptions(
        budget_s=None if budget is None else parse_budget(budget),
        records=records or out / f"regret-{target}.jsonl",
        most=most,
    )
    report = measure_workloads(counts, target, place_of(target, arch).arch, options)
    layers = {layer.workload: layer for layer in report.layers if layer.us}
    found = [ChoiceRow.of(use, layers[use.workload]) for use in uses if use.workload in layers]
    rows = [asdict(row) for row in found]
    summary = {**choice_summary(rows), "tuning_seconds": report.seconds}
    write(out / f"regret-{target}.json", target, commit, summary, rows)
    print(report)
    _say(summary)


def _say(summary: dict[str, Any]) -> None:
    for name, ratio in summary.get("networks", {}).items():
        print(f"{name}: {ratio:.3f}")
    print(
        f"{summary['workloads']} workloads: geometric mean {summary['geometric_mean']:.3f}, "
        f"worst {summary['worst']:.2f}"
    )


@app.command(name="merge")
def merge_parts(
    parts: Annotated[list[Path], typer.Argument(help="JSON of parts of one run")],
    out: Annotated[Path, typer.Option(help="the JSON to write")],
) -> None:
    """Join the results of several GPUs of one machine."""
    _say(merge(parts, out, _summary))


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {"regret" in row for row in rows}
    if len(kinds) > 1:
        raise TvmconvError("the parts mix choices and spaces", hint="merge one kind at a time")
    return choice_summary(rows) if kinds == {True} else space_summary(rows)


if __name__ == "__main__":
    run_or_tell(app)
