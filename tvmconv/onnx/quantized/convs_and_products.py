"""Quantised convolutions and matrix products as float ones between Dequantize and QuantizeLinear.

A product of quantised numbers is ``(x - z_x) s_x * (w - z_w) s_w``, which is what the float
operator computes of what DequantizeLinear gives. Padding is with the zero point, whose number is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tvmconv.onnx.quantized.editor import Editor
from tvmconv.onnx.quantized.operators import is_standard
from tvmconv.onnx.quantized.wrap import (
    attributes,
    constants,
    dequantized,
    has,
    known,
    padded,
    quantized,
)

FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32


def qlinear_conv(editor: Editor, node: onnx.NodeProto) -> bool:
    """QLinearConv. Its bias is int32 in units of ``s_x s_w``, one for each output channel."""
    x, sx, zx, w, sw, zw, sy, zy, bias = padded(node, 9)
    if has(node, "channels_last") or not constants(editor, (sx, zx, sw, zw, sy, zy)):
        return False
    inputs = [dequantized(editor, (x, sx, zx), 1), dequantized(editor, (w, sw, zw), 0)]
    if bias:
        inputs.append(_bias(editor, bias, sx, sw))
    y = editor.emit("Conv", inputs, node.name, **attributes(node, "channels_last"))
    quantized(editor, y, (node.output[0], sy, zy), like=zx or x, axis=1)
    return True


def qlinear_matmul(editor: Editor, node: onnx.NodeProto) -> bool:
    """QLinearMatMul. Scales that are vectors belong to the rows of a and y, the columns of b."""
    a, sa, za, b, sb, zb, sy, zy = padded(node, 8)
    if not constants(editor, (sa, za, sb, zb, sy, zy)) or not _vectors(
        editor, (sa, za, sb, zb, sy, zy)
    ):
        return False
    inputs = [dequantized(editor, (a, sa, za), -2), dequantized(editor, (b, sb, zb), -1)]
    y = editor.emit("MatMul", inputs, node.name)
    quantized(editor, y, (node.output[0], sy, zy), like=za or a, axis=-2)
    return True


def qgemm(editor: Editor, node: onnx.NodeProto) -> bool:
    """onnxruntime's QGemm: ``alpha A' B' + C``, where C is int32 in units of ``alpha s_a s_b``.

    Without a scale of y the result is float.
    """
    a, sa, za, b, sb, zb, c, sy, zy = padded(node, 9)
    if not constants(editor, (sa, za, sb, zb, sy, zy)):
        return False
    given = attributes(node)
    columns = 0 if given.get("transB", 0) else 1
    count = known(editor, sb).size
    if c and count > 1:
        bias = editor.value(c)
        if bias is None:
            return False  # it may be one number for all columns, which have scales of their own
        if bias.shape[-1:] != (count,):
            c = editor.constant(np.broadcast_to(bias, (*bias.shape[:-1], count)), c)
    inputs = [dequantized(editor, (a, sa, za), 0), dequantized(editor, (b, sb, zb), columns)]
    if c:
        inputs.append(_bias(editor, c, sa, sb, given.get("alpha", 1.0), axis=-1))
    output = node.output[0]
    y = editor.emit("Gemm", inputs, node.name, None if sy else output, **given)
    if sy:
        quantized(editor, y, (output, sy, zy), like=za or a)
    return True


def conv_integer(editor: Editor, node: onnx.NodeProto) -> bool:
    """ConvInteger: whole sums, so the scales are 1."""
    x, w, zx, zw = padded(node, 4)
    inputs = [_whole(editor, x, zx, 1), _whole(editor, w, zw, 0)]
    _sums(editor, node, "Conv", inputs)
    return True


def matmul_integer(editor: Editor, node: onnx.NodeProto) -> bool:
    """MatMulInteger: whole sums. Zero points that are vectors belong to rows of a, columns of b."""
    a, b, za, zb = padded(node, 4)
    if not _vectors(editor, (za, zb)):
        return False
    _sums(editor, node, "MatMul", [_whole(editor, a, za, -2), _whole(editor, b, zb, -1)])
    return True


def _bias(editor: Editor, bias: str, sx: str, sw: str, alpha: float = 1.0, axis: int = 0) -> str:
    """An int32 bias in units of ``alpha s_x s_w``, as float."""
    scale = np.float32(alpha) * known(editor, sx).reshape(()) * known(editor, sw)
    scale = np.asarray(scale, np.float32)
    name = editor.constant(scale.reshape(()) if scale.size == 1 else scale, f"{bias}.scale")
    return dequantized(editor, (bias, name, ""), axis)


def _whole(editor: Editor, x: str, zero: str, axis: int) -> str:
    """A quantised tensor less its zero point, as float."""
    one = editor.constant(np.array(1, np.float32), f"{x}.one")
    return dequantized(editor, (x, one, zero), axis)


def _sums(editor: Editor, node: onnx.NodeProto, operator: str, inputs: list[str]) -> None:
    """Writes the float operator that gives the whole sums of `node`, an int32 tensor.

    In fp32 they are exact up to 2**24: that of 258 products of 8 bits at their largest, 255 * 255,
    and of thousands in practice. Beyond, a kernel that adds in int32 is exact, this is rounded.
    """
    output = node.output[0]
    given: dict[str, Any] = attributes(node)
    readers = editor.readers[output]
    if output not in editor.kept and len(readers) == 1 and _to_float(readers[0]):
        editor.done.add(readers[0].name)
        editor.emit(operator, inputs, node.name, readers[0].output[0], **given)
        return
    sums = editor.emit(operator, inputs, node.name, editor.fresh(f"{output}.sums"), **given)
    editor.emit("Cast", [sums], f"{output}.cast", output, to=INT32)


def _to_float(node: onnx.NodeProto) -> bool:
    return is_standard(node, "Cast") and any(
        one.name == "to" and one.i == FLOAT for one in node.attribute
    )


def _vectors(editor: Editor, names: tuple[str, ...]) -> bool:
    """True unless one of these tensors has more than one dimension."""
    shapes = [editor.shape(name) for name in names if name]
    return all(shape is None or len(shape) < 2 for shape in shapes)
