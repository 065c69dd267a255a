"""Operators on quantised numbers that change no scale, as float ones between QDQ pairs."""

from __future__ import annotations

import numpy as np
import onnx

from tvmconv.onnx.quantized.editor import Array, Editor
from tvmconv.onnx.quantized.operators import MOVES, POOLS, QUANTIZE, is_standard
from tvmconv.onnx.quantized.wrap import attributes, dequantized, known, quantized


def wrap_moves(proto: onnx.ModelProto) -> None:
    """Puts QDQ around operators that move quantised numbers, in place; all QDQ is explicit.

    Before: QuantizeLinear -> MaxPool
    After: QuantizeLinear -> DequantizeLinear -> MaxPool -> QuantizeLinear

    with one scale and zero point, so the numbers are the same: dequantising keeps their order, and
    what was dequantised is quantised to what it was. That is how quantisers write it that know of
    no operators but float ones.
    """
    editor = Editor(proto)
    #: By quantised tensor: scale and zero point of the whole of it.
    params: dict[str, tuple[str, str]] = {}
    for node in editor.walk():
        if is_standard(node, QUANTIZE):
            scale = editor.value(node.input[1])
            if scale is not None and scale.size == 1:
                params[node.output[0]] = (node.input[1], node.input[2])
        elif node.input and node.input[0] in params and _moves(editor, node):
            _write(editor, node, *params[node.input[0]])
            params.update(dict.fromkeys(node.output, params[node.input[0]]))
            continue
        editor.keep(node)
    editor.finish()


def _moves(editor: Editor, node: onnx.NodeProto) -> bool:
    if is_standard(node, "Pad"):
        value = node.input[2] if len(node.input) > 2 else ""
        return not value or editor.value(value) is not None
    if is_standard(node, "Resize"):
        mode = next((one.s for one in node.attribute if one.name == "mode"), b"nearest")
        return mode == b"nearest"
    return is_standard(node, *MOVES) or (is_standard(node, *POOLS) and len(node.output) == 1)


def _real(number: Array | None, scale: Array, zero: Array) -> Array:
    """The number that a quantised one stands for."""
    assert number is not None, "_moves looks whether it is known"
    whole = np.asarray(number).reshape(()).astype(np.int32) - zero.reshape(()).astype(np.int32)
    return np.asarray(whole.astype(scale.dtype) * scale.reshape(()), scale.dtype)


def _write(editor: Editor, node: onnx.NodeProto, scale: str, zero: str) -> None:
    x = dequantized(editor, (node.input[0], scale, zero))
    rest = list(node.input[1:])
    if node.op_type == "Pad":
        value = editor.value(rest[1]) if len(rest) > 1 and rest[1] else np.array(0)
        real = _real(value, known(editor, scale), known(editor, zero))
        rest[1:2] = [editor.constant(real, f"{node.output[0]}.padding")]
    outputs = [editor.fresh(f"{name}.real") if name else "" for name in node.output]
    moved = onnx.helper.make_node(node.op_type, [x, *rest], outputs, node.name, **attributes(node))
    editor.keep(moved)
    for output, moved_real in zip(node.output, outputs, strict=True):
        if output:
            quantized(editor, moved_real, (output, scale, zero), like=zero)
