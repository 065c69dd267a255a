"""Shapes that onnxruntime gives where ONNX's inference says others: it decides, as it always did.

Resize, Upsample: sizes are floor(scale * size), which onnxruntime computes in fp32 and ONNX's
inference in fp64: 0.7 as fp32 is a little less, so that it makes 6 of 10, where onnxruntime has 7.
MaxPool, AveragePool with ceil_mode, before opset 22: inference counts a last window that starts in
the pad after the image, onnxruntime leaves it out.
ConvTranspose with output_shape: inference leaves out the axes from the first on that is smaller in
the output than in the input.

Of operators of other domains, such as com.microsoft.Gelu, ONNX knows no shape at all: for what is
behind them `add_known_shapes` asks onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tvmconv.onnx.branches import known_shapes
from tvmconv.runtime.session import open_session

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


#: onnxruntime's names of element types, where they are not ONNX's in small letters.
NAMES = {"float": onnx.TensorProto.FLOAT}


def add_known_shapes(proto: onnx.ModelProto) -> None:
    """Adds to `proto`, in place, the types that onnxruntime has for results that have no fixed
    shape there. What onnxruntime does not know either stays as it is.

    Raises whatever onnxruntime raises for a model that it does not take.
    """
    graph = proto.graph
    known = known_shapes(graph)
    names = [name for node in graph.node for name in node.output if name and name not in known]
    if not names:
        return
    asked = onnx.ModelProto()
    asked.CopyFrom(proto)
    given = {value.name for value in graph.output}
    asked.graph.output.extend(onnx.ValueInfoProto(name=one) for one in names if one not in given)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        found = {one.name: one for one in open_session(asked, options).get_outputs()}
    except Exception:  # its exceptions have no common base; such results may be no outputs
        return
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    for name in names:
        value = values[name] if name in values else graph.value_info.add(name=name)
        _merge(value, found[name].type, found[name].shape)


def _merge(value: onnx.ValueInfoProto, kind: str, shape: Sequence[int | str | None]) -> None:
    """Sets the element type and shape of `value` as far as they are said and not known yet.

    kind: onnxruntime's, such as ``tensor(float)``. shape: empty also where it is not known.
    """
    if not kind.startswith("tensor(") or value.type.HasField("sequence_type"):
        return
    element = kind.removeprefix("tensor(").removesuffix(")")
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        number = NAMES.get(element) or onnx.TensorProto.DataType.Value(element.upper())
        tensor.elem_type = number
    if shape and (not tensor.HasField("shape") or len(tensor.shape.dim) == len(shape)):
        sizes = [size if isinstance(size, int) else None for size in shape]
        if tensor.HasField("shape"):  # ONNX may know a dimension that onnxruntime does not
            pairs = zip(tensor.shape.dim, sizes, strict=True)
            sizes = [dim.dim_value if dim.HasField("dim_value") else size for dim, size in pairs]
        value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, sizes))
