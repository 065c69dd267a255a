"""Quantised weights as float constants, with the scale that makes whole numbers of them again.

ModelProto of fp32 with QuantizeLinear and DequantizeLinear
    -> ModelProto without DequantizeLinear of constants, scales by name of node
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvmconv.onnx.model import drop_unread_constants
from tvmconv.onnx.quantized.operators import DEQUANTIZE, is_standard

#: The scale of each output channel of a node's weight, float64 (K,), by the node's name.
WeightScales = Mapping[str, NDArray[np.float64]]
#: The axis of the output channels in an operator's weight, and where that may be.
OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
#: By real tensor: the numbers less their zero point, and the scale to be broadcast over them.
Dequantised = Mapping[str, tuple[NDArray[np.integer[Any]], NDArray[np.generic]]]
#: Numbers that kernels multiply by: those of int8.
LEAST, MOST = -128, 127


def fold_weights(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, WeightScales]:
    """Returns the model with float constants for what DequantizeLinear gives of constants.

    weight / scale of a node are whole numbers from -128 to 127, zero point subtracted, exactly
    once they are rounded: a fp32 number is off by 2**-24 of itself. A weight of other numbers, or
    with a scale along another axis than the output channels, has no scale: it is a float weight,
    and `weight_reasons` says why. A model without any is returned as it is.
    """
    given = _dequantised(proto.graph)
    if not given:
        return proto, {}
    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    graph, kept = folded.graph, []
    for node in graph.node:
        if node.output[0] not in given:
            kept.append(node)
            continue
        numbers, scale = given[node.output[0]]
        real = numbers.astype(np.float32) * scale.astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(real, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    found = _verdicts(kept, given)
    drop_unread_constants(graph)
    return folded, {name: one for name, one in found.items() if not isinstance(one, str)}


def weight_reasons(proto: onnx.ModelProto) -> dict[str, str]:
    """Why quantised weights have no scale in `fold_weights`, by the name of the node; empty for
    those that have."""
    found = _verdicts(proto.graph.node, _dequantised(proto.graph))
    return {name: one if isinstance(one, str) else "" for name, one in found.items()}


def _dequantised(graph: onnx.GraphProto) -> Dequantised:
    """Returns what DequantizeLinear reads, where all of it is constant."""
    constants = {one.name: one for one in graph.initializer}
    given: dict[str, tuple[NDArray[np.integer[Any]], NDArray[np.generic]]] = {}
    for node in graph.node:
        if not is_standard(node, DEQUANTIZE) or not all(one in constants for one in node.input):
            continue
        arrays = [numpy_helper.to_array(constants[one]) for one in node.input]
        # A difference of 8-bit numbers has 9 bits; biases have 32.
        wide = np.int16 if arrays[0].itemsize == 1 else np.int64
        numbers: NDArray[np.integer[Any]] = arrays[0].astype(wide)
        if len(arrays) > 2:
            numbers = numbers - _along(arrays[2], node, numbers.ndim).astype(wide)
        given[node.output[0]] = numbers, _along(arrays[1], node, numbers.ndim)
    return given


def _verdicts(
    nodes: Iterable[onnx.NodeProto], given: Dequantised
) -> dict[str, NDArray[np.float64] | str]:
    """By name of a node with a quantised weight: the scales, or why kernels can't multiply it."""
    return {
        node.name: _by_output(node, *given[node.input[1]])
        for node in nodes
        if node.op_type in OUTPUT_AXIS and len(node.input) > 1 and node.input[1] in given
    }


def _along(values: NDArray[np.generic], node: onnx.NodeProto, rank: int) -> NDArray[np.generic]:
    """A scale or zero point, shaped to be broadcast over its tensor."""
    if values.size == 1:
        return values.reshape([1] * rank)
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1) % rank
    return values.reshape([-1 if at == axis else 1 for at in range(rank)])


def _by_output(
    node: onnx.NodeProto, numbers: NDArray[np.integer[Any]], scale: NDArray[np.generic]
) -> NDArray[np.float64] | str:
    """The scale of each output channel, or why kernels can't multiply the numbers."""
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axis = OUTPUT_AXIS[node.op_type]
    if node.op_type == "Gemm" and attributes.get("transB", 0):
        axis = 0
    if node.op_type == "Gemm" and attributes.get("alpha", 1.0) != 1.0:
        return f"a Gemm with alpha = {attributes['alpha']:g}"
    groups = int(attributes.get("group", 1))
    if numbers.size == 0:
        return "a weight without elements"
    if numbers.min() < LEAST or numbers.max() > MOST:
        return (
            f"its weight is {numbers.min()} to {numbers.max()} less its zero point, "
            f"past {LEAST} to {MOST}"
        )
    if scale.size not in (1, numbers.shape[axis]) or scale.size != scale.shape[axis]:
        return "its weight has scales along another axis than the output channels"
    if node.op_type == "ConvTranspose":
        each = np.broadcast_to(scale.reshape(-1), (numbers.shape[1],))
        return np.tile(each, groups).astype(np.float64)
    return np.broadcast_to(scale.reshape(-1), (numbers.shape[axis],)).astype(np.float64)
