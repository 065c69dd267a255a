"""From ONNX to Relax: operators checked, the graph simplified, then imported.

ModelProto -> ModelProto of fp32 (widen) -> fewer nodes (simplify) -> IRModule (to_relax)
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import Counter
from typing import Any

import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv.errors import ModelError, UnsupportedOperatorError
from tvmconv.onnx_model import infer_shapes, inputs


def unsupported(proto: onnx.ModelProto) -> Counter[str]:
    """Operators that can't be built and how often each is used, with the reason where it is not
    simply that nobody has written it."""
    known = {*onnx_frontend._get_convert_map(), "Constant"}
    found: Counter[str] = Counter()
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            found[f"{node.domain}.{node.op_type}"] += 1
        elif node.op_type not in known:
            found[node.op_type] += 1
        elif reason := _refusal(node):
            found[f"{node.op_type} ({reason})"] += 1
    return found


def _refusal(node: onnx.NodeProto) -> str:
    """Why a node that TVM's importer accepts would come out wrong; empty if it would not."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "ConvTranspose" and "output_shape" in attributes:
        return "with output_shape"
    if node.op_type == "BatchNormalization" and (
        attributes.get("training_mode", 0) or len([name for name in node.output if name]) > 1
    ):
        return "in training mode"
    if node.op_type == "MaxPool" and len([name for name in node.output if name]) > 1:
        return "with the argmax output"
    if node.op_type == "Resize":
        mode = attributes.get("mode", b"nearest")
        if mode != b"nearest" or attributes.get("antialias", 0):
            return f"mode {mode.decode()}"
    return ""


def check_supported(proto: onnx.ModelProto) -> None:
    """Raises `UnsupportedOperatorError` that lists everything that can't be built."""
    found = unsupported(proto)
    if found:
        listed = ", ".join(f"{name} x{count}" for name, count in sorted(found.items()))
        raise UnsupportedOperatorError(
            f"the model uses operators that can't be built: {listed}",
            hint="`tvmconv inspect` shows the rest of the model",
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
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == half:
                attribute.i = single
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
    for value in inputs(wide):
        if value.type.tensor_type.elem_type == half:
            for node in graph.node:
                node.input[:] = [_wide(x) if x == value.name else x for x in node.input]
            name = _wide(value.name)
            graph.node.insert(0, helper.make_node("Cast", [value.name], [name], name, to=single))
    for value in graph.output:
        if value.type.tensor_type.elem_type == half:
            for node in graph.node:
                node.output[:] = [_wide(x) if x == value.name else x for x in node.output]
                node.input[:] = [_wide(x) if x == value.name else x for x in node.input]
            cast = helper.make_node("Cast", [_wide(value.name)], [value.name], to=half)
            cast.name = f"{value.name}.narrow"
            graph.node.append(cast)
    return infer_shapes(wide)


def _wide(name: str) -> str:
    return f"{name}.wide"


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT16:
        array = numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in fewer nodes, by onnxruntime's basic graph optimisations.

    Constants folded (shape arithmetic too), batch norms and scales folded into the weights of
    convolutions, identities and dropout removed. Only standard operators come out, and those
    that stay keep their names. Raises `ModelError`.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        options.optimized_model_filepath = f"{folder}/simple.onnx"
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            note = str(error).strip().splitlines()[0]
            raise ModelError("onnxruntime does not take this model", note=note) from error
        simple = onnx.load(options.optimized_model_filepath)
    return infer_shapes(simple)


class _Importer(onnx_frontend.ONNXGraphImporter):
    """TVM's importer, but for what it turns into code that no pass recognises."""

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        if op_name == "Clip":
            bounds = [attrs.get("min"), attrs.get("max")] if opset < 11 else list(inputs[1:3])
            low, high = [*bounds, None, None][:2]
            if not any(isinstance(bound, relax.Expr) for bound in _variables(low, high)):
                # Not relax.op.clip, across which ConvertLayout does not carry a layout.
                dtype = inputs[0].ty.dtype
                least, most = _number(low, -math.inf), _number(high, math.inf)
                raised = self.bb.emit(relax.op.maximum(inputs[0], relax.const(least, dtype)))
                return self.bb.normalize(relax.op.minimum(raised, relax.const(most, dtype)))
        return super()._convert_operator(op_name, inputs, attrs, opset)


def _variables(*bounds: Any) -> list[Any]:
    return [bound for bound in bounds if not isinstance(bound, tvm.ir.GenericConst)]


def _number(bound: Any, default: float) -> float:
    if bound is None:
        return default
    return float(bound.value.numpy() if isinstance(bound, tvm.ir.GenericConst) else bound)


def to_relax(proto: onnx.ModelProto) -> tvm.IRModule:
    """The model, its shapes fixed, as a Relax module with weights as constants.

    Raises `ModelError` where TVM's importer gives up.
    """
    opset = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    with warnings.catch_warnings():
        # It warns of names that are no identifiers; ours are matched by position.
        warnings.simplefilter("ignore")
        try:
            return _Importer({}, {}, keep_params_in_input=False).from_onnx(proto.graph, opset)
        except Exception as error:
            note = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            raise ModelError(
                "TVM's importer does not take this model", note=f"{type(error).__name__}: {note}"
            ) from error
