"""Why a QuantizeLinear or DequantizeLinear can't be built, in the words of `supported.verdicts`."""

from __future__ import annotations

from collections.abc import Callable, Container

import onnx
from onnx import TensorProto

from tvmconv.onnx.quantized.operators import (
    DEQUANTIZED,
    QUANTIZE,
    QUANTIZED,
    SCALES,
    element_name,
    is_qdq,
)
from tvmconv.onnx.quantized.wrap import has

#: How the types begin that ONNX quantises to or from, besides int8 and uint8.
FORMS = ("int2", "uint2", "int4", "uint4", "int16", "uint16", "int32", "float4", "float8")
UNDEFINED = TensorProto.UNDEFINED
#: The element type of a tensor, `UNDEFINED` if it is not known.
Element = Callable[[str], int]


def refusal_of_qdq(node: onnx.NodeProto, element: Element) -> str:
    """The reason to refuse a QuantizeLinear or DequantizeLinear for its attributes and element
    types; empty for other nodes as well."""
    if not is_qdq(node):
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
        return (
            f"to {element_name(whole)}" if node.op_type == QUANTIZE else f"of {element_name(whole)}"
        )
    for one in (scale, real):
        if one not in (UNDEFINED, *SCALES):
            return f"with {element_name(one)}"
    return ""


def _is_quantised_type(element: int) -> bool:
    """True for the types that ONNX quantises to. Any other is a mistake, not a form."""
    return element_name(element).startswith(FORMS)


def refusal_of_parameters(
    node: onnx.NodeProto, constants: Container[str], dynamic: Container[str]
) -> str:
    """The reason to refuse one of QDQ for a scale or zero point that is computed at run time.

    constants: tensors whose value is known. dynamic: results of DynamicQuantizeLinear.
    """
    for at, what in ((1, "scale"), (2, "zero point")):
        name = node.input[at] if at < len(node.input) else ""
        if name and name not in constants and name not in dynamic:
            return f"its {what} is no constant"
    return ""
