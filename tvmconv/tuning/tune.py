"""`tune`: measures a network's convolutions, and records the fastest configurations.

model -> inspect -> workloads -> `measure_workloads`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from schedules.conv.workload import ConvWorkload
from schedules.registry import registered
from tvmconv.compiler import build as compiler
from tvmconv.compiler.targets import SIMULATED
from tvmconv.errors import TuningError, UnsupportedOperatorError
from tvmconv.onnx import model as onnx_model
from tvmconv.onnx.batches import Batch, ShapesOrAny
from tvmconv.passes.plan.chooser import LayoutName
from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.data.tuning import TuningReport
from tvmconv.tuning.candidates import MOST
from tvmconv.tuning.stopwatch import Tracker
from tvmconv.tuning.workloads import TuningOptions, Watch, measure_workloads


def tune(
    model: onnx_model.Model,
    target: str = "cuda",
    *,
    arch: str | None = None,
    batch: Batch = None,
    shapes: ShapesOrAny = None,
    precision: str = "fp16",
    quantization: str | Path | None = None,
    io_dtype: str | None = None,
    io_layout: str | None = None,
    families: Iterable[str] | None = None,
    layout: LayoutName | None = None,
    budget_s: float | None = None,
    records: str | Path | None = None,
    most: int = MOST,
    jobs: int | None = None,
    tracker: Tracker | None = None,
    timeout_s: float = 60.0,
    dry_run: bool = False,
    watch: Watch = lambda progress: None,
) -> TuningReport:
    """Measures the convolutions of a network and records the fastest configuration of each.

    model, target, arch, batch, shapes, precision, quantization, io_dtype, io_layout, families,
        layout: as in `build`.
    budget_s, records, most, jobs, tracker, timeout_s, dry_run, watch: as in `TuningOptions`. By
        default records go to the file that `build` reads first. A workload that is
        recorded there, by one of `families`, is not measured again: an interrupted run goes on.

    Raises as `inspect` does, `UnsupportedOperatorError` for a network that cannot be built,
    `TargetError` without a GPU to measure on, `TuningError` if a package is missing, and
    `RecordError` for a file with other content.
    """
    options = TuningOptions(budget_s, records, most, jobs, tracker, timeout_s, dry_run, watch)
    # Once, as it may be an iterator.
    among = registered(families)
    if target == SIMULATED:
        raise TuningError("a simulation is not tuned", hint="tune for cuda or llvm")
    report = compiler.inspect(
        model, target, arch=arch, batch=batch, shapes=shapes, precision=precision,
        quantization=quantization, io_dtype=io_dtype, io_layout=io_layout, records=False,
        families=[one.name for one in among], layout=layout,
    )  # fmt: skip
    counts = workloads_of(report.plan)
    return measure_workloads(counts, target, report.plan.arch, options, among)


def workloads_of(plan: BuildReport) -> Counter[str]:
    """Returns every kernel of the network, over all buckets: its workload, and its count.

    A pair also adds its two convolutions, so that measured times can decide. Raises
    `UnsupportedOperatorError` for a network that cannot be built.
    """
    if plan.unsupported:
        raise UnsupportedOperatorError(
            "the network can't be built, so there is nothing to tune",
            note=", ".join(plan.unsupported),
            hint="`tvmconv inspect` shows details",
        )
    reports = (*plan.smaller, plan)
    kernels = Counter(text for one in reports for conv in one.convs for text in conv.workloads)
    counts = Counter(kernels)
    for text, count in kernels.items():
        w = ConvWorkload.from_json(text)
        if w.prologue is not None:
            counts.update({one.to_json(): count for one in w.apart})
    return counts
