"""Writes QuantizeLinear and DequantizeLinear around the float operator of a rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tvmconv.onnx.quantized.editor import Array, Editor
from tvmconv.onnx.quantized.operators import DEQUANTIZE, QUANTIZE

#: A quantised tensor as operators list it: the tensor, its scale, its zero point or "".
Operand = tuple[str, str, str]


def dequantized(editor: Editor, operand: Operand, axis: int = 0) -> str:
    """Writes a DequantizeLinear, and returns the float tensor.

    axis: where scale or zero point is a vector, the axis that it belongs to. A number beside a
    vector is repeated, since DequantizeLinear wants both alike and other operators do not.
    """
    x, scale, zero = operand
    scale, zero = _alike(editor, scale, zero)
    inputs = [x, scale, zero] if zero else [x, scale]
    return editor.emit(DEQUANTIZE, inputs, f"{x}.dequantized", axis=axis)


def quantized(editor: Editor, y: str, to: Operand, like: str, axis: int = 0) -> None:
    """Writes a QuantizeLinear of the float tensor `y` that gives the tensor of `to`.

    like: without a zero point the result is of the type of this tensor, an operand.
    """
    output, scale, zero = to
    scale, zero = _alike(editor, scale, zero)
    if not zero:
        dtype = helper.tensor_dtype_to_np_dtype(editor.element(like) or onnx.TensorProto.UINT8)
        zero = editor.constant(np.zeros(known(editor, scale).shape, dtype), f"{output}.zero_point")
    editor.elements[output] = editor.element(zero)
    inputs = [y, scale, zero]
    editor.emit(QUANTIZE, inputs, f"{output}.quantized", output, axis=axis)


def constants(editor: Editor, names: Sequence[str]) -> bool:
    """True if the values of these tensors are known; "" is one that is left out."""
    return all(not name or editor.value(name) is not None for name in names)


def known(editor: Editor, name: str) -> Array:
    """The value of a tensor of which `constants` is true."""
    value = editor.value(name)
    assert value is not None, name
    return value


def has(node: onnx.NodeProto, attribute: str) -> bool:
    """True if an attribute is there and not 0."""
    return any(one.name == attribute and one.i for one in node.attribute)


def attributes(node: onnx.NodeProto, *without: str) -> dict[str, Any]:
    """The attributes of a node by name."""
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return {name: value for name, value in given.items() if name not in without}


def padded(node: onnx.NodeProto, count: int) -> list[str]:
    """The inputs of a node, "" for those that are left out, `count` in all."""
    return [*node.input, *[""] * count][:count]


def _alike(editor: Editor, scale: str, zero: str) -> tuple[str, str]:
    """A scale and a zero point of one shape."""
    if not zero:
        return scale, zero
    numbers, points = editor.value(scale), editor.value(zero)
    if numbers is None or points is None:
        return scale, zero
    if numbers.size == 1 < points.size:
        scale = editor.constant(np.broadcast_to(numbers.reshape(()), points.shape), scale)
    elif points.size == 1 < numbers.size:
        zero = editor.constant(np.broadcast_to(points.reshape(()), numbers.shape), zero)
    return scale, zero
