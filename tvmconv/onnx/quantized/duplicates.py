"""Merges equal QDQ pairs, and removes those that give what was there before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tvmconv.onnx.model import read_by
from tvmconv.onnx.quantized.editor import Editor
from tvmconv.onnx.quantized.operators import DEQUANTIZE, QDQ, QUANTIZE, is_standard

#: The largest scale whose numbers are finite: 255 times it is less than fp32's largest.
LARGEST = float(np.finfo(np.float32).max) / 256


def merge_qdq(proto: onnx.ModelProto) -> None:
    """Leaves the first of equal QuantizeLinear, and of equal DequantizeLinear, and removes QDQ
    pairs that follow one of the same scale, in place; all QDQ is explicit.

    Before: a -> Q -> DQ -> Q -> DQ -> b, and beside it a -> Q -> DQ -> c
    After: a -> Q -> DQ -> b, c

    A number that is dequantised and then quantised by the same scale is what it was: the product
    and the quotient, each rounded once, are off by far less than a half.
    """
    editor = Editor(proto)
    names: dict[str, str] = {}
    first: dict[Any, str] = {}
    sources: dict[str, tuple[Any, str]] = {}
    for node in editor.walk():
        node.input[:] = [names.get(name, name) for name in node.input]
        if is_standard(node, *QDQ) and len(node.input) == 3 and not _has_own_type(node):
            output, params = node.output[0], _parameters(editor, node)
            made, source = sources.get(node.input[0], (None, ""))
            if node.op_type == QUANTIZE and made == params and _small(editor, node):
                same = source
            else:
                same = first.setdefault((node.op_type, node.input[0], params), output)
            if node.op_type == DEQUANTIZE:
                sources[output] = (params, node.input[0])
            if same != output and output not in editor.kept:
                names[output] = same
                continue
        editor.keep(node)
    editor.finish()


def drop_unread(proto: onnx.ModelProto) -> None:
    """Removes QDQ, constants and what is computed from those that nothing reads any more, in
    place."""
    editor = Editor(proto)
    read = set(editor.kept)
    for node in reversed(list(editor.walk())):
        if not read.intersection(node.output) and (
            is_standard(node, *QDQ) or editor.is_constant(node.output[0])
        ):
            continue
        read.update(read_by(node))
        editor.keep(node)
    editor.written.reverse()
    editor.finish()
    for values in (proto.graph.initializer, proto.graph.input):
        unread = [one for one in values if editor.tensor(one.name) and one.name not in read]
        for one in unread:
            values.remove(one)


def _parameters(editor: Editor, node: onnx.NodeProto) -> Any:
    """A key that is equal for equal scales, zero points and axes."""
    axis = next(one.i for one in node.attribute if one.name == "axis")
    return (axis, *(_key(editor, name) for name in node.input[1:]))


def _key(editor: Editor, name: str) -> Any:
    value = editor.value(name)
    return name if value is None else (value.dtype.str, value.shape, value.tobytes())


def _small(editor: Editor, node: onnx.NodeProto) -> bool:
    scale = editor.value(node.input[1])
    return scale is not None and bool((np.asarray(scale, np.float64) < LARGEST).all())


def _has_own_type(node: onnx.NodeProto) -> bool:
    """True for a node that `explicit` left as it was, to be refused."""
    return {one.name for one in node.attribute} != {"axis"}
