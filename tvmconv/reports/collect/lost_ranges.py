"""Activations that leave the range of fp16 on some feeds, by a run of the float model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import onnx

from intrinsics import dtypes
from tvmconv.onnx import frontend
from tvmconv.onnx.model import name_nodes, read_by
from tvmconv.onnx.ranges.measure import Magnitude, measure
from tvmconv.reports.data.build import ConvReport
from tvmconv.reports.data.comparison import LostRange

#: Operators that the kernel of a convolution may compute after it, so that what they read is not
#: rounded to fp16.
POINTWISE = (
    *("Add", "BatchNormalization", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Mish", "Mul", "PRelu", "Relu", "Sigmoid", "Softplus", "Sub", "Tanh"),
)
#: The relative l2 error of a tensor in fp16 from which it is told: ten times that of a usual one.
LOST = 2e-3


def lost_ranges(
    model: onnx.ModelProto, convs: Mapping[str, ConvReport], feeds: Mapping[str, Any]
) -> tuple[LostRange, ...]:
    """Returns what convolutions read or give in fp16 that fp16 does not hold, in the model's order.

    model: with fixed shapes. convs: what became of its convolutions, by name. Raises `ModelError`
    for a model that onnxruntime can't run.
    """
    name_nodes(model)
    simple = frontend.simplify(frontend.widen(model))
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in simple.graph.node:
        for name in read_by(node):
            readers.setdefault(name, []).append(node)
    watched: dict[tuple[str, str], str] = {}
    for node in simple.graph.node:
        conv = convs.get(node.name)
        if conv is None or not (conv.workloads or conv.part_of) or conv.in_int8:
            continue
        if not any(one.startswith("x ") for one in conv.kept):
            watched[node.name, "reads"] = node.input[0]
        if _in_fp16(conv):
            watched[node.name, "gives"] = _stored(node.output[0], readers)
    sizes = measure(simple, [feeds], set(watched.values()))
    found: dict[str, LostRange] = {}  # each tensor once
    for (layer, does), tensor in watched.items():
        size = sizes.get(tensor)
        if size is not None and _is_lost(size):
            found.setdefault(tensor, LostRange(layer, does, tensor, size.largest, size.lost))
    return tuple(found.values())


def _is_lost(size: Magnitude) -> bool:
    held = math.isfinite(size.largest)  # infinity is, in fp16
    return held and (size.lost > LOST or size.largest > dtypes.FP16.largest)


def _in_fp16(conv: ConvReport) -> bool:
    """True if a kernel writes fp16 that was not scaled for its readers."""
    results = {json.loads(one)["precision"]["result"] for one in conv.workloads}
    return results == {dtypes.FP16.name} and not any(one.startswith("result ") for one in conv.kept)


def _stored(tensor: str, readers: Mapping[str, list[onnx.NodeProto]]) -> str:
    """The tensor that is written where `tensor` is computed, after what its kernel may do."""
    read = readers.get(tensor, [])
    while len(read) == 1 and read[0].op_type in POINTWISE:
        tensor = read[0].output[0]
        read = readers.get(tensor, [])
    return tensor
