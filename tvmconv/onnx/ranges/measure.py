"""The sizes of activations on some feeds, and what rounding to fp16 loses, by onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from tvmconv.errors import ModelError, first_line
from tvmconv.onnx.branches import tensor_names
from tvmconv.onnx.model import inputs
from tvmconv.runtime.session import open_session


@dataclass(frozen=True)
class Magnitude:
    """The size of one tensor."""

    #: The largest magnitude.
    largest: float
    #: ||fp16(x) - x|| / ||x||, the largest of all feeds; infinite where fp16 overflows.
    lost: float

    def joined(self, other: Magnitude) -> Magnitude:
        """Returns the size over the feeds of both."""
        return Magnitude(max(self.largest, other.largest), max(self.lost, other.lost))


def measure(
    model: onnx.ModelProto,
    feeds: Iterable[Mapping[str, Any]],
    only: Collection[str] | None = None,
) -> dict[str, Magnitude]:
    """Returns the size of every tensor in fp32, by name; constants are left out.

    model: shapes inferred. feeds: arrays by the names of its inputs. only: names of the tensors
    that are asked for. Where a tensor has infinity in it, so has its size. Raises `ModelError` for
    a model that onnxruntime can't run.
    """
    names = [name for name in _floats(model) if only is None or name in only]
    if not names:
        return {}
    found: dict[str, Magnitude] = {}
    for given in _runs(*_watched(model, names), feeds):
        for name, one in given.items():
            found[name] = found[name].joined(one) if name in found else one
    return found


def _floats(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors in fp32 that are no constants."""
    graph = model.graph
    written = {value.name for value in inputs(model)}
    written |= {name for node in graph.node for name in node.output}
    float32 = onnx.TensorProto.FLOAT
    return [
        value.name
        for value in {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}.values()
        if value.name in written and value.type.tensor_type.elem_type == float32
    ]


def _watched(
    model: onnx.ModelProto, names: Iterable[str]
) -> tuple[onnx.ModelProto, dict[str, tuple[str, str]]]:
    """The model with two numbers for each tensor as its outputs, and the names of these.

    Of x they are m = max |x| and ||fp16(x) - x|| / ||x||, with both divided by m before they are
    squared, so that no square leaves the range of fp32.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph, taken = watched.graph, tensor_names(model.graph)
    del graph.output[:]
    answers: dict[str, tuple[str, str]] = {}

    def op(kind: str, *read: str, **attributes: Any) -> str:
        made = f"magnitude_{len(taken)}"
        while made in taken:
            made += "_"
        taken.add(made)
        graph.node.append(helper.make_node(kind, list(read), [made], **attributes))
        return made

    def norm(x: str, largest: str) -> str:
        part = op("Div", x, largest)
        return op("Sqrt", op("ReduceSum", op("Mul", part, part), keepdims=0))

    for name in names:
        largest = op("ReduceMax", op("Abs", name), keepdims=0)
        narrow = op(
            "Cast", op("Cast", name, to=onnx.TensorProto.FLOAT16), to=onnx.TensorProto.FLOAT
        )
        lost = op("Div", norm(op("Sub", narrow, name), largest), norm(name, largest))
        answers[name] = largest, lost
        for answer in (largest, lost):
            graph.output.append(helper.make_tensor_value_info(answer, onnx.TensorProto.FLOAT, None))
    return watched, answers


def _runs(
    watched: onnx.ModelProto,
    answers: Mapping[str, tuple[str, str]],
    feeds: Iterable[Mapping[str, Any]],
) -> Iterator[dict[str, Magnitude]]:
    """The sizes on each of the feeds. Raises `ModelError`."""
    options = onnxruntime.SessionOptions()
    # No optimisation may take the two casts for nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted = [answer for pair in answers.values() for answer in pair]
    try:
        session = open_session(watched, options)
        for feed in feeds:
            numbers = [float(np.asarray(one)) for one in session.run(wanted, dict(feed))]
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            yield {name: _magnitude(*pair) for name, pair in zip(answers, pairs, strict=True)}
    except Exception as error:  # its exceptions have no common base
        raise ModelError("onnxruntime cannot run this model", note=first_line(error)) from error


def _magnitude(largest: float, lost: float) -> Magnitude:
    """The two numbers as a size: of zeros nothing is lost, of what overflows everything."""
    if largest == 0:
        return Magnitude(0.0, 0.0)
    return Magnitude(largest, math.inf if math.isnan(lost) else lost)
