"""Weights as int8 or uint8 initializers, each behind one DequantizeLinear."""

from __future__ import annotations

import onnx

from tvmconv.onnx.quantized.editor import Editor
from tvmconv.onnx.quantized.operators import DEQUANTIZE, QUANTIZE, is_standard
from tvmconv.onnx.quantized.wrap import attributes

#: Operators that are done to quantised weights instead of to float ones, where there is one scale.
RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def quantise_constants(proto: onnx.ModelProto) -> None:
    """Computes what is quantised out of constants, in place; all QDQ is explicit.

    Before: float weights -> QuantizeLinear -> DequantizeLinear -> Transpose -> product
    After: int8 weights, transposed -> DequantizeLinear -> product
    """
    editor = Editor(proto)
    moved: dict[str, onnx.NodeProto] = {}
    for node in editor.walk():
        if is_standard(node, QUANTIZE) and node.output[0] not in editor.kept:
            weights = editor.value(node.output[0])
            if weights is not None:
                editor.initialize(node.output[0], weights)
                continue
        if is_standard(node, DEQUANTIZE):
            _initialize(editor, node)
            if editor.tensor(node.input[0]) is not None:
                moved[node.output[0]] = node
        elif is_standard(node, "Transpose", *RESHAPES) and node.input[0] in moved:
            source = _moved(editor, node, moved[node.input[0]])
            if source is not None:
                moved[node.output[0]] = source
                editor.keep(source)
                continue
        editor.keep(node)
    editor.finish()


def _initialize(editor: Editor, node: onnx.NodeProto) -> None:
    """Lets a DequantizeLinear of a constant read an initializer."""
    if editor.tensor(node.input[0]) is None:
        weights = editor.value(node.input[0])
        if weights is not None:
            node.input[0] = editor.constant(weights, node.input[0])


def _moved(editor: Editor, node: onnx.NodeProto, source: onnx.NodeProto) -> onnx.NodeProto | None:
    """The DequantizeLinear of moved weights that gives what `node` gives; None if there is none.

    source: that of the weights as they are.
    """
    weights, scale = editor.value(source.input[0]), editor.value(source.input[1])
    rest = {name: editor.value(name) for name in node.input[1:] if name}
    if weights is None or scale is None or any(value is None for value in rest.values()):
        return None
    if scale.size > 1 and node.op_type != "Transpose":
        return None
    given = attributes(source)
    if node.op_type == "Transpose" and scale.size > 1:
        axes = attributes(node).get("perm", range(weights.ndim)[::-1])
        given["axis"] = list(axes).index(given["axis"])
    arrays = {name: value for name, value in rest.items() if value is not None}
    shifted = editor.evaluate(node, {node.input[0]: weights, **arrays})[node.output[0]]
    inputs = [editor.constant(shifted, source.input[0]), *source.input[1:]]
    return onnx.helper.make_node(DEQUANTIZE, inputs, list(node.output), node.name, **given)
