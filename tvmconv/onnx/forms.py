"""Brings models of any opset, with or without functions, to one form.

ModelProto -> ModelProto of an opset that TVM's importer and onnxruntime read, without functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import defs, helper, inliner, shape_inference, version_converter

from tvmconv.errors import ModelError, UnsupportedOperatorError, first_line
from tvmconv.onnx.group_norms import GROUP_NORM, write_group_norms

#: The oldest and the newest opset that are kept. Before 7, operators broadcast by attributes, which
#: onnxruntime no longer supports; after 26 it reads none.
OPSETS = (7, 26)
#: The newest IR version that is kept. Later ones add dtypes and annotations of devices.
IR_VERSION = 10
#: Operators that ONNX defines by others and that TVM lacks or gets wrong. They are expanded before
#: shape inference, which fails on MeanVarianceNormalization.
WRITTEN_OUT = (
    "Celu",
    "CenterCropPad",
    "MeanVarianceNormalization",
    "RMSNormalization",
    "Swish",
)


#: Written out as well, where ONNX has a form for what it is given; `supported` refuses the rest.
ATTENTION = "Attention"


def one_form(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Converts the model to an opset within `OPSETS` and expands its functions.

    Raises `UnsupportedOperatorError` for inputs and outputs that are not tensors, `ModelError`
    for functions that can't be expanded.
    """
    _only_tensors(proto)
    proto = _converted(proto)
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    names = [name for name in WRITTEN_OUT if _uses(proto, name)]
    # TVM gives LayerNormalization's mean and deviation as empty tensors.
    if any(_several_outputs(node, "LayerNormalization") for node in proto.graph.node):
        names.append("LayerNormalization")
    try:
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        if _uses(proto, GROUP_NORM):
            write_group_norms(proto, _opset(proto))
        if names:
            proto = _written_out(proto, names)
    except Exception as error:  # its exceptions have no common base
        raise ModelError(
            "the model's functions can't be written out",
            note=first_line(error),
            hint="inline them where the model is exported: onnx.inliner does it",
        ) from error
    return _with_attention_written_out(proto) if _uses(proto, ATTENTION) else proto


def _written_out(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with these operators expanded. Raises whatever onnx's inliner raises."""
    typed = _typed(proto)
    _spell_out_defaults(typed, names)
    chosen = [("", name) for name in names]
    return inliner.inline_selected_functions(typed, chosen, inline_schema_functions=True)


def _with_attention_written_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same for Attention, of which onnx's function has no form for some; those stay."""
    try:
        return _written_out(proto, [ATTENTION])
    except Exception:  # its exceptions have no common base
        return proto


def _only_tensors(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise UnsupportedOperatorError(
                f"{value.name!r} is no tensor (ONNX calls it {kind})",
                hint="export the tensors themselves as inputs and outputs",
            )


def _opset(proto: onnx.ModelProto) -> int:
    return next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)


def _converted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Converts the model to an opset within `OPSETS`, by onnx's converter.

    If that fails, a newer model stays as it is: its operators that can't be built are then refused
    by name, which says more than the converter's error. Raises `ModelError` for an older one.
    """
    version = _opset(proto)
    nearest = min(max(version, OPSETS[0]), OPSETS[1])
    if version in (0, nearest):
        return proto
    if version < OPSETS[0]:
        _only_inference(proto)
    try:
        if version < OPSETS[0]:
            _align_operands(proto)
        return version_converter.convert_version(proto, nearest)
    except Exception as error:  # its exceptions have no common base
        if version > OPSETS[1]:
            return proto
        raise ModelError(
            f"the model is of opset {version}, which can't be brought to {nearest}",
            note=first_line(error),
            hint="export it for a newer opset, such as 17",
        ) from error


def _only_inference(proto: onnx.ModelProto) -> None:
    """Raises `UnsupportedOperatorError` for operators in training mode.

    Before opset 7 that is the default of the attribute `is_test`, which onnx's converter drops.
    """
    for node in proto.graph.node:
        tests = any(one.name == "is_test" and one.i for one in node.attribute)
        if node.op_type in ("BatchNormalization", "Dropout") and not tests:
            raise UnsupportedOperatorError(
                f"the model uses operators that can't be built: {node.op_type} (in training mode)",
                hint="export it for inference: before opset 7 that is is_test=1",
            )


def _align_operands(proto: onnx.ModelProto) -> None:
    """Rewrites operands that are aligned by `axis` to broadcast as since opset 7, in place.

    onnx's converter fails on an `axis`, and would broadcast a PRelu's slopes, one for each channel,
    along the last dimension.
    """
    inferred = shape_inference.infer_shapes(proto).graph
    ranks = {tensor.name: len(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info):
        ranks[value.name] = len(value.type.tensor_type.shape.dim)
    for i, node in reversed(list(enumerate(proto.graph.node))):
        axis = next((one for one in node.attribute if one.name == "axis"), None)
        broadcast = any(one.name == "broadcast" and one.i for one in node.attribute)
        first, second = (ranks.get(name, 0) for name in (*node.input, "", "")[:2])
        ones = 0
        if node.op_type == "PRelu" and second == 1:
            ones = first - 2
        elif broadcast and axis is not None:
            ones = first - axis.i % first - second
            node.attribute.remove(axis)
        if ones > 0:
            operand, wide = node.input[1], f"{node.output[0]}.operand"
            node.input[1] = wide
            axes = list(range(second, second + ones))
            proto.graph.node.insert(
                i, helper.make_node("Unsqueeze", [operand], [wide], wide, axes=axes)
            )


def _typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Adds the type of every tensor, initializers included: expanding functions may need it."""
    typed = shape_inference.infer_shapes(proto)
    graph = typed.graph
    said = {value.name for value in (*graph.input, *graph.value_info)}
    graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.name not in said
    )
    return typed


def _spell_out_defaults(proto: onnx.ModelProto, operators: Sequence[str]) -> None:
    """Adds default attributes to nodes of these operators, which onnx's inliner would drop."""
    version = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    for node in proto.graph.node:
        if node.op_type in operators and not node.domain:
            given = {attribute.name for attribute in node.attribute}
            for name, attribute in defs.get_schema(node.op_type, version).attributes.items():
                if name not in given and attribute.default_value.name:
                    node.attribute.append(attribute.default_value)


def _uses(proto: onnx.ModelProto, operator: str) -> bool:
    return any(node.op_type == operator and not node.domain for node in proto.graph.node)


def _several_outputs(node: onnx.NodeProto, operator: str) -> bool:
    return node.op_type == operator and len([name for name in node.output if name]) > 1
