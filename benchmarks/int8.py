"""The networks of `bench` in int8: quantised by us, compared, and timed beside their fp16.

The reference is onnxruntime on the same QDQ model, twice: as ONNX defines it, in fp32, by which the
network passes or not, and with its own optimisations and integer kernels, as people run it. Both,
and ours, are compared with the float model too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import tvmconv
from benchmarks.prebuild import AS_INT8, compared, file_name, options, read
from benchmarks.zoo import zoo
from benchmarks.zoo.model import Source
from tvmconv.cli.inputs import step
from tvmconv.quantization.accuracy import Errors
from tvmconv.reports.collect.comparison import reference_outputs
from tvmconv.reports.collect.latency import Effort
from tvmconv.reports.data.comparison import CompareReport
from tvmconv.reports.data.latency import LatencyReport, Timing
from tvmconv.reports.render.tables import table
from tvmconv.runtime.io_form import arranged, feeds_from_model

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Int8:
    """The results for one network in int8 at one batch size."""

    #: Ours beside onnxruntime on the same model, as ONNX defines it.
    comparison: CompareReport
    #: The relative l2 error that passes: sqrt(2) times that of the int8 model from the float one,
    #: both as onnxruntime computes them. So far apart are two approximations of the float network
    #: whose errors are as large as this one's, and independent: more than this is not rounding. Two
    #: right programs round alike almost everywhere, and where they do not, it adds up from layer to
    #: layer: `tvmconv.reports.data.comparison.INT8_BOUND` has what comes of it.
    bound: float
    #: Relative l2 errors: of ours from onnxruntime with its integer kernels; of that from itself as
    #: ONNX defines it; and from the float model of ours and of that.
    from_integer_kernels: float
    integer_kernels_from_itself: float
    from_float: float
    integer_kernels_from_float: float
    #: Share of the pictures whose first class is the float model's; None without classes.
    first_class: float | None
    #: Convolutions whose kernels multiply 8-bit integers, and all.
    in_int8: int
    convolutions: int
    floor_us: float
    #: None if the network failed the comparison and was not timed.
    latency: LatencyReport | None = None
    #: Median of int8 over that of fp16.
    ratio_to_fp16: float | None = None

    @property
    def passed(self) -> bool:
        """True if ours is within the bound."""
        return self.comparison.passed(self.bound)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names."""
        return {
            **vars(self),
            "comparison": self.comparison.to_json(),
            "latency": self.latency and self.latency.to_json(),
        }


def measure(
    name: str,
    batch: int,
    target: str,
    folder: Path,
    *,
    arch: str | None = None,
    built: bool = False,
    pictures: Source = zoo.photos,
    effort: Effort | None = None,
    layers: bool = True,
    fp16: Timing | None = None,
) -> Int8:
    """Checks and times a network that `benchmarks.prebuild.quantise` wrote to ``folder``.

    built: ``folder`` has what `prebuild` made of it, too. fp16: our own time of the float network
    in this run. On a GPU inputs are the network's own 8-bit numbers.

    Raises `TvmconvError` if the network cannot be read or built, or pictures or weights cannot be
    fetched.
    """
    model, feeds = read(name, batch, folder), zoo.feeds(name, batch, pictures)
    if built:
        exe = tvmconv.load(folder / file_name(name, batch, AS_INT8))
    else:
        with step(f"building {name} in int8 at batch {batch} for {target}"):
            chosen = options(target, AS_INT8, model)
            exe = tvmconv.build(model, target=target, arch=arch, batch=batch, **chosen)
    found = errors(zoo.load(name), model, exe, feeds)
    if not found.passed:
        return found
    latency = tvmconv.bench(
        exe,
        feeds_from_model(exe.inputs, feeds),
        relative_l2=found.comparison.relative_l2,
        layers=layers,
        **vars(effort or Effort()),
    )
    ratio = latency.compute.median_ms / fp16.median_ms if fp16 else None
    return replace(found, latency=latency, ratio_to_fp16=ratio)


def errors(
    floats: onnx.ModelProto,
    model: onnx.ModelProto,
    exe: tvmconv.Executable,
    feeds: Mapping[str, NDArray[Any]],
) -> Int8:
    """Returns the errors of a network that was built of ``model``, which is ``floats`` quantised.

    feeds: as the models take them.
    """
    wanted = reference_outputs(floats.SerializeToString(), feeds)
    defined = reference_outputs(model.SerializeToString(), feeds)
    by_integers = _with_integer_kernels(model, feeds)
    fed = feeds_from_model(exe.inputs, feeds)
    ours = {name: np.asarray(array) for name, array in exe.run(fed).items()}
    specs = {spec.name: spec for spec in exe.outputs}

    def error(found: Outputs, reference: Outputs) -> float:
        sums = Errors()
        sums.add(reference, found)
        return sums.largest()

    def as_ours(outputs: Outputs) -> Outputs:
        return {name: arranged(specs[name], array) for name, array in outputs.items()}

    return Int8(
        comparison=compared(model, exe, feeds),
        bound=math.sqrt(2) * error(defined, wanted),
        from_integer_kernels=error(ours, as_ours(by_integers)),
        integer_kernels_from_itself=error(by_integers, defined),
        from_float=error(ours, as_ours(wanted)),
        integer_kernels_from_float=error(by_integers, wanted),
        first_class=first_class(ours, as_ours(wanted)),
        in_int8=exe.report.in_int8,
        convolutions=len(exe.report.convolutions),
        floor_us=exe.report.floor_us,
    )


def first_class(found: Outputs, reference: Outputs) -> float | None:
    """Returns the share of equal first classes, of one output (batch, classes); None of others."""
    ((name, wanted),) = reference.items() if len(reference) == 1 else ((None, np.zeros(0)),)
    if name is None or wanted.ndim != 2 or wanted.shape[1] < 2:
        return None
    return float(np.mean(found[name].argmax(1) == wanted.argmax(1)))


def _with_integer_kernels(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Outputs:
    """Returns onnxruntime's outputs by name, with its default options."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def markdown(document: Mapping[str, Any]) -> str:
    """Returns the table of a page of what ``bench --int8`` wrote as JSON, timed networks alone."""
    rows = [
        "| network | batch | fp16, ms | int8, ms | times as fast | images/s | from onnxruntime |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in document["cells"]:
        found, fp16 = cell["int8"], cell["latency"]["compute"]["median_ms"]
        ours = found["latency"]["compute"]["median_ms"]
        error = max(one["relative_l2"] for one in found["comparison"]["outputs"])
        rows.append(
            f"| {cell['model']} | {cell['batch']} | {fp16:.3g} | {ours:.3g} | {fp16 / ours:.2f} "
            f"| {cell['batch'] / ours * 1e3:,.0f} | {100 * error:.1f}% |"
        )
    return "\n".join(rows)


HEADER = (
    *("network", "batch", "fp16 ms", "int8 ms", "int8 / fp16", "images/s", "in int8"),
    *("from onnxruntime", "bound", "from float", "onnxruntime's", "first class"),
)


def report(rows: Sequence[tuple[str, int, LatencyReport | None, Int8]]) -> str:
    """Returns the table of networks: name, batch, the time in fp16, and the results in int8."""
    cells = [HEADER, *(_row(*row) for row in rows)]
    return table(cells, right=range(1, len(HEADER)))


def _row(name: str, batch: int, fp16: LatencyReport | None, found: Int8) -> tuple[str, ...]:
    timed = ("refused", "", "")
    if found.latency is not None:
        ratio = f"{found.ratio_to_fp16:.2f}" if found.ratio_to_fp16 else ""
        median = found.latency.compute.median_ms
        timed = (f"{median:.4g}", ratio, f"{found.latency.throughput:.5g}")
    return (
        name,
        str(batch),
        f"{fp16.compute.median_ms:.4g}" if fp16 else "",
        *timed,
        f"{found.in_int8} of {found.convolutions}",
        f"{found.comparison.relative_l2:.1e}",
        f"{found.bound:.1e}",
        f"{found.from_float:.1e}",
        f"{found.integer_kernels_from_float:.1e}",
        "" if found.first_class is None else f"{found.first_class:.0%}",
    )
