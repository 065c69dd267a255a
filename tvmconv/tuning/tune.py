"""`tune`: measures a network's convolutions, and records what was fastest.

model -> inspect -> workloads -> `measure_workloads`
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from schedules.conv.workload import ConvWorkload
from tvmconv.compiler import build as compiler
from tvmconv.compiler.targets import SIMULATED
from tvmconv.errors import TuningError, UnsupportedOperatorError
from tvmconv.onnx import model as onnx_model
from tvmconv.onnx.batches import Batch, Shapes
from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.data.tuning import TuningReport
from tvmconv.tuning.candidates import MOST
from tvmconv.tuning.stopwatch import Tracker
from tvmconv.tuning.workloads import Watch, measure_workloads


def tune(
    model: onnx_model.Model,
    target: str = "cuda",
    *,
    arch: str | None = None,
    batch: Batch = None,
    shapes: Shapes = None,
    io_dtype: str | None = None,
    io_layout: str | None = None,
    budget_s: float | None = None,
    records: str | Path | None = None,
    most: int = MOST,
    jobs: int | None = None,
    tracker: Tracker | None = None,
    timeout_s: float = 60.0,
    dry_run: bool = False,
    watch: Watch = lambda progress: None,
) -> TuningReport:
    """Measures the convolutions of a network and records what was fastest of each.

    model, target, arch, batch, shapes, io_dtype, io_layout: as of `build`.
    budget_s: seconds for all, split by shares of the network's estimated time; who gets too few
        has fewer candidates, or is left out. By default there is no limit.
    records: the file to add to; by default the user's own, where `build` looks first. What is
        recorded there is not measured again, so a run that was interrupted goes on.
    most: candidates of a workload, the best by the cost model.
    jobs: processes that compile. tracker: of the machines that measure; by default this one.
    timeout_s: for one kernel to compile, or to be checked.
    dry_run: measures nothing, and says what would be. watch: called with the progress.

    Raises as `inspect` does, `UnsupportedOperatorError` for a network that can't be built,
    `TargetError` without a GPU to measure on, `TuningError` where a package is missing, and
    `RecordError` for a file that holds other things.
    """
    if most < 1 or (budget_s is not None and budget_s <= 0):
        raise TuningError(f"nothing to do with {most} candidates in {budget_s} s")
    if target == SIMULATED:
        raise TuningError("a simulation is not tuned", hint="tune for cuda or llvm")
    report = compiler.inspect(
        model, target, arch=arch, batch=batch, shapes=shapes,
        io_dtype=io_dtype, io_layout=io_layout, records=False,
    )  # fmt: skip
    return measure_workloads(
        workloads_of(report.plan), target, report.plan.arch,
        budget_s=budget_s, records=records, most=most, jobs=jobs, tracker=tracker,
        timeout_s=timeout_s, dry_run=dry_run, watch=watch,
    )  # fmt: skip


def workloads_of(plan: BuildReport) -> Counter[str]:
    """Every kernel of the network, all buckets together: its workload, and how often it occurs.

    Of a pair the two apart as well: with records of all three, measured times decide.

    Raises `UnsupportedOperatorError` for a network that can't be built.
    """
    if plan.unsupported:
        raise UnsupportedOperatorError(
            "the network can't be built, so there is nothing to tune",
            note=", ".join(plan.unsupported),
            hint="tvmconv inspect says more",
        )
    reports = (*plan.smaller, plan)
    kernels = Counter(text for one in reports for conv in one.convs for text in conv.workloads)
    counts = Counter(kernels)
    for text, count in kernels.items():
        w = ConvWorkload.from_json(text)
        if w.prologue is not None:
            counts.update({one.to_json(): count for one in w.apart})
    return counts
