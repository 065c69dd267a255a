"""Finds the operators, and forms of operators, that can't be built.

Refused is also a form that TVM's importer accepts but that gives wrong results or does not build.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv.onnx import resize
from tvmconv.onnx.empty import empty_tensors
from tvmconv.onnx.model import opset, shapes_of
from tvmconv.onnx.quantized.operators import DYNAMIC
from tvmconv.onnx.quantized.rewrites import refusal

#: Operators that TVM's importer has, but that do not build or give wrong results.
NOT_LOWERED = {
    "Attention",  # one that `forms` could not write out
    "Compress",
    "CumSum",
    "NonMaxSuppression",
    "NonZero",
    "Scatter",
    "TopK",
    "Unique",
}
#: ONNX's names of element types that networks are built for.
DTYPES = {
    *("FLOAT", "FLOAT16", "DOUBLE", "BOOL"),
    *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
}
#: Inputs by operator whose values must be known at build time, since they decide shapes or code.
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


def unsupported(proto: onnx.ModelProto, folded: bool = False) -> Counter[str]:
    """Counts the operators that can't be built, by name, with the reason unless it is just missing.

    proto: with inferred shapes. folded: after constant folding, so that a value that is no
    constant now never will be.
    """
    found: Counter[str] = Counter()
    for node, reason in verdicts(proto, folded):
        if reason is not None:
            found[f"{operator(node)} ({reason})" if reason else operator(node)] += 1
    facts = _Facts.of(proto, folded)
    for dtype in facts.dtypes.values():
        if dtype not in DTYPES:
            found[f"tensors of {dtype.lower()}"] += 1
    if folded and (count := len(facts.empty & {one.name for one in proto.graph.output})):
        found["outputs without elements"] += count
    return found


def verdicts(
    proto: onnx.ModelProto, folded: bool = False
) -> Iterator[tuple[onnx.NodeProto, str | None]]:
    """Yields every node, in order, with the reason why it can't be built.

    None: it can be built. Empty: the operator is not implemented.
    """
    known = {*onnx_frontend._get_convert_map(), "Constant"}
    facts = _Facts.of(proto, folded)
    for node in proto.graph.node:
        if refused := refusal(node, facts.element, facts.constants, facts.dynamic):
            yield node, refused
            continue
        unknown = node.domain not in ("", "ai.onnx") or node.op_type not in known
        yield node, "" if unknown else _refusal(node, facts) or None


def operator(node: onnx.NodeProto) -> str:
    """The operator's name, with its domain unless that is ONNX's own."""
    standard = node.domain in ("", "ai.onnx")
    return node.op_type if standard else f"{node.domain}.{node.op_type}"


@dataclass(frozen=True)
class _Facts:
    """Properties of a graph's tensors, by name, known before anything runs."""

    opset: int
    constants: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, list[int]]
    dtypes: Mapping[str, str]
    #: Tensors that are known to have no elements.
    empty: Set[str]
    #: Results of DynamicQuantizeLinear.
    dynamic: Set[str]
    folded: bool

    def element(self, name: str) -> int:
        """The element type of a tensor as ONNX numbers it; 0 (undefined) if it is not known."""
        return onnx.TensorProto.DataType.Value(self.dtypes.get(name, "UNDEFINED"))

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
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.elem_type:
                dtypes[value.name] = value.type.tensor_type.elem_type
        named = {name: onnx.TensorProto.DataType.Name(dtype) for name, dtype in dtypes.items()}
        dynamic = {
            name for node in graph.node if node.op_type == DYNAMIC for name in node.output if name
        }
        empty = empty_tensors(graph)
        return cls(opset(proto), constants, shapes_of(proto), named, empty, dynamic, folded)


def _refusal(node: onnx.NodeProto, facts: _Facts) -> str:
    """The reason to refuse a node that TVM's importer accepts; empty if there is none."""
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
        # A list of nothing, such as no axes, is a value like others.
        values = VALUES.get(operator, ())
        data = {name for at, name in enumerate(node.input) if at not in values}
        if empty := sorted(facts.empty & {*data, *outputs}):
            return f"with {empty[0]!r}, a tensor without elements"
    if operator == "ConvTranspose" and len(facts.shapes.get(node.input[1], [])) == 5:
        return "3-D, with output_shape" if "output_shape" in attributes else ""
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
    """True for a Dropout that is known to be in training mode."""
    training = facts.constants.get(node.input[2]) if len(node.input) > 2 else None
    return training is not None and bool(numpy_helper.to_array(training))


def _resize_refusal(node: onnx.NodeProto, given: dict[str, Any], facts: _Facts) -> str:
    """The reason to refuse a Resize; empty if `resize.resize` can compute it."""
    how = resize.attributes(given)
    if how["mode"] not in resize.MODES:
        return f"mode {how['mode']}"
    if how["antialias"]:
        return "with antialias"
    if how["keep_aspect_ratio_policy"] != "stretch":
        return "with keep_aspect_ratio_policy"
    if how["coordinate_transformation_mode"] not in resize.COORDINATES:
        return how["coordinate_transformation_mode"]
    if how["coordinate_transformation_mode"] == "align_corners" and _between_sizes(node, facts):
        # For the last corner ONNX's tests use the size before rounding, onnxruntime the size
        # after.
        return "align_corners by scales to no whole size"
    dtype = facts.dtypes.get(node.input[0], "FLOAT")
    if how["mode"] != "nearest" and dtype not in ("FLOAT", "FLOAT16", "DOUBLE"):
        return f"mode {how['mode']} of {dtype.lower()}"
    return ""


def _between_sizes(node: onnx.NodeProto, facts: _Facts) -> bool:
    """True if the scales of a Resize give a size that is not whole."""
    scales = facts.constants.get(node.input[2]) if len(node.input) > 2 else None
    if scales is None:
        return False
    sizes = facts.shapes.get(node.input[0], [])
    values = numpy_helper.to_array(scales).tolist()
    axes = next((list(one.ints) for one in node.attribute if one.name == "axes"), None)
    pairs = zip(axes if axes is not None else range(len(sizes)), values, strict=False)
    return any(float(np.float32(scale) * sizes[axis]) % 1 for axis, scale in pairs)


def value_inputs(proto: onnx.ModelProto) -> set[str]:
    """Inputs of a model whose values, not only shapes, the inputs in `VALUES` depend on."""
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
