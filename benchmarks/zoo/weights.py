"""Networks without their weights, and seeded weights for networks.

    small = strip(model)                          # kilobytes: goes where the weights do not
    model = reseed(small, feeds)                  # the same network with other weights

Random weights alone would let activations die out or overflow, and would answer every picture with
nearly the same numbers. So each layer is run as soon as it has weights, and scaled by what comes
out, as batch norm would: deviation and mean near 1 at any depth, whatever the inputs have in
common.
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
#: Operators with weights, and the axis of the output channels in what they give.
_CHANNELS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
#: Mean of what a layer gives, in its deviations: ReLU then clips a sixth of it. Half, as at 0, and
#: every layer would take off more of the signal than of the noise: fp16's error of 1e-3 would be
#: 7e-2 after ResNet-50.
_SHIFT = 1.0
#: Operators whose output is their first input, seen otherwise.
_VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def strip(model: onnx.ModelProto, above_bytes: int = 1024) -> onnx.ModelProto:
    """A copy whose float tensors of more than ``above_bytes`` are shapes without numbers.

    Constant nodes become initializers, and inputs that are initializers as well (as before ONNX
    IR 4) only initializers. The result is no valid model until `reseed` has filled it.
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
    """A tensor without its numbers, such as `strip` leaves and `reseed` fills."""
    return onnx.TensorProto(name=name, data_type=data_type, dims=shape)


def reseed(
    model: onnx.ModelProto, feeds: Mapping[str, Array], seed: int = 0, pictures: int = 4
) -> onnx.ModelProto:
    """A copy of a stripped ``model`` with weights drawn by ``seed``, scaled on ``feeds``.

    ``feeds`` maps input names to arrays of two or more different pictures; the first ``pictures``
    are used. Filters get He weights; their layers' biases, and batch norm's scale, shift and
    statistics, are set anew even where `strip` left them. The same call gives the same weights on
    the same machine; another processor may round the scales otherwise. Raises ModelError where
    onnxruntime cannot run a node.
    """
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    few = {name: array[:pictures] for name, array in feeds.items()}
    _Seeding(filled, few, np.random.default_rng(seed)).run()
    return filled


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node, under the name of its output."""
    if node.op_type != "Constant" or node.attribute[0].name != "value":
        return None
    tensor = onnx.TensorProto()
    tensor.CopyFrom(node.attribute[0].t)
    tensor.name = node.output[0]
    return tensor


class _Seeding:
    """One pass through a graph, in its order, that gives each layer weights and then runs it."""

    def __init__(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], rng: np.random.Generator
    ) -> None:
        self.model, self.rng = model, rng
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.hollow = {name for name, tensor in self.tensors.items() if _is_hollow(tensor)}
        #: Numbers of what has been computed and is still wanted, and of every initializer.
        self.values: dict[str, Array] = dict(feeds)
        #: Initializer that a value is a view of.
        self.source = {name: name for name in self.tensors}
        #: Bias that a later Add puts on a value.
        self.added: dict[str, str] = {}
        for node in model.graph.node:
            constants = [name for name in node.input if name in self.tensors]
            if node.op_type == "Add" and len(constants) == 1:
                self.added.update(dict.fromkeys(node.input, constants[0]))

    def run(self) -> None:
        nodes = self.model.graph.node
        for node in nodes:  # before any is run: a view's role is known by who reads it
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
        """First numbers for what ``node`` reads and has none."""
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
        """Run one node, and scale its weights and its output if they were drawn."""
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
        """``y`` at deviation 1 and, where there is a bias, a mean near 1; the weights with it."""
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
        """Batch norm's statistics from what it is given; scale and shift drawn."""
        x = self.values[node.input[0]]
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
        floor = max(0.01 * float(variance.mean()), 1e-6)  # a channel may be all but constant
        scale = self.rng.uniform(0.8, 1.2, mean.shape)
        shift = self.rng.normal(_SHIFT, 0.2, mean.shape)
        parameters = (scale, shift, mean, np.maximum(variance, floor))
        for name, array in zip(node.input[1:], parameters, strict=True):
            self._set(name, array)

    def _set(self, name: str, array: Array) -> None:
        """Give a value its numbers, and the initializer of that name."""
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
    """One node's outputs, by onnxruntime on one thread."""
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
