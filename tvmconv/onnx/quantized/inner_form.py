"""The one form of quantised models: ONNX's QuantizeLinear and DequantizeLinear around float
operators.

ModelProto of any quantised operators -> ModelProto of QDQ
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from tvmconv.errors import ModelError, first_line
from tvmconv.onnx.model import name_nodes, opset
from tvmconv.onnx.quantized.constants import quantise_constants
from tvmconv.onnx.quantized.duplicates import drop_unread, merge_qdq
from tvmconv.onnx.quantized.explicit import explicit
from tvmconv.onnx.quantized.moves import wrap_moves
from tvmconv.onnx.quantized.operators import DYNAMIC, is_qdq, is_standard
from tvmconv.onnx.quantized.rewrites import find, rewrite

#: The oldest opset whose QDQ has an axis, and the oldest IR in which initializers are not listed
#: as inputs.
OPSET, IR_VERSION = 13, 4


def is_quantised(proto: onnx.ModelProto) -> bool:
    """True if a model has quantised operators."""
    return any(
        is_qdq(node) or is_standard(node, DYNAMIC) or find(node) is not None
        for node in proto.graph.node
    )


def to_qdq(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Brings a quantised model to QDQ pairs around float operators; any other is returned as it is.

    Every QuantizeLinear and DequantizeLinear of the result has a scale and a zero point that are
    initializers, or results of DynamicQuantizeLinear, and an axis. Weights are int8 or uint8
    initializers behind a DequantizeLinear. The float operator has the name of the node that it
    comes from. Of opset 13 or later. What can't be built is left as it is; `rewrites.refusal` says
    why.

    Raises `QuantizationError` for scales, zero points and axes that can't be right, `ModelError`
    for a model that can't be brought to opset 13.
    """
    if not is_quantised(proto):
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    # Before nodes are added: a node without a name is called by its place.
    name_nodes(changed)
    changed = at_least(changed, OPSET)
    for step in (
        rewrite,
        explicit,
        quantise_constants,
        wrap_moves,
        merge_qdq,
        drop_unread,
    ):
        step(changed)
    return changed


def at_least(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The model in an opset of at least this, and in an IR in which initializers are no inputs.

    Raises `ModelError`.
    """
    if opset(proto) < version:
        try:
            proto = version_converter.convert_version(proto, version)
        except Exception as error:  # its exceptions have no common base
            raise ModelError(
                f"the quantised model is of opset {opset(proto)}, "
                f"which can't be brought to {version}",
                note=first_line(error),
                hint="export it for a newer opset, such as 17, and quantise that",
            ) from error
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    return proto
