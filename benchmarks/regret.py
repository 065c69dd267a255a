"""What it costs to choose by the cost model instead of by measurement, on this machine.

    python -m benchmarks.regret choice --networks resnet18,resnet50 --batches 1,8
    python -m benchmarks.regret space --workloads 0-9

``choice``: the model's choice over the fastest that tuning finds, for every convolution of the
networks; both out of one race. ``space``: the best of the 32 that the model ranks first over the
best of the whole space, or of as much of it as is sampled, on convolutions of networks that no
constant of the model was fitted to. Both write their JSON after each step, so that a run that is
stopped leaves what it has.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from tvm.target.codegen import llvm_get_system_cpu

import tvmconv
from benchmarks import machine, zoo
from schedules.activations import Activation
from schedules.workload import ConvWorkload, Epilogue
from tvmconv import toolchain
from tvmconv.cli_io import run_or_tell, tell
from tvmconv.cli_tune import parse_budget
from tvmconv.errors import DownloadError, TuningError, TvmconvError
from tvmconv.tables import table
from tvmconv.tuning.candidates import MOST, sample, space
from tvmconv.tuning.kernels import Target
from tvmconv.tuning.measure import Measured, Workshop
from tvmconv.tuning.report import TunedLayer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: Batch, H and W, C, K, R and S, stride, groups: layers of VGG, DenseNet, EfficientNet, RegNet,
#: ResNeXt, Inception, ConvNeXt, U-Net and a detector, large and small batches in turn.
HELD_OUT = (
    (1, 224, 64, 64, 3, 1, 1),
    (32, 56, 128, 256, 3, 1, 1),
    (1, 28, 256, 512, 3, 1, 1),
    (16, 14, 512, 512, 3, 1, 1),
    (1, 56, 96, 128, 1, 1, 1),
    (64, 28, 128, 32, 3, 1, 1),
    (8, 7, 1024, 128, 1, 1, 1),
    (1, 112, 32, 16, 1, 1, 1),
    (32, 28, 40, 240, 1, 1, 1),
    (128, 7, 1152, 320, 1, 1, 1),
    (1, 14, 672, 672, 5, 1, 672),
    (64, 28, 240, 240, 3, 2, 240),
    (16, 28, 224, 224, 3, 1, 14),
    (1, 14, 448, 448, 3, 2, 28),
    (32, 56, 256, 256, 3, 1, 32),
    (8, 17, 768, 192, 7, 1, 1),
    (1, 35, 192, 48, 5, 1, 1),
    (16, 56, 96, 96, 7, 1, 96),
    (4, 160, 48, 96, 3, 2, 1),
    (2, 20, 384, 255, 1, 1, 1),
)


def held_out() -> list[ConvWorkload]:
    """`HELD_OUT`, each with bias and ReLU, padded to its size."""
    epilogue = Epilogue(bias=True, activation=Activation("relu"))
    return [
        ConvWorkload(
            n, h, h, c, k, r, r, (stride, stride), (r // 2,) * 4, groups=groups, epilogue=epilogue
        )
        for n, h, c, k, r, stride, groups in HELD_OUT
    ]  # fmt: skip


def geometric_mean(ratios: Sequence[float]) -> float:
    """1 where there are none."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0


# ---------------------------------------------------------------- the model's choice


@dataclass(frozen=True)
class ChoiceRow:
    """One convolution of a network, or several alike."""

    network: str
    batch: int
    shape: str
    workload: str
    count: int
    us: float
    model_us: float
    choice: str

    @classmethod
    def of(cls, network: str, batch: int, layer: TunedLayer) -> ChoiceRow:
        return cls(
            network, batch, layer.shape, layer.workload, layer.count,
            layer.us, layer.model_us, layer.choice,
        )  # fmt: skip

    @property
    def regret(self) -> float:
        return self.model_us / self.us


def choice_summary(rows: Sequence[ChoiceRow]) -> dict[str, Any]:
    """Each workload once in the mean; each network as the sum of its layers."""
    distinct = {row.workload: row.regret for row in rows}
    networks: dict[str, list[ChoiceRow]] = {}
    for row in rows:
        networks.setdefault(f"{row.network} b{row.batch}", []).append(row)
    return {
        "workloads": len(distinct),
        "geometric_mean": geometric_mean(list(distinct.values())),
        "worst": max(distinct.values(), default=1.0),
        "networks": {
            name: sum(r.model_us * r.count for r in some) / sum(r.us * r.count for r in some)
            for name, some in networks.items()
        },
    }


@app.command()
def choice(
    networks: Annotated[str, typer.Option(help="of the zoo, with commas; default: all")] = "",
    batches: Annotated[str, typer.Option(help="batch sizes, with commas")] = "1,8,32,128",
    target: Annotated[str, typer.Option(help="cuda or llvm")] = "cuda",
    arch: Annotated[str | None, typer.Option(help="architecture; default: this machine's")] = None,
    budget: Annotated[str | None, typer.Option(help="of each network and batch")] = None,
    most: Annotated[int, typer.Option("--candidates", min=2, help="of each convolution")] = MOST,
    records: Annotated[
        Path | None, typer.Option(help="file to add to, of this run; default: in --out")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the JSON")] = Path("build/reports"),
    commit: Annotated[str | None, typer.Option(help="where this is no git checkout")] = None,
) -> None:
    """Tune networks of the zoo, and say what the model's choices lose."""
    path = out / f"regret-{target}.json"
    records = records or out / f"regret-{target}.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    rows: list[ChoiceRow] = []
    seconds: dict[str, float] = {}
    for name in networks.split(",") if networks else zoo.names():
        try:
            model = zoo.load(name)
        except DownloadError as error:
            tell(f"{name} is left out: {error}")
            continue
        for batch in map(int, batches.split(",")):
            report = tvmconv.tune(
                model, target, arch=arch, batch=batch, records=records, most=most,
                io_dtype="float16", io_layout="NHWC",  # as networks are fed in practice
                budget_s=None if budget is None else parse_budget(budget),
            )  # fmt: skip
            tell(f"{name} at batch {batch}\n{report}\n")
            rows += [ChoiceRow.of(name, batch, layer) for layer in report.layers if layer.us]
            seconds[f"{name} b{batch}"] = report.seconds
            summary = {**choice_summary(rows), "tuning_seconds": seconds}
            _write(path, target, commit, summary, [{**asdict(r), "regret": r.regret} for r in rows])
    summary = choice_summary(rows)
    for name, ratio in summary["networks"].items():
        print(f"{name}: {ratio:.3f}")
    print(
        f"{summary['workloads']} workloads: geometric mean {summary['geometric_mean']:.3f}, "
        f"worst {summary['worst']:.2f}"
    )


# ---------------------------------------------------------------- the model's first 32


@dataclass(frozen=True)
class SpaceRow:
    """One workload: the best of those that the model ranks first, and of all."""

    shape: str
    workload: str
    space: int
    measured: int
    failed: int
    model_us: float
    top_us: float
    best_us: float
    #: Where the model ranks the best, from 0.
    best_rank: int
    best: str
    seconds: float

    @classmethod
    def of(cls, measured: Measured, whole: int) -> SpaceRow:
        times = [one.us for one in measured.timed]
        best = measured.best.us
        return cls(
            shape=str(measured.workload),
            workload=measured.workload.to_json(),
            space=whole,
            measured=len(times),
            failed=sum(map(math.isinf, times)),
            model_us=times[0],
            # Of kernels as fast as each other the race names one; its time stands for the best.
            top_us=max(best, min(times[:MOST])),
            best_us=best,
            best_rank=measured.timed.index(measured.best),
            best=str(measured.best.candidate),
            seconds=measured.seconds,
        )

    @property
    def ratio(self) -> float:
        return self.top_us / self.best_us


@app.command(name="space")
def whole_space(
    workloads: Annotated[str, typer.Option(help="numbers of the held-out ones: 0-9,12")] = "0-19",
    most: Annotated[int, typer.Option(min=2, help="configurations of each")] = 300,
    target: Annotated[str, typer.Option(help="cuda or llvm")] = "cuda",
    arch: Annotated[str | None, typer.Option(help="architecture; default: this machine's")] = None,
    out: Annotated[Path, typer.Option(help="folder for the JSON")] = Path("build/reports"),
    commit: Annotated[str | None, typer.Option(help="where this is no git checkout")] = None,
) -> None:
    """Measure whole spaces, and say what is lost by measuring the model's first 32 alone."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = [held_out()[at] for at in numbers(workloads, len(HELD_OUT))]
    place = _target(target, arch)
    rows: list[SpaceRow] = []
    with Workshop(place) as shop:
        for w in chosen:
            whole = space(w, place.hardware)
            try:
                measured = shop.measure(shop.compile(w, sample(whole, most)))
            except TuningError as error:
                tell(str(error))
                continue
            rows.append(SpaceRow.of(measured, len(whole)))
            tell(f"{w}: {rows[-1].ratio:.3f}, best at {rows[-1].best_rank}: {rows[-1].best}")
            ratios = [row.ratio for row in rows]
            summary = {
                "workloads": len(rows),
                "geometric_mean": geometric_mean(ratios),
                "worst": max(ratios),
                "model": geometric_mean([row.model_us / row.best_us for row in rows]),
            }
            data = [{**asdict(row), "ratio": row.ratio} for row in rows]
            _write(out / f"space-{target}.json", target, commit, summary, data)
    header = ("convolution", "space", "measured", "best us", "first 32", "model's", "rank of best")
    cells = [
        (r.shape, str(r.space), str(r.measured), f"{r.best_us:.2f}", f"{r.ratio:.3f}",
         f"{r.model_us / r.best_us:.2f}", str(r.best_rank))
        for r in rows
    ]  # fmt: skip
    print(table([header, *cells], right=range(1, len(header))))
    print(f"geometric mean of the first 32: {geometric_mean([row.ratio for row in rows]):.3f}")


def numbers(text: str, end: int) -> list[int]:
    """``0-3,7``: 0, 1, 2, 3 and 7. Raises TvmconvError, also for one past `end`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or int(match[2] or match[1]) >= end:
            raise TvmconvError(f"{part!r} are no numbers up to {end - 1}", hint="write 0-9,12")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _target(kind: str, arch: str | None) -> Target:
    """Also loads the CUDA runtime."""
    if kind == "llvm":
        return Target(kind, arch or llvm_get_system_cpu())
    here = toolchain.detect_arch()
    if here is None:
        raise TvmconvError("there is no NVIDIA GPU here", hint="run this on a machine with one")
    return Target(kind, arch or here)


def _write(
    path: Path, target: str, commit: str | None, summary: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    document = {
        "target": target,
        "machine": machine.facts(commit),
        "summary": summary,
        "rows": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    run_or_tell(app)
