"""Why a quantised operator can't be built, in the words of `supported.verdicts`."""

from __future__ import annotations

from collections.abc import Callable, Container

import onnx
from onnx import TensorProto

from tvmconv.onnx.quantized.operators import (
    DEQUANTIZED,
    MICROSOFT,
    QUANTIZE,
    QUANTIZED,
    SCALES,
    STANDARD,
    element_name,
    is_pair,
)
from tvmconv.onnx.quantized.pairs import has

#: Operators that are rewritten before anything is judged, unless their form can't be.
REWRITTEN = ("ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul")
UNDEFINED = TensorProto.UNDEFINED
#: The element type of a tensor, `UNDEFINED` if it is not known.
Element = Callable[[str], int]


def refusal(
    node: onnx.NodeProto, element: Element, constants: Container[str], dynamic: Container[str]
) -> str:
    """The reason to refuse a node; empty if there is none, or it is no quantised operator.

    constants: tensors whose value is known. dynamic: results of DynamicQuantizeLinear.
    """
    if is_pair(node):
        return refusal_of_pair(node, element) or _computed(node, constants, dynamic)
    if node.domain not in (*STANDARD, MICROSOFT) or not _is_rewritten(node):
        return ""
    if has(node, "channels_last"):
        return "with channels_last"
    return "its scales and zero points are no constants, or of a form that is not known"


def _is_rewritten(node: onnx.NodeProto) -> bool:
    contributed = node.domain == MICROSOFT and node.op_type.startswith("QLinear")
    return contributed or node.op_type in REWRITTEN


def refusal_of_pair(node: onnx.NodeProto, element: Element) -> str:
    """The reason to refuse a QuantizeLinear or DequantizeLinear that follows from its attributes and
    element types; empty for other nodes as well."""
    if not is_pair(node):
        return ""
    if has(node, "block_size"):
        return "in blocks"
    if node.op_type == QUANTIZE:
        chosen = next((one.i for one in node.attribute if one.name == "output_dtype"), UNDEFINED)
        zero = element(node.input[2]) if len(node.input) > 2 and node.input[2] else UNDEFINED
        whole, allowed = (chosen or zero or element(node.output[0])), QUANTIZED
        real = element(node.input[0])
    else:
        whole, allowed = element(node.input[0]), DEQUANTIZED
        real = UNDEFINED
    scale = element(node.input[1])
    if whole != UNDEFINED and whole not in allowed and _is_quantised_type(whole):
        return f"to {element_name(whole)}" if node.op_type == QUANTIZE else f"of {element_name(whole)}"
    for one in (scale, real):
        if one not in (UNDEFINED, *SCALES):
            return f"with {element_name(one)}"
    return ""


def _is_quantised_type(element: int) -> bool:
    """True for the types that ONNX quantises to. Any other is a mistake, not a form."""
    name = element_name(element)
    return name.startswith(("int", "uint", "float4", "float8"))


def _computed(node: onnx.NodeProto, constants: Container[str], dynamic: Container[str]) -> str:
    for at, what in ((1, "scale"), (2, "zero point")):
        name = node.input[at] if at < len(node.input) else ""
        if name and name not in constants and name not in dynamic:
            return f"its {what} is no constant"
    return ""
