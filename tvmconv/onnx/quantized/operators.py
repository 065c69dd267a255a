"""Names and element types of quantised ONNX."""

from __future__ import annotations

import onnx

#: The domains of ONNX's own operators, and that of onnxruntime's.
STANDARD = ("", "ai.onnx")
MICROSOFT = "com.microsoft"

QUANTIZE, DEQUANTIZE, DYNAMIC = "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"
QDQ = (QUANTIZE, DEQUANTIZE)

#: Operators that move the numbers of their first input, and those that take the largest of some:
#: of quantised numbers both give quantised numbers of the same scale.
MOVES = (
    *("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
POOLS = ("GlobalMaxPool", "MaxPool")

_T = onnx.TensorProto
#: Element types that are quantised to, and those that can be dequantised: biases are int32.
QUANTIZED: tuple[int, ...] = (_T.INT8, _T.UINT8)
DEQUANTIZED: tuple[int, ...] = (*QUANTIZED, _T.INT32)
#: Element types of scales. The plan decides what is computed in fp16, so both become fp32.
SCALES = (_T.FLOAT, _T.FLOAT16)


def element_name(element: int) -> str:
    """The name of an element type in ONNX, such as ``uint8``."""
    return _T.DataType.Name(element).lower()


def is_qdq(node: onnx.NodeProto) -> bool:
    """True for a QuantizeLinear or DequantizeLinear, ONNX's or onnxruntime's."""
    return node.op_type in QDQ and node.domain in (*STANDARD, MICROSOFT)


def is_standard(node: onnx.NodeProto, *operators: str) -> bool:
    """True for a node of one of these operators of ONNX."""
    return node.op_type in operators and node.domain in STANDARD
