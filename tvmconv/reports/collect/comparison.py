"""`compare`: an executable's outputs beside onnxruntime's, which computes in fp32 on the CPU.

So it does of a quantised model: QuantizeLinear and DequantizeLinear round as ONNX defines them, and
everything between them is in fp32. By default onnxruntime would take integer kernels, whose results
depend on the processor, and round biases. Models of QLinearConv and the like have no other way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tvmconv.errors import ModelError, first_line
from tvmconv.onnx import model as onnx_model
from tvmconv.onnx.quantized.operators import QUANTIZE
from tvmconv.reports.collect.lost_ranges import lost_ranges
from tvmconv.reports.data.comparison import (
    BOUND,
    INT8_BOUND,
    CompareReport,
    LostRange,
    OutputDifference,
)
from tvmconv.runtime.executable import Executable
from tvmconv.runtime.io_form import arranged, feeds_to_model, model_shape
from tvmconv.runtime.session import open_session
from tvmconv.specs import OPEN, shapes_of

#: The relative l2 error from which a cause is looked for. What rounding alone explains is below,
#: for all but the deepest networks.
SUSPECT = 2e-3
#: The smallest normal fp16 number. Below it fp16 has a fixed step, so relative errors grow.
NEAR_ZERO = 2.0**-14


def difference(name: str, ours: NDArray[Any], reference: NDArray[Any]) -> OutputDifference:
    """Compares two arrays of one shape, in float64."""
    y, ref = ours.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, where both overflowed
        error = y - ref
        norm_y, norm_ref, norm = (float(np.linalg.norm(a)) for a in (y, ref, error))
        inner = float(np.vdot(y, ref))
    return OutputDifference(
        name=name,
        shape=ours.shape,
        relative_l2=norm / norm_ref if norm_ref else None,
        max_abs=float(np.abs(error).max(initial=0.0)),
        cosine=inner / (norm_y * norm_ref) if norm_y and norm_ref else None,
        finite=bool(np.isfinite(y).all()),
        note=_note(ref, norm_ref),
    )


def _of_another_size(
    name: str, got: tuple[int, ...], expected: tuple[int, ...]
) -> OutputDifference:
    """The difference of an output whose size values decide: not a number where sizes differ."""
    return OutputDifference(
        name,
        got,
        relative_l2=math.nan,
        max_abs=math.nan,
        cosine=None,
        finite=True,
        note=f"onnxruntime gives {expected}: values decide the size, some near a threshold; "
        "compare what is before it",
    )


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


def compare(
    model: onnx_model.Model, exe: Executable, feeds: Mapping[str, Any] | None = None
) -> CompareReport:
    """Runs ``exe`` and onnxruntime on the same ``feeds`` and compares their outputs.

    ``model`` is the one that ``exe`` was built from. ``feeds`` maps input names to NumPy arrays of
    the shapes and dtypes in ``exe.inputs``; the default is `random_feeds`. A trained network may
    answer near zero to noise, which the report then notes: give it real inputs. A network built for
    buckets is compared at each, on the feeds of `Executable.each_bucket`; the report has every
    output of every bucket. Its bound is `INT8_BOUND` where activations are rounded to 8 bits. Where
    an error is larger than rounding explains, onnxruntime runs once more, and the report names the
    layers whose activations fp16 does not hold.

    Raises `FeedError` for feeds that do not fit ``exe``, `ModelError` (of which `ShapeError` is
    one) for a model that cannot be read, that onnxruntime cannot run, or that ``exe`` is not built
    from.
    """
    proto = onnx_model.read(model)
    errors: list[OutputDifference] = []
    lost: dict[str, LostRange] = {}
    bound = INT8_BOUND if _rounds_to_8_bits(proto, exe) else BOUND
    for one, fed in exe.each_bucket(feeds):
        found, model_feeds = _differences(proto, one, fed)
        errors += (replace(error, fed=shapes_of(one.inputs)) for error in found)
        if bound == BOUND and not all(error.passed(SUSPECT) for error in found):
            convs = {conv.name: conv for conv in one.report.convs}
            fixed = onnx_model.fix_shapes(proto, shapes=_shapes(one))
            for each in lost_ranges(fixed, convs, model_feeds):
                lost.setdefault(each.tensor, each)
    target = f"{exe.target} {exe.arch or ''}".strip()
    version = onnxruntime.__version__
    reference = f"onnxruntime {version}, fp32 on the CPU"
    return CompareReport(target, reference, tuple(errors), bound, tuple(lost.values()))


def _rounds_to_8_bits(model: onnx.ModelProto, exe: Executable) -> bool:
    """True if activations are rounded to 8 bits: by the model, or by a file of scales beside it."""
    return any(conv.in_int8 for conv in exe.report.convs) or any(
        node.op_type == QUANTIZE or node.op_type.startswith("QLinear") for node in model.graph.node
    )


def _differences(
    model: onnx.ModelProto, exe: Executable, feeds: Mapping[str, Any]
) -> tuple[list[OutputDifference], dict[str, NDArray[Any]]]:
    """Compares at one batch; see `compare`. Returns the feeds of the model as well."""
    proto = onnx_model.fix_shapes(model, shapes=_shapes(exe))
    # Ours first, as its errors about feeds are clearer.
    ours = {name: np.asarray(array) for name, array in exe.run(feeds).items()}
    model_inputs = onnx_model.specs(onnx_model.inputs(proto))
    fed = feeds_to_model(exe.inputs, feeds, model_inputs)
    reference = reference_outputs(proto.SerializeToString(), fed)
    specs = {spec.name: spec for spec in exe.outputs}
    errors = []
    for name, given in reference.items():
        expected = arranged(specs[name], given) if name in specs else given
        got = ours[name].shape if name in ours else None
        if got is not None and got != expected.shape and OPEN in specs[name].shape:
            errors.append(_of_another_size(name, got, expected.shape))
            continue
        if got != expected.shape:
            raise ModelError(
                f"output {name!r}: onnxruntime gives shape {expected.shape}, the executable "
                + ("has no such output" if got is None else f"gives {got}"),
                hint="give the model that the executable was built from",
            )
        errors.append(difference(name, ours[name], expected))
    return errors, fed


def _shapes(exe: Executable) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's inputs, at the batch of `exe`."""
    return {spec.name: model_shape(spec) for spec in exe.inputs}


def reference_outputs(model: bytes, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Returns onnxruntime's outputs by name. Its threads end here, as idle ones would spin.

    Raises `ModelError` for a model that onnxruntime cannot run.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = open_session(model, options)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # its exceptions have no common base
        raise ModelError("onnxruntime cannot run this model", note=first_line(error)) from error
