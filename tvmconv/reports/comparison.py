"""`compare`: an executable's outputs beside onnxruntime's, which computes in fp32 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tvmconv.errors import ModelError, first_line
from tvmconv.onnx import model as onnx_model
from tvmconv.reports.tables import table
from tvmconv.runtime.executable import Executable
from tvmconv.runtime.io_form import arranged, feeds_to_model, model_shape

#: What fp16 operands with fp32 sums are expected to keep to, over a whole network.
BOUND = 5e-3
#: The smallest normal float16. Below it fp16 has a fixed step, so relative errors grow at will.
NEAR_ZERO = 2.0**-14


def finite_or_none(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity: those become None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in fields.items()
    }


@dataclass(frozen=True)
class OutputDifference:
    """How far one output is from the reference. Sums are taken in float64."""

    name: str
    shape: tuple[int, ...]
    #: ||ours - reference|| / ||reference||; None where the reference is all zeros, NaN where
    #: either is not finite.
    relative_l2: float | None
    max_abs: float
    #: Of the angle between the two; None where one is all zeros.
    cosine: float | None
    #: Whether every element of ours is.
    finite: bool
    #: What to know before trusting the figures; empty if nothing.
    note: str = ""

    @classmethod
    def of(cls, name: str, ours: NDArray[Any], reference: NDArray[Any]) -> OutputDifference:
        """Compare two arrays of one shape."""
        y, ref = ours.astype(np.float64), reference.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, where both overflowed
            difference = y - ref
            norm_y, norm_ref, norm = (float(np.linalg.norm(a)) for a in (y, ref, difference))
            inner = float(np.vdot(y, ref))
        return cls(
            name=name,
            shape=ours.shape,
            relative_l2=norm / norm_ref if norm_ref else None,
            max_abs=float(np.abs(difference).max(initial=0.0)),
            cosine=inner / (norm_y * norm_ref) if norm_y and norm_ref else None,
            finite=bool(np.isfinite(y).all()),
            note=_note(ref, norm_ref),
        )

    def passed(self, bound: float) -> bool:
        """Whether the relative l2 error is at most ``bound``; of a zero reference, none at all."""
        if self.relative_l2 is None:
            return self.max_abs == 0
        return self.finite and self.relative_l2 <= bound  # False for NaN


def _note(ref: NDArray[np.float64], norm: float) -> str:
    if not np.isfinite(ref).all():
        return "the reference itself is not finite everywhere"
    if norm == 0:
        return "the reference is all zeros: there is no relative error, only an absolute one"
    rms = norm / math.sqrt(ref.size)
    if rms < NEAR_ZERO:
        return (
            f"the reference is near zero (root mean square {rms:.1e}): a relative error says "
            "little; are the feeds what the network was trained on?"
        )
    return ""


@dataclass(frozen=True)
class CompareReport:
    """Every output's error. ``print(report)`` is a table."""

    target: str
    reference: str
    outputs: tuple[OutputDifference, ...]

    @property
    def relative_l2(self) -> float:
        """The worst output's; infinite where one has none and should have, or is not finite."""
        errors = []
        for output in self.outputs:
            if output.relative_l2 is None:
                errors.append(0.0 if output.max_abs == 0 else math.inf)
            else:
                errors.append(math.inf if math.isnan(output.relative_l2) else output.relative_l2)
        return max(errors)

    def passed(self, bound: float = BOUND) -> bool:
        """Whether every output is finite and its relative l2 error at most ``bound``."""
        return all(output.passed(bound) for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """The fields as they are called here. JSON has no NaN or infinity: those become None."""
        plain = asdict(self)
        return {**plain, "outputs": [finite_or_none(output) for output in plain["outputs"]]}

    def __str__(self) -> str:
        rows = [["output", "shape", "relative l2", "max abs", "cosine", "finite"]]
        for out in self.outputs:
            relative = "none" if out.relative_l2 is None else f"{out.relative_l2:.2e}"
            cosine = "none" if out.cosine is None else f"{out.cosine:.7f}"
            shape, finite = "x".join(map(str, out.shape)), "yes" if out.finite else "NO"
            rows.append([out.name, shape, relative, f"{out.max_abs:.2e}", cosine, finite])
        notes = [f"Note: {out.name}: {out.note}" for out in self.outputs if out.note]
        head = f"{self.target} against {self.reference}"
        return "\n".join([head, table(rows, right=range(2, 6)), *notes])


def compare(
    model: onnx_model.Model, exe: Executable, feeds: Mapping[str, Any] | None = None
) -> CompareReport:
    """Run ``exe`` and onnxruntime on the same ``feeds`` and measure how far their outputs differ.

    ``model`` is what ``exe`` was built from. ``feeds`` maps input names to NumPy arrays of the
    shapes and dtypes in ``exe.inputs``; by default they are `random_feeds`. A trained network may
    answer near zero to noise, which the report then notes: give it real inputs. A network built for
    buckets is compared at each of them, on what `Executable.each_bucket` makes of the feeds: the
    report then has every output at every batch.

    Raises FeedError for feeds that do not fit ``exe``, ModelError (and ShapeError, which is one)
    for a model that cannot be read, that onnxruntime cannot run, or that ``exe`` is not built from.
    """
    proto = onnx_model.read(model)
    errors: list[OutputDifference] = []
    for one, fed in exe.each_bucket(feeds):
        errors += _differences(proto, one, fed)
    target = f"{exe.target} {exe.arch or ''}".strip()
    version = onnxruntime.__version__
    return CompareReport(target, f"onnxruntime {version}, fp32 on the CPU", tuple(errors))


def _differences(
    model: onnx.ModelProto, exe: Executable, feeds: Mapping[str, Any]
) -> list[OutputDifference]:
    """`compare` at one batch."""
    shapes = {spec.name: model_shape(spec) for spec in exe.inputs}
    proto = onnx_model.fix_shapes(model, shapes=shapes)
    # Ours first: it checks the feeds, and says it better.
    ours = {name: np.asarray(array) for name, array in exe.run(feeds).items()}
    model_inputs = onnx_model.specs(onnx_model.inputs(proto))
    fed = feeds_to_model(exe.inputs, feeds, model_inputs)
    reference = reference_outputs(proto.SerializeToString(), fed)
    specs = {spec.name: spec for spec in exe.outputs}
    errors = []
    for name, given in reference.items():
        expected = arranged(specs[name], given) if name in specs else given
        got = ours[name].shape if name in ours else None
        if got != expected.shape:
            raise ModelError(
                f"output {name!r}: onnxruntime gives shape {expected.shape}, the executable "
                + ("has no such output" if got is None else f"gives {got}"),
                hint="give the model that the executable was built from",
            )
        errors.append(OutputDifference.of(name, ours[name], expected))
    return errors


def reference_outputs(model: bytes, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """onnxruntime's outputs by name. Its threads are gone after: idle ones would spin.

    Raises `ModelError` for a model that onnxruntime can't run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # its exceptions have no common base
        raise ModelError("onnxruntime cannot run this model", note=first_line(error)) from error
