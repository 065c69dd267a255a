"""The networks that the onnx package carries without weights, with seeded ones.

They are ONNX's own tests of whole networks, as Caffe and Caffe2 exported them in 2018, with
0.02 for every weight: their answers are all but constant.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.weights import hollow, reseed, strip
from tvmconv.errors import TvmconvError

_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
#: Deviation of the logits: of a thousand classes none then takes all of the softmax.
_LOGITS = 1.0


def light(name: str, pixels: NDArray[np.float32], seed: int) -> onnx.ModelProto:
    """``light_NAME.onnx`` of the onnx package with weights drawn by ``seed``, the batch left open.

    Its layers are scaled on ``pixels`` [N, 3, 224, 224] float32, N of 2 or more: see `reseed`.
    """
    model = _hollowed(_read(name))
    _open_batch(model)
    model = reseed(model, {model.graph.input[0].name: pixels}, seed)
    if model.graph.node[-1].op_type == "Softmax":
        _spread(model, pixels)
    return model


def _read(name: str) -> onnx.ModelProto:
    path = _FOLDER / f"light_{name}.onnx"
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise TvmconvError(
            f"onnx {onnx.__version__} carries no light_{name}.onnx",
            note=f"it would be {path}",
            hint="install onnx from its wheel",
        ) from error


def _hollowed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that ConstantOfShape made become initializers without numbers, as do all others."""
    model = strip(model, above_bytes=0)
    graph = model.graph
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    made = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for node in made:
        shape = numpy_helper.to_array(shapes[node.input[0]]).tolist()
        graph.initializer.append(hollow(node.output[0], TensorProto.FLOAT, shape))
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in read:
            graph.initializer.remove(tensor)
    return model


def _open_batch(model: onnx.ModelProto) -> None:
    """Any batch where the files say 1: in the input, the outputs and what Reshape is told."""
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name not in known] + list(graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    activations = {value.name for value in graph.input} | {n.output[0] for n in graph.node}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] in activations:
            shape = numpy_helper.to_array(known[node.input[1]]).copy()
            shape[0] = 0  # as many as there are
            known[node.input[1]].CopyFrom(numpy_helper.from_array(shape, node.input[1]))


def _spread(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> None:
    """Scale the last layer so that the logits deviate by `_LOGITS`.

    What lies between it and the softmax (ReLU, pooling, views) scales with it.
    """
    graph = model.graph
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    logits = graph.node[-1].input[0]
    del probe.graph.output[:]
    probe.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {graph.input[0].name: pixels[:2]})
    gain = _LOGITS / float(found.std(axis=1).mean())
    last = next(node for node in reversed(graph.node) if node.op_type in ("Conv", "Gemm"))
    views = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in [views.get(name, name) for name in last.input[1:]]:
            scaled = numpy_helper.to_array(tensor) * np.float32(gain)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
