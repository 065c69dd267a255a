"""Ranges of activations, by onnxruntime's calibrators; and scales."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import (
    CalibraterBase,
    CalibrationDataReader,
    EntropyCalibrater,
    MinMaxCalibrater,
    PercentileCalibrater,
)

from tvmconv.errors import ModelError, QuantizationError, first_line
from tvmconv.quantization.network import Network
from tvmconv.quantization.placement import Group

#: Of the numbers of a tensor, by their absolute value, those that ``percentile`` does not cut off.
PERCENTILE = 99.999
#: Activations that are in memory at a time, those of whole feeds. Histograms begin with a chunk of
#: them, and chunks with larger numbers add bins.
CHUNK_BYTES = 1 << 30
#: Bins of a histogram, and the steps that ``entropy`` compares it with: onnxruntime's own, with
#: which it cuts off nothing of the first chunk. With 512 bins and more it cuts off far too much
#: where numbers pile up at an end, as at the 6 of Relu6: EfficientNet-Lite0's scores then differ by
#: 0.36 in relative l2, with these by 0.08.
BINS, STEPS = 128, 128
#: The same for ``percentile``, which finds its bound no more finely than they are.
PERCENTILE_BINS = 2048
#: onnxruntime's calibrators by our names, each with what it is told.
CALIBRATERS: dict[str, tuple[type[CalibraterBase], dict[str, Any]]] = {
    "entropy": (EntropyCalibrater, {"num_bins": BINS, "num_quantized_bins": STEPS}),
    "minmax": (MinMaxCalibrater, {}),
    "percentile": (PercentileCalibrater, {"percentile": PERCENTILE, "num_bins": PERCENTILE_BINS}),
}
METHODS = tuple(CALIBRATERS)
#: The smallest scale: below it fp32 has fewer digits.
SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Range:
    """The numbers of a tensor that are told apart; those outside become the nearest of them."""

    lowest: float
    highest: float


@dataclass(frozen=True)
class Scale:
    """One scale of activations: a number is ``scale`` times an integer of ``dtype``."""

    scale: float
    #: ``int8`` from -127 on, or ``uint8`` where no number is negative. The zero point is 0.
    dtype: str

    @property
    def zero(self) -> NDArray[Any]:
        """The zero point as an array of the dtype, shape ()."""
        return np.array(0, self.dtype)


def ranges(
    network: Network,
    sizes: Mapping[str, int],
    feeds: Sequence[Mapping[str, Any]],
    method: str,
) -> dict[str, Range]:
    """Returns the range of each tensor over all feeds, by one of `METHODS`.

    sizes: the tensors, each with its elements in one feed, about.

    Raises `QuantizationError` for another method, for a tensor that is not finite, and for
    activations that are 0 on all feeds; `ModelError` if onnxruntime can't run the model.
    """
    if method not in METHODS:
        raise QuantizationError(
            f"activations can't be calibrated by {method!r}", hint=f"one of {', '.join(METHODS)}"
        )
    if not sizes:
        return {}
    chunk = max(1, CHUNK_BYTES // (4 * max(1, sum(sizes.values()))))
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / "float.onnx"
        onnx.save(network.proto, path)
        try:
            # It prints what it does.
            with contextlib.redirect_stdout(io.StringIO()):
                found = _found(_calibrator(method, path, tuple(sizes)), feeds, chunk)
        except Exception as error:  # its exceptions have no common base
            if method != "minmax":  # a histogram has no place for infinity, and does not say whose
                ranges(network, sizes, feeds, "minmax")
            raise ModelError(
                f"onnxruntime's {method} calibrator can't calibrate this model",
                note=first_line(error),
                hint='the model has to run in onnxruntime; method="minmax" asks least of it',
                shell="the model has to run in onnxruntime; --method minmax asks least of it",
            ) from error
    _check(found)
    return found


def _check(found: Mapping[str, Range]) -> None:
    for name, one in found.items():
        if not (math.isfinite(one.lowest) and math.isfinite(one.highest)):
            raise QuantizationError(
                f"activation {name!r} is not finite on the feeds",
                hint="are the feeds scaled as the network was trained? It overflows in fp32",
            )
    zero = [name for name, one in found.items() if one.lowest == one.highest == 0]
    if zero:
        raise QuantizationError(
            f"activations are 0 on all feeds: {', '.join(map(repr, zero))}",
            note="a range of 0 has no scale",
            hint="give feeds like those the network will see, or keep=[the layers that read them]",
            shell="give images like those the network will see, or --keep layers that read them",
        )


def _calibrator(method: str, path: Path, tensors: tuple[str, ...]) -> CalibraterBase:
    """One of onnxruntime's calibrators, for these tensors alone. It starts its session."""
    base, options = CALIBRATERS[method]

    class Chosen(base):  # type: ignore[valid-type, misc]
        """Measures what is in 8 bits, not every tensor of some operators."""

        def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> Any:
            """Returns the names, and the types of all tensors."""
            _, types = super().select_tensors_to_calibrate(model)
            return dict.fromkeys(tensors).keys(), types

    written = path.with_name("augmented.onnx")
    chosen = Chosen(path, augmented_model_path=str(written), **options)
    chosen.augment_graph()
    chosen.create_inference_session()
    return chosen


class _Reader(CalibrationDataReader):
    """Gives a calibrator some feeds."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        self.left = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Returns the next feed, and None after the last."""
        feed = next(self.left, None)
        return None if feed is None else dict(feed)


def _found(
    calibrator: CalibraterBase, feeds: Sequence[Mapping[str, Any]], chunk: int
) -> dict[str, Range]:
    # The histograms of one chunk are of feeds of one shape.
    for _, alike in itertools.groupby(feeds, key=lambda feed: [x.shape for x in feed.values()]):
        left = list(alike)
        for start in range(0, len(left), chunk):
            calibrator.collect_data(_Reader(left[start : start + chunk]))
    found = {}
    for name, data in calibrator.compute_data().items():
        lowest, highest = (float(np.asarray(one).ravel()[0]) for one in data.range_value)
        found[name] = Range(lowest, highest)
    return found


def scales(
    groups: Iterable[Group], found: Mapping[str, Range], unsigned: bool = True
) -> dict[str, Scale]:
    """Returns the scale of each tensor of the groups.

    unsigned: tensors without negative numbers get uint8, whose steps are half as large.

        scale = max |x| / 127, or / 255, over the ranges of the group
    """
    result = {}
    for group in groups:
        lowest = min(found[name].lowest for name in group.ranging)
        highest = max(found[name].highest for name in group.ranging)
        if unsigned and lowest >= 0:
            scale = Scale(max(highest / 255, SMALLEST), "uint8")
        else:
            scale = Scale(max(highest / 127, -lowest / 127, SMALLEST), "int8")
        result.update(dict.fromkeys(group.tensors, scale))
    return result
