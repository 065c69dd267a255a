"""Inputs that are fed as 8-bit numbers instead of as real ones.

Before: x: float32 -> QuantizeLinear(scale, zero point) -> q
After:  x: int8, which is q: whoever feeds the network quantises

An input that no QuantizeLinear reads is fed real numbers that happen to be whole, such as the bytes
of a camera, and stays float in the graph: it is cast where the network begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvmconv.errors import ModelError, QuantizationError
from tvmconv.onnx.model import inputs, read_by
from tvmconv.onnx.quantized.operators import QUANTIZE, element_name, is_standard

_T = onnx.TensorProto
FLOATS = (_T.FLOAT, _T.FLOAT16, _T.DOUBLE)


@dataclass(frozen=True)
class Numbers:
    """8-bit numbers, whose real values are (number - zero) * scale.

    quantize: name of the QuantizeLinear that they come after; empty if they are the real numbers.
    """

    scale: float
    zero: int
    quantize: str = ""


def find_numbers(proto: onnx.ModelProto, dtype: str) -> dict[str, Numbers]:
    """Returns the numbers that inputs of floating point are fed, by name, of a model in QDQ form.

    dtype: ``int8`` or ``uint8``. Raises `ModelError` if there is no such input, and
    `QuantizationError` for one that is quantised to other numbers, in whose range bytes are not.
    """
    found = {}
    reads: Counter[str] = Counter()
    for node in proto.graph.node:
        reads.update(read_by(node))
    reads.update(output.name for output in proto.graph.output)
    values = {one.name: one for one in proto.graph.initializer}
    for value in inputs(proto):
        if value.type.tensor_type.elem_type not in FLOATS:
            continue
        readers = [
            node
            for node in proto.graph.node
            if is_standard(node, QUANTIZE) and node.input[0] == value.name and len(node.input) == 3
        ]
        found[value.name] = Numbers(1.0, 0)
        for node in readers:
            alone = reads[value.name] == 1
            found[value.name] = _of_quantize(value.name, node, values, dtype, alone)
    if not found:
        raise ModelError(
            f"the model has no input of floating point to feed as {dtype}",
            hint="leave io_dtype out",
            shell="leave --io-dtype out",
        )
    return found


def _of_quantize(
    name: str,
    node: onnx.NodeProto,
    values: Mapping[str, onnx.TensorProto],
    dtype: str,
    alone: bool,
) -> Numbers:
    """Returns the numbers of an input that a QuantizeLinear reads. alone: nothing else reads it."""
    if any(one not in values for one in node.input[1:]):
        return Numbers(1.0, 0)  # found at run time: any range
    scale, zero = (numpy_helper.to_array(values[one]) for one in node.input[1:])
    if alone and scale.size == 1 and zero.dtype == dtype:
        return Numbers(float(scale.item()), int(zero.item()), node.name)
    fed, own = np.iinfo(dtype), np.iinfo(zero.dtype)
    numbers = scale.astype(np.float64), zero.astype(np.int64)
    low, high = ((limit - numbers[1]) * numbers[0] for limit in (own.min, own.max))
    if (low <= fed.min).all() and (high >= fed.max).all():
        return Numbers(1.0, 0)  # bytes are among the real numbers that the model was made for
    kind = element_name(values[node.input[2]].data_type)
    why = (
        f"is quantised to {kind}"
        if kind != dtype
        else "is quantised, and others read its real numbers"
        if scale.size == 1
        else "is quantised by channel"
    )
    raise QuantizationError(
        f"input {name!r} can't be fed as {dtype}: it {why}",
        note=f"{node.name!r} takes real numbers from {low.max():.6g} to {high.min():.6g}, "
        f"{dtype} has {fed.min} to {fed.max}",
        hint=f"io_dtype={kind!r}" if kind != dtype and alone else "feed float16",
        shell=f"--io-dtype {kind if kind != dtype and alone else 'float16'}",
    )


def feed_numbers(proto: onnx.ModelProto, numbers: Mapping[str, Numbers]) -> onnx.ModelProto:
    """Returns the model without the QuantizeLinear of `numbers`, fed what they gave."""
    gone = {one.quantize for one in numbers.values() if one.quantize}
    if not gone:
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    values = {one.name: one for one in graph.initializer}
    elements = {}
    for node in graph.node:
        if node.name in gone:
            name, output = node.input[0], node.output[0]
            elements[name] = values[node.input[2]].data_type
            node.CopyFrom(helper.make_node("Identity", [name], [output], node.name))
    for value in graph.input:
        if value.name in elements:
            value.type.tensor_type.elem_type = elements[value.name]
    return changed
