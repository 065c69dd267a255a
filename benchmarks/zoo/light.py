"""The networks that the onnx package carries without weights, with seeded ones.

They are ONNX's own tests of whole networks, exported by Caffe and Caffe2 in 2018 with 0.02 for
every weight, so that their answers are almost constant.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.zoo.drawings import drawings
from benchmarks.zoo.inputs import imagenet
from benchmarks.zoo.model import ZooModel
from benchmarks.zoo.weights import hollow, reseed, strip
from tvmconv.errors import TvmconvError

_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
#: Distance of the largest logit from the mean: no class of a thousand then dominates the softmax.
_PEAK = 2.0


def light(name: str, seed: int) -> onnx.ModelProto:
    """Returns ``light_NAME.onnx`` with weights drawn by ``seed`` and an open batch.

    Its layers are scaled on drawn pictures, see `reseed`. Raises `TvmconvError` if the package
    lacks the file.
    """
    model = _hollowed(_read(name))
    _open_batch(model)
    pixels = imagenet(drawings(4))
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
    """Turns weights from ConstantOfShape into initializers without numbers, like all others."""
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
    """Opens the batch where the files say 1: in inputs, outputs and shapes of Reshape."""
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name not in known] + list(graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    activations = {value.name for value in graph.input} | {n.output[0] for n in graph.node}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] in activations:
            shape = numpy_helper.to_array(known[node.input[1]]).copy()
            shape[0] = 0  # 0: keep the size
            known[node.input[1]].CopyFrom(numpy_helper.from_array(shape, node.input[1]))


def _spread(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> None:
    """Scales the last layer so that the largest logit is `_PEAK` above the mean.

    ReLU, pooling and views between it and the softmax scale with it.
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
    (found,) = session.run(None, {graph.input[0].name: pixels})
    gain = _PEAK / float((found - found.mean(axis=1, keepdims=True)).max())
    last = next(node for node in reversed(graph.node) if node.op_type in ("Conv", "Gemm"))
    views = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in [views.get(name, name) for name in last.input[1:]]:
            scaled = numpy_helper.to_array(tensor) * np.float32(gain)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def _entry(
    name: str, parameters: int, gmacs: float, input_name: str = "data_0", file: str | None = None
) -> ZooModel:
    return ZooModel(
        name=f"light_{name}",
        source="light network of onnx.backend.test, seeded weights",
        licence="Apache-2.0 (the graph, onnx)",
        parameters=parameters,
        gmacs=gmacs,
        input_name=input_name,
        make=partial(light, file or name, seed=1),
        prepare=imagenet,
    )


LIGHT: tuple[ZooModel, ...] = (
    _entry("resnet50", 25_557_032, 4.09, "gpu_0/data_0"),
    _entry("densenet121", 8_062_504, 2.83),
    _entry("inception_v1", 6_998_552, 1.43),
    _entry("inception_v2", 11_214_888, 2.02),
    _entry("shufflenet", 1_393_320, 0.125, "gpu_0/data_0"),
    _entry("squeezenet", 1_235_496, 0.349),
    _entry("vgg19", 143_667_240, 19.63),
    _entry("alexnet", 60_965_224, 0.655, file="bvlc_alexnet"),
    _entry("zfnet512", 87_250_536, 1.48, "gpu_0/data_0"),
)
