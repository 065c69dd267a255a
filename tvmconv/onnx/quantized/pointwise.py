"""onnxruntime's other quantised operators as float ones between Dequantize and QuantizeLinear.

Their inputs are a tensor, its scale and its zero point, for each operand in turn, then scale and
zero point of the result; all of them for the whole tensor.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tvmconv.onnx.quantized.editor import Editor
from tvmconv.onnx.quantized.operators import STANDARD
from tvmconv.onnx.quantized.wrap import (
    attributes,
    constants,
    dequantized,
    has,
    padded,
    quantized,
)

#: Rewrites a node, or returns False and writes nothing if it is of a form that can't be.
Rewrite = Callable[[Editor, onnx.NodeProto], bool]
#: The opset from which Softmax normalises along one axis.
SOFTMAX = 13


def around(operator: str, operands: int = 1) -> Rewrite:
    """The rewrite of an operator with this many operands to the float `operator`, whose attributes
    are the same."""

    def rewrite(editor: Editor, node: onnx.NodeProto) -> bool:
        names = padded(node, 3 * operands + 2)
        scale, zero = names[-2:]
        params = [name for at, name in enumerate(names[:-2]) if at % 3]
        if has(node, "channels_last") or not constants(editor, (*params, scale, zero)):
            return False
        inputs = [
            dequantized(editor, (names[at], names[at + 1], names[at + 2]))
            for at in range(0, 3 * operands, 3)
        ]
        given = attributes(node, "channels_last")
        y = editor.emit(operator, inputs, node.name, **given)
        quantized(editor, y, (node.output[0], scale, zero), like=names[2] or names[0])
        return True

    return rewrite


def concat(editor: Editor, node: onnx.NodeProto) -> bool:
    """QLinearConcat: the result's scale and zero point come first."""
    scale, zero, *rest = node.input
    operands = [(rest[at], rest[at + 1], rest[at + 2]) for at in range(0, len(rest), 3)]
    if not constants(editor, (scale, zero, *(name for _, *two in operands for name in two))):
        return False
    inputs = [dequantized(editor, operand) for operand in operands]
    y = editor.emit("Concat", inputs, node.name, **attributes(node))
    quantized(editor, y, (node.output[0], scale, zero), like=zero)
    return True


def where(editor: Editor, node: onnx.NodeProto) -> bool:
    """QLinearWhere: a condition, and two operands."""
    condition, x, sx, zx, y, sy, zy, scale, zero = padded(node, 9)
    if not constants(editor, (sx, zx, sy, zy, scale, zero)):
        return False
    inputs = [dequantized(editor, (x, sx, zx)), dequantized(editor, (y, sy, zy))]
    z = editor.emit("Where", [condition, *inputs], node.name)
    quantized(editor, z, (node.output[0], scale, zero), like=zx or x)
    return True


def softmax(editor: Editor, node: onnx.NodeProto) -> bool:
    """QLinearSoftmax, which says of which opset's Softmax it is.

    Before 13 that is along all dimensions from `axis` on, so they are joined to one.
    """
    x, sx, zx, scale, zero = padded(node, 5)
    if not constants(editor, (sx, zx, scale, zero)):
        return False
    given = attributes(node)
    joined = given.get("opset", SOFTMAX) < SOFTMAX
    axis = given.get("axis", 1 if joined else -1)
    y = dequantized(editor, (x, sx, zx))
    if joined and axis != -1:
        shape = editor.emit("Shape", [y], f"{node.name}.shape")
        flat = editor.emit("Flatten", [y], f"{node.name}.flat", axis=axis)
        flat = editor.emit("Softmax", [flat], node.name, axis=-1)
        y = editor.emit("Reshape", [flat, shape], f"{node.name}.unflat")
    else:
        y = editor.emit("Softmax", [y], node.name, axis=axis)
    quantized(editor, y, (node.output[0], scale, zero), like=zx or x)
    return True


def standard(editor: Editor, node: onnx.NodeProto) -> bool:
    """onnxruntime's QuantizeLinear and DequantizeLinear, which are ONNX's."""
    node.domain = STANDARD[0]
    editor.keep(node)
    return True
