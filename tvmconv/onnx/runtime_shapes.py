"""Shapes that onnxruntime gives where ONNX's inference says others: it decides, as it always did.

Resize, Upsample: sizes are floor(scale * size), which onnxruntime computes in fp32 and ONNX's
inference in fp64: 0.7 as fp32 is a little less, so that it makes 6 of 10, where onnxruntime has 7.
MaxPool, AveragePool with ceil_mode, before opset 22: inference counts a last window that starts in
the pad after the image, onnxruntime leaves it out.
ConvTranspose with output_shape: inference leaves out the axes from the first on that is smaller in
the output than in the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Constants = Mapping[str, onnx.TensorProto]
#: One for each input of a node; empty where it is not known.
Shapes = Sequence[Sequence[int]]


def corrections(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """The right shapes of results that have another inferred shape, by name.

    proto: with inferred shapes. A result behind one of them may still be wrong.
    """
    graph = proto.graph
    if not any(node.op_type in RULES for node in graph.node):
        return {}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer} | {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    found = {}
    for node in graph.node:
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        known, made = shapes.get(node.input[0], []) if rule else [], shapes.get(node.output[0])
        if rule is None or not known or not made or 0 in known or 0 in made:
            continue
        right = rule(node, [shapes.get(name, []) for name in node.input], constants)
        if right is not None and right != made:
            found[node.output[0]] = right
    return found


def pinned(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """A copy for inference, in which constants of `shapes` stand for the nodes that give them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    dtypes = {
        value.name: value.type.tensor_type.elem_type
        for value in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output)
    } | {tensor.name: tensor.data_type for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        name = node.output[0] if node.output else ""
        if name not in shapes:
            continue
        element = dtypes.get(name) or dtypes.get(node.input[0]) or onnx.TensorProto.FLOAT
        size = f"{name}.shape"
        sizes = numpy_helper.from_array(np.array(shapes[name], np.int64), size)
        copy.graph.initializer.append(sizes)
        zero = helper.make_tensor("value", element, [1], [0])
        stand_in = helper.make_node("ConstantOfShape", [size], [name], node.name, value=zero)
        node.CopyFrom(stand_in)
    return copy


def _resized(node: onnx.NodeProto, shapes: Shapes, constants: Constants) -> list[int] | None:
    """The shape that a Resize or Upsample by constant scales gives."""
    shape = shapes[0]
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    at = 1 if node.op_type == "Upsample" or len(node.input) == 2 else 2
    if len(node.input) > 3 and node.input[3]:
        return None  # by sizes
    tensor = constants.get(node.input[at]) if at < len(node.input) else None
    scales = given.get("scales") if tensor is None else numpy_helper.to_array(tensor).tolist()
    axes = given.get("axes", range(len(shape)))
    if not scales or len(scales) != len(axes):
        return None
    sizes = list(shape)
    for axis, scale in zip(axes, scales, strict=True):
        sizes[axis] = math.floor(np.float32(scale) * np.float32(shape[axis]))
    return sizes


def ceil_windows(size: int, span: int, stride: int, before: int, after: int) -> tuple[int, bool]:
    """The windows of a pool along an axis with ceil_mode, and whether one was left out, as it would
    start in the pad after the image. span: elements from a window's first to its last tap."""
    windows = -((span - size - before - after) // stride) + 1
    if (windows - 1) * stride >= size + before:
        return windows - 1, True
    return windows, False


def _pooled(node: onnx.NodeProto, shapes: Shapes, _: Constants) -> list[int] | None:
    """The shape that a pool with ceil_mode and explicit pads gives."""
    shape = shapes[0]
    given: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if not given.get("ceil_mode") or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    taps, rank = given["kernel_shape"], len(shape) - 2
    ones, pads = [1] * rank, given.get("pads", [0] * 2 * rank)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    sizes = list(shape[:2])
    for i, size in enumerate(shape[2:]):
        span = (taps[i] - 1) * dilations[i] + 1
        sizes.append(ceil_windows(size, span, strides[i], pads[i], pads[rank + i])[0])
    return sizes


def _transposed(node: onnx.NodeProto, shapes: Shapes, _: Constants) -> list[int] | None:
    """The shape that a ConvTranspose with output_shape gives."""
    given: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    shape, weight = shapes[:2]
    if "output_shape" not in given or 0 in weight or len(weight) != len(shape):
        return None
    # Some files list the batch and the channels as well.
    spatial = given["output_shape"][2 - len(shape) :]
    return [shape[0], weight[1] * given.get("group", 1), *spatial]


#: By operator: (node, shapes of its inputs, constants) -> the shape of its first result, or None
#: where inference is right.
RULES: Mapping[str, Callable[[onnx.NodeProto, Shapes, Constants], list[int] | None]] = {
    "AveragePool": _pooled,
    "ConvTranspose": _transposed,
    "MaxPool": _pooled,
    "Resize": _resized,
    "Upsample": _resized,
}
