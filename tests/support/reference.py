"""onnxruntime, as tests ask it."""

from __future__ import annotations

import onnx
import onnxruntime


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def with_all_activations(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list]:
    """The model that also outputs what each node computes, and the names of that."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    inner = [node.output[0] for node in model.graph.node if node.output[0] not in outputs]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    return whole, inner
