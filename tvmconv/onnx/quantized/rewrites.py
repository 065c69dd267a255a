"""The table of quantised operators and their rewrites to float operators between QDQ."""

from __future__ import annotations

from collections.abc import Container

import onnx

from tvmconv.onnx.quantized import convs_and_products as layers
from tvmconv.onnx.quantized import pointwise
from tvmconv.onnx.quantized.editor import Editor
from tvmconv.onnx.quantized.operators import (
    DEQUANTIZE,
    MICROSOFT,
    QUANTIZE,
    STANDARD,
    is_qdq,
)
from tvmconv.onnx.quantized.pointwise import Rewrite, around
from tvmconv.onnx.quantized.refusals import Element, refusal_of_parameters, refusal_of_qdq
from tvmconv.onnx.quantized.wrap import has

#: By domain and operator. DynamicQuantizeLinear stays: it finds its scale when the network runs.
REWRITES: dict[tuple[str, str], Rewrite] = {
    ("", "ConvInteger"): layers.conv_integer,
    ("", "MatMulInteger"): layers.matmul_integer,
    ("", "QLinearConv"): layers.qlinear_conv,
    ("", "QLinearMatMul"): layers.qlinear_matmul,
    (MICROSOFT, DEQUANTIZE): pointwise.standard,
    (MICROSOFT, "QGemm"): layers.qgemm,
    (MICROSOFT, "QLinearAdd"): around("Add", 2),
    (MICROSOFT, "QLinearAveragePool"): around("AveragePool"),
    (MICROSOFT, "QLinearConcat"): pointwise.concat,
    (MICROSOFT, "QLinearConv"): layers.qlinear_conv,
    (MICROSOFT, "QLinearGlobalAveragePool"): around("GlobalAveragePool"),
    (MICROSOFT, "QLinearLeakyRelu"): around("LeakyRelu"),
    (MICROSOFT, "QLinearMul"): around("Mul", 2),
    (MICROSOFT, "QLinearSigmoid"): around("Sigmoid"),
    (MICROSOFT, "QLinearSoftmax"): pointwise.softmax,
    (MICROSOFT, "QLinearWhere"): pointwise.where,
    (MICROSOFT, QUANTIZE): pointwise.standard,
}


def find(node: onnx.NodeProto) -> Rewrite | None:
    """The rewrite of a node, None if it needs none."""
    domain = "" if node.domain in STANDARD else node.domain
    return REWRITES.get((domain, node.op_type))


def rewrite(proto: onnx.ModelProto) -> None:
    """Rewrites the operators of the table, in place.

    What is left is of a form that can't be built: `refusal` says why.
    """
    editor = Editor(proto)
    for node in editor.walk():
        rule = find(node)
        if rule is None or refusal_of_qdq(node, editor.element) or not rule(editor, node):
            editor.keep(node)
    editor.finish()


def refusal(
    node: onnx.NodeProto, element: Element, constants: Container[str], dynamic: Container[str]
) -> str:
    """The reason to refuse a node after `rewrite`; empty if there is none, and for operators that
    are not quantised.

    element: the element type of a tensor. constants: tensors whose value is known. dynamic: results
    of DynamicQuantizeLinear.
    """
    if is_qdq(node):
        return refusal_of_qdq(node, element) or refusal_of_parameters(node, constants, dynamic)
    if find(node) is None:
        return ""
    if has(node, "channels_last"):
        return "with channels_last"
    return "its scales and zero points are no constants, or of a form that is not known"
