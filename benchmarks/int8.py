"""The networks of `bench` in int8: quantised by us, compared, and timed beside their fp16.

The reference is onnxruntime on the same QDQ model, twice: as ONNX defines it, in fp32, by which the
network passes or not, and with its own optimisations and integer kernels, as people run it. Both,
and ours, are compared with the float model too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import tvmconv
from benchmarks.zoo import zoo
from benchmarks.zoo.model import Source
from tvmconv.errors import TvmconvError
from tvmconv.quantization.accuracy import Errors
from tvmconv.reports.collect.comparison import reference_outputs
from tvmconv.reports.data.comparison import CompareReport
from tvmconv.reports.data.latency import LatencyReport
from tvmconv.reports.render.tables import table
from tvmconv.runtime.io_form import arranged

#: Pictures that a network is quantised with, and at most so many at once: a classifier is a product
#: with a vector at batch 1, which stays in floating point, and not at others.
CALIBRATED, AT_ONCE = 32, 8
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Int8:
    """The results for one network in int8 at one batch size."""

    #: Ours beside onnxruntime on the same model, as ONNX defines it.
    comparison: CompareReport
    #: The relative l2 error that passes: that of the int8 model from the float one, both as
    #: onnxruntime computes them. Ours has to be nearer to the model that it was built from than
    #: that is to what it approximates; a fault in one layer is not. How far single steps bring
    #: apart two right programs is said at `tvmconv.reports.data.comparison.INT8_BOUND`.
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


def model_name(name: str, batch: int) -> str:
    """Returns the file name of the quantised network."""
    return f"{name}-b{batch}.int8.onnx"


def quantise(name: str, batch: int, folder: Path, pictures: Source) -> Path:
    """Quantises a network on pictures that `bench` does not show it. Returns the file.

    Raises as `zoo.load`, `zoo.calibration` and `tvmconv.quantize` do.
    """
    at_once = min(batch, AT_ONCE)
    feeds = zoo.calibration(name, CALIBRATED // at_once, at_once, pictures, besides=batch)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model_name(name, batch)
    tvmconv.quantize(zoo.load(name), feeds).save(path)
    return path


def read(name: str, batch: int, folder: Path) -> onnx.ModelProto:
    """Returns what `quantise` wrote. Raises `TvmconvError` if there is none."""
    path = folder / model_name(name, batch)
    if not path.exists():
        raise TvmconvError(
            f"there is no {path}", hint="leave --built out: then networks are quantised first"
        )
    return onnx.load(path)


def compared(
    floats: onnx.ModelProto,
    model: onnx.ModelProto,
    exe: tvmconv.Executable,
    feeds: Mapping[str, NDArray[Any]],
    comparison: CompareReport,
) -> Int8:
    """Returns the errors of a quantised network.

    feeds: as the model takes them. comparison: of ``exe`` with ``model``.
    """
    wanted = reference_outputs(floats.SerializeToString(), feeds)
    defined = reference_outputs(model.SerializeToString(), feeds)
    by_integers = _with_integer_kernels(model, feeds)
    fed = tvmconv.runtime.io_form.feeds_from_model(exe.inputs, feeds)
    ours = {name: np.asarray(array) for name, array in exe.run(fed).items()}
    specs = {spec.name: spec for spec in exe.outputs}

    def error(found: Outputs, reference: Outputs) -> float:
        errors = Errors()
        errors.add(reference, found)
        return errors.largest()

    def as_ours(outputs: Outputs) -> Outputs:
        return {name: arranged(specs[name], array) for name, array in outputs.items()}

    return Int8(
        comparison=comparison,
        bound=error(defined, wanted),
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


HEADER = (
    *("network", "batch", "fp16 ms", "int8 ms", "int8 / fp16", "images/s", "in int8"),
    *("from onnxruntime", "bound", "from float", "onnxruntime's", "first class"),
)


def report(rows: list[tuple[str, int, float | None, Int8]]) -> str:
    """Returns the table of networks: name, batch, fp16's median in ms, and the results in int8."""
    cells = [HEADER, *(_row(*row) for row in rows)]
    return table(cells, right=range(1, len(HEADER)))


def _row(name: str, batch: int, fp16_ms: float | None, found: Int8) -> tuple[str, ...]:
    timed = ("refused", "", "")
    if found.latency is not None:
        ratio = f"{found.ratio_to_fp16:.2f}" if found.ratio_to_fp16 else ""
        median = found.latency.compute.median_ms
        timed = (f"{median:.4g}", ratio, f"{found.latency.throughput:.5g}")
    return (
        name,
        str(batch),
        f"{fp16_ms:.4g}" if fp16_ms else "",
        *timed,
        f"{found.in_int8} of {found.convolutions}",
        f"{found.comparison.relative_l2:.1e}",
        f"{found.bound:.1e}",
        f"{found.from_float:.1e}",
        f"{found.integer_kernels_from_float:.1e}",
        "" if found.first_class is None else f"{found.first_class:.0%}",
    )
