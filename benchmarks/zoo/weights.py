"""Networks without their weights, and seeded weights for networks.

    small = strip(model)                          # kilobytes, easy to pass on
    model = reseed(small, feeds)                  # the same network with other weights

With random weights alone, activations would vanish or overflow, and all pictures would get nearly
the same answer. So each layer is run as soon as it has weights, and scaled by its output, as batch
norm does: deviation and mean are near 1 at any depth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvmconv.errors import ModelError, first_line

Array = NDArray[Any]
#: Operators with weights, and the axis of channels in their output.
_CHANNELS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
#: Mean of a layer's output, in deviations: ReLU then clips a sixth of it. At 0 it would clip half,
#: and every layer would remove more signal than noise: fp16's error of 1e-3 would grow to 7e-2
#: through ResNet-50.
_SHIFT = 1.0
#: Operators whose output is a view of their first input.
_VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def strip(model: onnx.ModelProto, above_bytes: int = 1024) -> onnx.ModelProto:
    """Returns a copy with float tensors above ``above_bytes`` as shapes without numbers.

    Constant nodes become initializers. Inputs that are also initializers (as before ONNX IR 4)
    become only initializers. The result is not a valid model until `reseed` fills it.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    small.ir_version = max(model.ir_version, 8)
    graph = small.graph
    constants = [node for node in graph.node if _constant(node) is not None]
    graph.initializer.extend(tensor for node in constants if (tensor := _constant(node)))
    for node in constants:
        graph.node.remove(node)
    known = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in known]:
        graph.input.remove(value)
    for tensor in graph.initializer:
        size = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if tensor.data_type in _FLOATS and size > above_bytes:
            tensor.CopyFrom(hollow(tensor.name, tensor.data_type, tensor.dims))
    return small


def hollow(name: str, data_type: int, shape: Sequence[int]) -> onnx.TensorProto:
    """Returns a tensor without numbers, such as `strip` leaves and `reseed` fills."""
    return onnx.TensorProto(name=name, data_type=data_type, dims=shape)


def reseed(
    model: onnx.ModelProto, feeds: Mapping[str, Array], seed: int = 0, pictures: int = 4
) -> onnx.ModelProto:
    """Returns a stripped ``model`` with weights drawn by ``seed``, scaled on ``feeds``.

    ``feeds`` maps input names to arrays of two or more different pictures; the first ``pictures``
    are used. Filters get He weights. Their layers' biases, and batch norm's scale, shift and
    statistics, are replaced even if `strip` left them. The same call gives the same weights on the
    same machine; other processors may round the scales differently. Raises `ModelError` if
    onnxruntime cannot run a node.
    """
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    few = {name: array[:pictures] for name, array in feeds.items()}
    _Seeding(filled, few, np.random.default_rng(seed)).run()
    return filled


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Returns the tensor of a Constant node, named as its output."""
    if node.op_type != "Constant" or node.attribute[0].name != "value":
        return None
    tensor = onnx.TensorProto()
    tensor.CopyFrom(node.attribute[0].t)
    tensor.name = node.output[0]
    return tensor


class _Seeding:
    """One pass through a graph, in order, that gives each layer weights and then runs it."""

    def __init__(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], rng: np.random.Generator
    ) -> None:
        self.model, self.rng = model, rng
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.hollow = {name for name, tensor in self.tensors.items() if _is_hollow(tensor)}
        #: Values that are computed and still needed, and every initializer.
        self.values: dict[str, Array] = dict(feeds)
        #: By value: the initializer that it is a view of.
        self.source = {name: name for name in self.tensors}
        #: By value: the bias that a later Add adds to it.
        self.added: dict[str, str] = {}
        for node in model.graph.node:
            constants = [name for name in node.input if name in self.tensors]
            if node.op_type == "Add" and len(constants) == 1:
                self.added.update(dict.fromkeys(node.input, constants[0]))

    def run(self) -> None:
        nodes = self.model.graph.node
        for node in nodes:  # before any is run: the reader of a view tells its role
            if node.op_type in _VIEWS and node.input[0] in self.source:
                self.source[node.output[0]] = self.source[node.input[0]]
        for node in nodes:
            self._draw(node)
        for name, tensor in self.tensors.items():
            if name not in self.values:
                self.values[name] = numpy_helper.to_array(tensor)
        wanted = Counter(name for node in nodes for name in node.input)
        for node in nodes:
            self._compute(node)
            for name in node.input:
                wanted[name] -= 1
                if not wanted[name] and name not in self.tensors:
                    self.values.pop(name, None)

    def _draw(self, node: onnx.NodeProto) -> None:
        """Draws numbers for inputs of ``node`` that have none."""
        if node.op_type in _VIEWS:
            return
        for index, name in enumerate(node.input):
            root = self.source.get(name, "")
            if root not in self.hollow or root in self.values:
                continue
            shape = tuple(self.tensors[root].dims)
            if node.op_type in _CHANNELS and index == 1:
                array: Array = self.rng.standard_normal(shape, np.float32)
            elif node.op_type in ("Mul", "Div"):
                array = self.rng.uniform(0.8, 1.2, shape)
            else:  # biases, sums, slopes, tables to look up
                array = self.rng.normal(0.0, 0.2, shape)
            self._set(root, array)

    def _compute(self, node: onnx.NodeProto) -> None:
        """Runs one node, and scales its weights and its output if they were drawn."""
        if node.op_type == "BatchNormalization":
            self._normalize(node)
        drawn = node.op_type in _CHANNELS and self.source.get(node.input[1]) in self.hollow
        if drawn and len(node.input) > 2 and node.input[2] in self.tensors:
            self._set(node.input[2], np.zeros_like(self.values[node.input[2]]))
        opsets, version = self.model.opset_import, self.model.ir_version
        inputs = {name: self.values[name] for name in node.input if name}
        outputs = _run(node, inputs, opsets, version)
        if drawn:
            self.hollow.discard(self.source[node.input[1]])  # shared weights are scaled once
            outputs[0] = self._scaled(node, outputs[0])
        self.values.update(zip([name for name in node.output if name], outputs, strict=True))

    def _scaled(self, node: onnx.NodeProto, y: Array) -> Array:
        """Returns ``y`` at deviation 1 and, with a bias, a mean near 1; scales the weights too."""
        axes = tuple(axis for axis in range(y.ndim) if axis != _CHANNELS[node.op_type] % y.ndim)
        mean = y.mean(axes, dtype=np.float64, keepdims=True)
        deviation = float(np.sqrt(np.square(y - mean).mean(dtype=np.float64)))
        gain = 1 / deviation if deviation > 1e-6 else 1.0
        root = self.source[node.input[1]]
        for name in {root, node.input[1]}:
            self._set(name, self.values[name] * np.float64(gain))
        own = len(node.input) > 2 and node.input[2] in self.tensors
        bias = node.input[2] if own else self.added.get(node.output[0])
        shift = self.rng.normal(_SHIFT, 0.2, mean.shape) - gain * mean
        if bias is None or self.values[bias].size != shift.size:
            return np.asarray(y * gain, y.dtype)
        self._set(bias, shift.reshape(self.values[bias].shape))
        return np.asarray(y * gain + (shift if own else 0), y.dtype)

    def _normalize(self, node: onnx.NodeProto) -> None:
        """Sets batch norm's statistics from its input, and draws scale and shift."""
        x = self.values[node.input[0]]
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
        floor = max(0.01 * float(variance.mean()), 1e-6)  # a channel may be almost constant
        scale = self.rng.uniform(0.8, 1.2, mean.shape)
        shift = self.rng.normal(_SHIFT, 0.2, mean.shape)
        parameters = (scale, shift, mean, np.maximum(variance, floor))
        for name, array in zip(node.input[1:], parameters, strict=True):
            self._set(name, array)

    def _set(self, name: str, array: Array) -> None:
        """Sets the numbers of a value, and of the initializer of that name."""
        if name not in self.tensors:  # a view of one
            self.values[name] = array.astype(self.values[name].dtype)
            return
        tensor = self.tensors[name]
        self.values[name] = array.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        tensor.CopyFrom(numpy_helper.from_array(self.values[name], name))


def _is_hollow(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) > 0 and not any(
        field.name.endswith("_data") for field, _ in tensor.ListFields()
    )


def _run(
    node: onnx.NodeProto, inputs: Mapping[str, Array], opsets: Any, ir_version: int
) -> list[Array]:
    """Returns one node's outputs, by onnxruntime on one thread."""
    element = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in inputs.items()}
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in element.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(None, dict(inputs)))
    except Exception as error:  # onnxruntime's have no common base
        raise ModelError(
            f"onnxruntime cannot run {node.op_type} '{node.name or node.output[0]}'",
            note=first_line(error),
        ) from error
