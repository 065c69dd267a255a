"""Which operators, and which forms of them, can be built; the rest is refused by name.

A form is refused where TVM's importer accepts it and what comes out is wrong or does not build.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv.errors import UnsupportedOperatorError
from tvmconv.onnx_model import opset, shapes_of

#: In TVM's importer, yet they do not build or come out wrong.
NOT_LOWERED = {
    "Attention",
    "Compress",
    "CumSum",
    "NonMaxSuppression",
    "NonZero",
    "Scatter",
    "TopK",
    "Unique",
}
#: Element types that networks are built for, as ONNX calls them.
DTYPES = {
    *("FLOAT", "FLOAT16", "DOUBLE", "BOOL"),
    *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
}
#: Inputs whose values have to be known when a network is built, by operator: they decide shapes,
#: or which code there is.
VALUES: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "ConstantOfShape": (0,),
    "Dropout": (2,),
    "Expand": (1,),
    "MaxUnpool": (2,),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean")},
    **{f"Reduce{kind}": (1,) for kind in ("Min", "Prod", "Sum", "SumSquare")},
}
#: Coordinates and roundings that, for scales of whole numbers, repeat every pixel.
REPEATS = {
    ("asymmetric", "floor"),
    ("tf_half_pixel_for_nn", "floor"),
    *product(("half_pixel", "pytorch_half_pixel"), ("round_prefer_floor", "round_prefer_ceil")),
}


def unsupported(proto: onnx.ModelProto, folded: bool = False) -> Counter[str]:
    """What can't be built and how often it is used, with the reason where it is not simply that
    nobody has written it.

    The shapes of `proto` are inferred. folded: its constants are folded, so that a value which is
    no constant now never will be.
    """
    known = {*onnx_frontend._get_convert_map(), "Constant"}
    facts = _Facts.of(proto, folded)
    found: Counter[str] = Counter()
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            found[f"{node.domain}.{node.op_type}"] += 1
        elif node.op_type not in known:
            found[node.op_type] += 1
        elif reason := _refusal(node, facts):
            found[f"{node.op_type} ({reason})"] += 1
    for dtype in facts.dtypes.values():
        if dtype not in DTYPES:
            found[f"tensors of {dtype.lower()}"] += 1
    return found


@dataclass(frozen=True)
class _Facts:
    """What is known of a graph's tensors, by name, before anything runs."""

    opset: int
    constants: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, list[int]]
    dtypes: Mapping[str, str]
    #: Tensors that are known to have no elements.
    empty: Set[str]
    folded: bool

    @classmethod
    def of(cls, proto: onnx.ModelProto, folded: bool) -> _Facts:
        graph = proto.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                constants[node.output[0]] = node.attribute[0].t
            elif node.op_type == "Constant" and node.attribute[0].floats:
                values = np.array(node.attribute[0].floats, "float32")
                constants[node.output[0]] = numpy_helper.from_array(values)
        dtypes = {name: tensor.data_type for name, tensor in constants.items()}
        empty = set()
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            if tensor.elem_type:
                dtypes[value.name] = tensor.elem_type
            if any(dim.HasField("dim_value") and not dim.dim_value for dim in tensor.shape.dim):
                empty.add(value.name)
        named = {name: onnx.TensorProto.DataType.Name(dtype) for name, dtype in dtypes.items()}
        return cls(opset(proto), constants, shapes_of(proto), named, empty - {*constants}, folded)


def _refusal(node: onnx.NodeProto, facts: _Facts) -> str:
    """Why a node that TVM's importer accepts would come out wrong; empty if it would not."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    outputs = [name for name in node.output if name]
    operator = node.op_type
    if operator in NOT_LOWERED:
        return "not yet lowered"
    if facts.folded:
        for at in VALUES.get(operator, ()):
            if at < len(node.input) and node.input[at] and node.input[at] not in facts.constants:
                return f"its input {at} is no constant"
        if operator in ("SequenceErase", "SequenceInsert") and _from_the_end(node, facts):
            return "at a position from the end"
        if empty := sorted(facts.empty & {*node.input, *outputs}):
            return f"with {empty[0]!r}, a tensor without elements"
    if operator == "ConvTranspose" and "output_shape" in attributes:
        return "with output_shape"
    if operator == "BatchNormalization" and (attributes.get("training_mode") or len(outputs) > 1):
        return "in training mode"
    if operator == "Dropout" and _drops(node, facts):
        return "in training mode"
    if operator == "MaxPool" and len(outputs) > 1:
        return "with the argmax output"
    if operator == "IsInf" and not all(
        attributes.get(sign, 1) for sign in ("detect_negative", "detect_positive")
    ):
        return "of one sign"
    if operator in ("ReduceMax", "ReduceMin") and facts.dtypes.get(node.input[0]) == "BOOL":
        return "of bool"
    if operator in ("Resize", "Upsample"):
        return _resize_refusal(node, attributes, facts)
    return ""


def _from_the_end(node: onnx.NodeProto, facts: _Facts) -> bool:
    position = facts.constants.get(node.input[-1])
    return position is not None and bool((numpy_helper.to_array(position) < 0).any())


def _drops(node: onnx.NodeProto, facts: _Facts) -> bool:
    """Whether a Dropout is known to be one of training; in inference it passes its input on."""
    training = facts.constants.get(node.input[2]) if len(node.input) > 2 else None
    return training is not None and bool(numpy_helper.to_array(training))


def _resize_refusal(node: onnx.NodeProto, attributes: dict[str, Any], facts: _Facts) -> str:
    """Empty for nearest by whole numbers, which repeats every pixel; TVM gets others wrong."""
    mode = attributes.get("mode", b"nearest").decode()
    if mode != "nearest":
        return f"mode {mode}"
    if attributes.get("antialias", 0):
        return "with antialias"
    if "axes" in attributes or attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return "with axes or keep_aspect_ratio_policy"
    old = node.op_type == "Upsample" or facts.opset < 11
    coordinates, rounding = "asymmetric", "floor"
    if not old:
        coordinates = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
        rounding = attributes.get("nearest_mode", b"round_prefer_floor").decode()
    if (coordinates, rounding) not in REPEATS:
        return f"nearest, {coordinates} and {rounding}"
    scales = _scales(node, attributes, facts, 1 if old else 2)
    if scales is None:
        return "nearest by scales that are computed" if facts.folded else ""
    if len(scales) not in (3, 4, 5):
        return f"nearest over {len(scales)} dimensions"
    if any(scale != 1 for scale in scales[:2]):
        return "nearest over the batch or the channels"
    odd = [scale for scale in scales if scale < 1 or scale != int(scale)]
    return f"nearest by a scale of {odd[0]:.4g}" if odd else ""


def _scales(
    node: onnx.NodeProto, attributes: dict[str, Any], facts: _Facts, at: int
) -> list[float] | None:
    """By what each dimension grows; None if that can't be told. Input `at` has the scales."""
    if "scales" in attributes:
        return list(attributes["scales"])
    scales = node.input[at] if len(node.input) > at else ""
    if scales in facts.constants and math.prod(facts.constants[scales].dims):
        return [float(x) for x in numpy_helper.to_array(facts.constants[scales])]
    if scales and scales not in facts.constants:
        return None
    # From sizes, which may be computed: then inference has followed them to the output's shape.
    before, after = (facts.shapes.get(name) for name in (node.input[0], node.output[0]))
    if not before or not after or 0 in (*before, *after):
        return None
    return [y / x for x, y in zip(before, after, strict=True)]


def check_supported(proto: onnx.ModelProto, folded: bool = False) -> None:
    """Raises `UnsupportedOperatorError` that lists all that `unsupported` found."""
    found = unsupported(proto, folded)
    if found:
        listed = ", ".join(f"{name} x{count}" for name, count in sorted(found.items()))
        raise UnsupportedOperatorError(
            f"the model uses operators that can't be built: {listed}",
            hint="build the part without them: onnx.utils.extract_model cuts a model in two",
        )


def value_inputs(proto: onnx.ModelProto) -> set[str]:
    """The inputs of a model on which `VALUES` depend, other than by their shapes."""
    producers = {name: node for node in proto.graph.node for name in node.output}
    waiting = [
        node.input[at]
        for node in proto.graph.node
        for at in VALUES.get(node.op_type, ())
        if at < len(node.input)
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in producers and producers[name].op_type not in ("Shape", "Size"):
                waiting += producers[name].input
    return found & {value.name for value in proto.graph.input}
