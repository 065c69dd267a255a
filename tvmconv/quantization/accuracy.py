"""Errors of a quantised model against the float one, on the same feeds.

    relative l2 = ||y - y'|| / ||y||        signal to noise, in dB = -20 log10(relative l2)

over all elements and all feeds, y of the float model. QuantizeLinear and DequantizeLinear are
computed as ONNX defines them and everything else in fp32, so that the result does not depend on the
integer kernels of this machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from tvmconv.errors import ModelError, QuantizationError, first_line
from tvmconv.runtime.session import open_session

Feeds = Sequence[Mapping[str, Any]]


class Runner:
    """A model that onnxruntime runs in fp32."""

    def __init__(self, proto: onnx.ModelProto, watched: Iterable[str] = ()) -> None:
        """watched: tensors to give beside the outputs. Raises `ModelError`."""
        wide = onnx.ModelProto()
        wide.CopyFrom(proto)
        known = {value.name: value for value in (*proto.graph.value_info, *proto.graph.input)}
        outputs = {value.name for value in proto.graph.output}
        more = dict.fromkeys(name for name in watched if name not in outputs)
        typed = (known.get(name) or helper.make_empty_tensor_value_info(name) for name in more)
        wide.graph.output.extend(typed)
        options = onnxruntime.SessionOptions()
        # Rounding stays where it is written, and products are of numbers in fp32.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = open_session(wide, options)
        except Exception as error:  # its exceptions have no common base
            raise ModelError("onnxruntime cannot run this model", note=first_line(error)) from error
        self.names = [output.name for output in self._session.get_outputs()]

    def __call__(self, feed: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Returns outputs and watched tensors by name. Raises `ModelError`."""
        try:
            found = self._session.run(self.names, dict(feed))
        except Exception as error:
            raise ModelError("onnxruntime cannot run this model", note=first_line(error)) from error
        return dict(zip(self.names, found, strict=True))


class Errors:
    """Sums of squares of tensors and of their differences, over feeds."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, reference: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> None:
        """Adds the tensors in floating point of one run.

        Raises `QuantizationError` for a reference that is not finite.
        """
        for name, y in reference.items():
            if not np.issubdtype(y.dtype, np.floating):
                continue
            exact = y.astype(np.float64)
            difference = found[name].astype(np.float64) - exact
            power, noise = self._sums.get(name, (0.0, 0.0))
            power += float(np.vdot(exact, exact))
            noise += float(np.vdot(difference, difference))
            if not math.isfinite(power):
                raise QuantizationError(
                    f"{name!r} is not finite in the float model",
                    hint="are the feeds scaled as the network was trained?",
                )
            self._sums[name] = (power, noise)

    def relative_l2(self, name: str) -> float:
        """Returns the relative l2 error of a tensor; of one that is 0, 0 or infinity."""
        power, noise = self._sums[name]
        if noise == 0:
            return 0.0
        return math.sqrt(noise / power) if power else math.inf

    def largest(self, names: Iterable[str] | None = None) -> float:
        """Returns the largest relative l2 error of these tensors, or of all; infinity for NaN."""
        errors = [self.relative_l2(name) for name in (self._sums if names is None else names)]
        return max((math.inf if math.isnan(one) else one for one in errors), default=0.0)

    def __contains__(self, name: str) -> bool:
        return name in self._sums


def decibels(relative_l2: float) -> float:
    """Returns the ratio of signal to noise in dB: infinite without an error, minus infinity where
    the error is not finite."""
    if relative_l2 == 0:
        return math.inf
    return -20 * math.log10(relative_l2) if math.isfinite(relative_l2) else -math.inf


def errors(
    reference: onnx.ModelProto, model: onnx.ModelProto, feeds: Feeds, watched: Iterable[str] = ()
) -> Errors:
    """Returns the errors of a model's outputs and watched tensors. Runs both, feed by feed."""
    names = tuple(watched)
    exact, rounded, found = Runner(reference, names), Runner(model, names), Errors()
    for feed in feeds:
        found.add(exact(feed), rounded(feed))
    return found


class Reference:
    """The float model's outputs on all feeds, with which many models are compared."""

    def __init__(self, proto: onnx.ModelProto, feeds: Feeds) -> None:
        """Raises `ModelError` if onnxruntime can't run the model."""
        run = Runner(proto)
        self._runs = [(feed, run(feed)) for feed in feeds]

    def error(self, model: onnx.ModelProto, most: int | None = None) -> float:
        """Returns the largest relative l2 error of a model's outputs.

        most: number of feeds to run, the first ones; default all.
        """
        run, found = Runner(model), Errors()
        for feed, outputs in self._runs[:most]:
            found.add(outputs, run(feed))
        return found.largest()
