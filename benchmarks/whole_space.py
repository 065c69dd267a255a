"""The best of the 32 that the cost model ranks first, over the best of a whole space.

A command of `benchmarks.regret`, on convolutions that no constant of the model was fitted to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from tvm.target.codegen import llvm_get_system_cpu

from benchmarks.regret_report import geometric_mean, write
from schedules.conv.activations import Activation
from schedules.conv.workload import ConvWorkload, Epilogue
from tvmconv.cli.inputs import tell
from tvmconv.errors import TuningError, TvmconvError
from tvmconv.reports.render.tables import table
from tvmconv.runtime import gpu
from tvmconv.tuning.candidates import MOST, sample, space
from tvmconv.tuning.kernels import Target
from tvmconv.tuning.measure import Measured, Workshop

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
    """Returns `HELD_OUT`, each with bias and ReLU, padded to keep its size."""
    epilogue = Epilogue(bias=True, activation=Activation("relu"))
    return [
        ConvWorkload(
            n, h, h, c, k, r, r, (stride, stride), (r // 2,) * 4, groups=groups, epilogue=epilogue
        )
        for n, h, c, k, r, stride, groups in HELD_OUT
    ]  # fmt: skip


@dataclass(frozen=True)
class SpaceRow:
    """The result of one workload: the best of those that the model ranks first, and of all."""

    shape: str
    workload: str
    space: int
    measured: int
    failed: int
    model_us: float
    top_us: float
    best_us: float
    #: Rank of the best in the model's order, from 0.
    best_rank: int
    best: str
    seconds: float

    @classmethod
    def of(cls, measured: Measured, whole: int) -> SpaceRow:
        """Returns the row of a measured workload. whole: size of its space."""
        times = [one.us for one in measured.timed]
        best = measured.best.us
        return cls(
            shape=str(measured.workload),
            workload=measured.workload.to_json(),
            space=whole,
            measured=len(times),
            failed=sum(map(math.isinf, times)),
            model_us=times[0],
            # The race names one of equally fast kernels; its time counts as the best.
            top_us=max(best, min(times[:MOST])),
            best_us=best,
            best_rank=measured.timed.index(measured.best),
            best=str(measured.best.candidate),
            seconds=measured.seconds,
        )

    @property
    def ratio(self) -> float:
        """Best time of the first 32 over the best of all."""
        return self.top_us / self.best_us


def space_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the summary of rows as in the JSON."""
    ratios = [row["ratio"] for row in rows]
    return {
        "workloads": len(rows),
        "geometric_mean": geometric_mean(ratios),
        "worst": max(ratios, default=1.0),
        "model": geometric_mean([row["model_us"] / row["best_us"] for row in rows]),
    }


def whole_space(
    workloads: Annotated[str, typer.Option(help="numbers of the held-out ones: 0-9,12")] = "0-19",
    most: Annotated[int, typer.Option(min=2, help="configurations of each")] = 300,
    target: Annotated[str, typer.Option(help="cuda or llvm")] = "cuda",
    arch: Annotated[str | None, typer.Option(help="architecture; default: this machine's")] = None,
    out: Annotated[Path, typer.Option(help="folder for the JSON")] = Path("build/reports"),
    commit: Annotated[str | None, typer.Option(help="commit, outside of a git checkout")] = None,
) -> None:
    """Measure whole spaces, and show the loss of measuring only the model's first 32."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = [held_out()[at] for at in numbers(workloads, len(HELD_OUT))]
    place = place_of(target, arch)
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
            data = [{**asdict(row), "ratio": row.ratio} for row in rows]
            write(out / f"space-{target}.json", target, commit, space_summary(data), data)
    header = ("convolution", "space", "measured", "best us", "first 32", "model's", "rank of best")
    cells = [
        (r.shape, str(r.space), str(r.measured), f"{r.best_us:.2f}", f"{r.ratio:.3f}",
         f"{r.model_us / r.best_us:.2f}", str(r.best_rank))
        for r in rows
    ]  # fmt: skip
    print(table([header, *cells], right=range(1, len(header))))
    print(f"geometric mean of the first 32: {geometric_mean([row.ratio for row in rows]):.3f}")


def numbers(text: str, end: int) -> list[int]:
    """Returns 0, 1, 2, 3 and 7 for ``0-3,7``. Raises `TvmconvError`, also for one past `end`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or int(match[2] or match[1]) >= end:
            raise TvmconvError(f"{part!r} are not numbers up to {end - 1}", hint="write 0-9,12")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def place_of(kind: str, arch: str | None) -> Target:
    """Returns the target on this machine; loads the CUDA runtime. Raises `TvmconvError`."""
    if kind == "llvm":
        return Target(kind, arch or llvm_get_system_cpu())
    here = gpu.detect_arch()
    if here is None:
        raise TvmconvError("there is no NVIDIA GPU here", hint="run this on a machine with one")
    return Target(kind, arch or here)
