"""From ONNX to Relax: operators checked, the graph simplified, then imported.

ModelProto -> ModelProto of fp32 (widen) -> fewer nodes (simplify) -> IRModule (to_relax)
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv.errors import ModelError, UnsupportedOperatorError, first_line, last_line
from tvmconv.importer import Importer
from tvmconv.model_file import check_size
from tvmconv.onnx_model import infer_shapes, inputs, opset, shapes_of

#: In TVM's importer, yet they do not build or come out wrong.
NOT_LOWERED = {
    "Compress",
    "CumSum",
    "NonMaxSuppression",
    "NonZero",
    "RMSNormalization",
    "Scatter",
    "TopK",
    "Unique",
}
#: Coordinates and roundings that, for scales of whole numbers, repeat every pixel.
REPEATS = {
    ("asymmetric", "floor"),
    ("tf_half_pixel_for_nn", "floor"),
    *product(("half_pixel", "pytorch_half_pixel"), ("round_prefer_floor", "round_prefer_ceil")),
}


def unsupported(proto: onnx.ModelProto) -> Counter[str]:
    """Operators that can't be built and how often each is used, with the reason where it is not
    simply that nobody has written it. The shapes of `proto` are inferred."""
    found: Counter[str] = Counter()
    for operator, reason in verdicts(proto):
        if reason is not None:
            found[f"{operator} ({reason})" if reason else operator] += 1
    return found


def verdicts(proto: onnx.ModelProto) -> Iterator[tuple[str, str | None]]:
    """Of every node, in order, its operator and why it can't be built: None where it can, empty
    where nobody has written it."""
    known = {*onnx_frontend._get_convert_map(), "Constant"}
    facts = _Facts.of(proto)
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"{node.domain}.{node.op_type}", ""
        elif node.op_type not in known:
            yield node.op_type, ""
        else:
            yield node.op_type, _refusal(node, facts) or None


@dataclass(frozen=True)
class _Facts:
    """What is known of a graph's tensors, by name, before anything runs."""

    opset: int
    constants: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, list[int]]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> _Facts:
        graph = proto.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                constants[node.output[0]] = node.attribute[0].t
            elif node.op_type == "Constant" and node.attribute[0].floats:
                values = np.array(node.attribute[0].floats, "float32")
                constants[node.output[0]] = numpy_helper.from_array(values)
        return cls(opset(proto), constants, shapes_of(proto))


def _refusal(node: onnx.NodeProto, facts: _Facts) -> str:
    """Why a node that TVM's importer accepts would come out wrong; empty if it would not."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in NOT_LOWERED:
        return "not yet lowered"
    if node.op_type == "ConvTranspose" and "output_shape" in attributes:
        return "with output_shape"
    if node.op_type == "BatchNormalization" and (
        attributes.get("training_mode", 0) or len([name for name in node.output if name]) > 1
    ):
        return "in training mode"
    if node.op_type == "MaxPool" and len([name for name in node.output if name]) > 1:
        return "with the argmax output"
    if node.op_type in ("Resize", "Upsample"):
        return _resize_refusal(node, attributes, facts)
    return ""


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
        return "nearest by scales that are computed"
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


def check_supported(proto: onnx.ModelProto) -> None:
    """Raises `UnsupportedOperatorError` that lists everything that can't be built."""
    found = unsupported(proto)
    if found:
        listed = ", ".join(f"{name} x{count}" for name, count in sorted(found.items()))
        raise UnsupportedOperatorError(
            f"the model uses operators that can't be built: {listed}",
            hint="build the part without them: onnx.utils.extract_model cuts a model in two",
        )


def widen(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model of fp16 as one of fp32, but for its inputs and outputs, which keep their dtype.

    What is computed in fp16 is the plan's to decide; and onnxruntime, which has few fp16
    operators for a CPU, would put casts around each of them.
    """
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    graph = wide.graph
    fed = inputs(wide)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = single
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
    for value in graph.input:
        if value.type.tensor_type.elem_type != half:
            continue
        if value not in fed:  # an initializer, listed as before ONNX IR 4
            value.type.tensor_type.elem_type = single
            continue
        for node in graph.node:
            node.input[:] = [_wide(x) if x == value.name else x for x in node.input]
        name = _wide(value.name)
        graph.node.insert(0, helper.make_node("Cast", [value.name], [name], name, to=single))
    # An output that is an input is as it should be; one that is listed twice needs one cast.
    half_outputs = {v.name for v in graph.output if v.type.tensor_type.elem_type == half}
    for output in sorted(half_outputs - {value.name for value in fed}):
        _rename(graph, output, _wide(output))
        cast = helper.make_node("Cast", [_wide(output)], [output], f"{output}.narrow", to=half)
        graph.node.append(cast)
    return infer_shapes(wide)


def _wide(name: str) -> str:
    return f"{name}.wide"


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Everywhere but in the list of outputs."""
    for node in graph.node:
        node.output[:] = [new if x == old else x for x in node.output]
        node.input[:] = [new if x == old else x for x in node.input]
    for one in (*graph.initializer, *graph.input):
        if one.name == old:
            one.name = new


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT16:
        array = numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


#: Constants are folded up to this many times the bytes of the largest tensor of the model (twice
#: what 8-bit weights grow by when they are cast) or up to FOLDED_BYTES, so that no small model,
#: such as one that expands a number, becomes a large one. What is larger is computed at run time.
FOLDED_GROWTH = 8
FOLDED_BYTES = 64 << 20


def _folded_limit(proto: onnx.ModelProto) -> int:
    """Bytes of the largest constant that may come out of folding."""
    largest = max((tensor.ByteSize() for tensor in proto.graph.initializer), default=0)
    return max(FOLDED_BYTES, FOLDED_GROWTH * largest)


def simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in fewer nodes, by onnxruntime's basic graph optimisations.

    Constants folded up to a size (shape arithmetic too), batch norms and scales folded into the
    weights of convolutions, identities removed. Only standard operators come out, and those that
    stay keep their names. Raises `ModelError`.
    """
    check_size(proto)  # again: as fp32 it may have doubled
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(_folded_limit(proto))
    )
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        options.optimized_model_filepath = f"{folder}/simple.onnx"
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(
                "onnxruntime does not take this model",
                note=first_line(error),
                hint="the model has to run in onnxruntime, which simplifies it: try that first",
            ) from error
        simple = onnx.load(options.optimized_model_filepath)
    _drop_unread(simple.graph)
    return infer_shapes(simple)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Removes nodes that no output depends on, of which onnxruntime leaves some."""
    needed = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    live = [node for node in graph.node if needed.intersection(node.output)]
    del graph.node[:]
    graph.node.extend(live)


def convolutions(proto: onnx.ModelProto) -> list[str]:
    """The nodes that become convolutions of Relax, in order: a Gemm or MatMul is one if it
    multiplies by a constant matrix."""
    shapes = shapes_of(proto)
    constants = {tensor.name for tensor in proto.graph.initializer}

    def is_one(node: onnx.NodeProto) -> bool:
        if node.op_type == "Conv":
            return True
        if node.op_type == "ConvTranspose":
            return len(shapes[node.input[0]]) < 5
        if node.op_type not in ("Gemm", "MatMul"):
            return False
        rows, matrix = node.input[:2]
        constant = matrix in constants and len(shapes[matrix]) == 2
        return constant and rows not in constants and len(shapes[rows]) >= 2

    return [node.name for node in proto.graph.node if is_one(node)]


def to_relax(proto: onnx.ModelProto) -> tvm.IRModule:
    """The model, its shapes fixed, as a Relax module with weights as constants.

    Raises `ModelError` where TVM's importer gives up.
    """
    version = opset(proto)
    # It warns of names that are no identifiers, but ours are matched by position; and what it
    # prints before it raises would get between the lines of our output.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return Importer({}, {}, keep_params_in_input=False).from_onnx(proto.graph, version)
        except Exception as error:
            raise ModelError(
                "TVM's importer does not take this model",
                note=last_line(error),
                hint="export the model for another opset, such as 17; if that is the same, "
                "please report it",
            ) from error
