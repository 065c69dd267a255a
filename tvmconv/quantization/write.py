"""Writes the QDQ model: QuantizeLinear and DequantizeLinear around tensors, weights in int8.

The forms are those that onnxruntime turns into QLinearConv, and TensorRT into its int8 layers:

- an activation: QuantizeLinear, DequantizeLinear, per tensor, zero point 0; all readers read it
- a weight: an int8 initializer, DequantizeLinear per output channel, zero point 0, from -127 to 127
- a bias: an int32 initializer, DequantizeLinear per output channel, at the product of the scales of
  input and weight: it can be added to the accumulators as it is
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvmconv.errors import QuantizationError
from tvmconv.onnx.model import infer_shapes
from tvmconv.quantization.calibration import SMALLEST, Scale
from tvmconv.quantization.layers import Layer
from tvmconv.quantization.network import Network

Array = NDArray[Any]
#: The largest integer of a bias, which leaves half the range of int32 to the sum of products.
LARGEST_BIAS = 2.0**30


class Writer:
    """Writes models of one network, of which other layers may be in 8 bits each time."""

    def __init__(self, network: Network, layers: Sequence[Layer]) -> None:
        self._network = network
        self._layers = layers
        self._names = {*network.nodes, *network.producer, *network.constants}
        self._names.update(value.name for value in network.proto.graph.input)

    def write(self, names: Collection[str], scales: Mapping[str, Scale]) -> onnx.ModelProto:
        """Returns the network with the layers of these names in 8 bits.

        scales: of every tensor that is in 8 bits. Raises `QuantizationError` for weights that are
        not finite.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self._network.proto)
        graph = proto.graph
        rewired = {name: self._name(f"{name}_dequantized") for name in scales}
        nodes = [n for v in graph.input if v.name in scales for n in self._pair(v.name, scales)]
        for name, scale in scales.items():
            self._parameters(graph, name, scale)
        chosen = {layer.name: layer for layer in self._layers if layer.name in names}
        for node in list(graph.node):
            node.input[:] = [rewired.get(name, name) for name in node.input]
            if node.name in chosen:
                nodes += self._weights(graph, node, chosen[node.name], scales)
            nodes.append(node)
            nodes += [n for name in node.output if name in scales for n in self._pair(name, scales)]
        _rewire_subgraphs(nodes, rewired)
        del graph.node[:]
        graph.node.extend(nodes)
        _drop_unread_constants(graph)
        proto.producer_name = "tvmconv"
        return infer_shapes(proto)

    def _name(self, name: str) -> str:
        """The name, with more underscores until the network has no such tensor or node."""
        while name in self._names:
            name += "_"
        return name

    def _parameters(self, graph: onnx.GraphProto, tensor: str, scale: Scale) -> None:
        pairs = (("scale", np.array(scale.scale, np.float32)), ("zero_point", scale.zero))
        for suffix, array in pairs:
            name = self._name(f"{tensor}_{suffix}")
            graph.initializer.append(numpy_helper.from_array(array, name))

    def _pair(self, tensor: str, scales: Mapping[str, Scale]) -> list[onnx.NodeProto]:
        """The two nodes of an activation. Its own name is before them."""
        parameters = [self._name(f"{tensor}_{suffix}") for suffix in ("scale", "zero_point")]
        bits, back = (self._name(f"{tensor}_{what}") for what in ("quantized", "dequantized"))
        return [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [bits], name=bits),
            helper.make_node("DequantizeLinear", [bits, *parameters], [back], name=back),
        ]

    def _weights(
        self,
        graph: onnx.GraphProto,
        node: onnx.NodeProto,
        layer: Layer,
        scales: Mapping[str, Scale],
    ) -> list[onnx.NodeProto]:
        """Replaces a layer's weights and bias by integers. Returns the nodes that they need."""
        weight = self._network.constant(layer.weight)
        axis = output_axis(node)
        bias = self._integer_bias(layer, node, weight.shape[axis])
        step = scales[layer.x].scale
        per_channel = weight_scales(weight, axis, None if bias is None else bias / step)
        if not np.isfinite(weight).all() or not np.isfinite(per_channel).all():
            raise QuantizationError(
                f"layer {layer.name!r} has weights that are not finite", hint=f"keep={[layer.name]}"
            )
        along = [1] * weight.ndim
        along[axis] = -1
        integers = np.clip(np.rint(weight / per_channel.reshape(along)), -127, 127)
        stored = (integers.astype(np.int8), per_channel)
        nodes = [self._constant(graph, f"{layer.name}.weight", *stored, axis)]
        node.input[1] = nodes[0].output[0]
        if bias is not None:
            product = (step * per_channel.astype(np.float64)).astype(np.float32)
            product = np.maximum(product, SMALLEST)
            groups = len(bias) // len(product)
            product = np.tile(product, groups)
            rounded = np.rint(bias / product).astype(np.int32)
            nodes.append(self._constant(graph, f"{layer.name}.bias", rounded, product, 0))
            node.input[2] = nodes[1].output[0]
        return nodes

    def _integer_bias(self, layer: Layer, node: onnx.NodeProto, channels: int) -> Array | None:
        """The bias if it can be stored as integers: one number a channel, added as it is."""
        if not layer.bias or layer.bias not in self._network.constants:
            return None
        bias = self._network.constant(layer.bias).astype(np.float64)
        factors = {one.name: one.f for one in node.attribute if one.name in ("alpha", "beta")}
        if bias.ndim != 1 or len(bias) % channels or any(one != 1 for one in factors.values()):
            return None
        return bias

    def _constant(
        self, graph: onnx.GraphProto, name: str, integers: Array, scale: Array, axis: int
    ) -> onnx.NodeProto:
        bits, back, step, zero = (
            self._name(f"{name}_{what}")
            for what in ("quantized", "dequantized", "scale", "zero_point")
        )
        arrays = {bits: integers, step: scale, zero: np.zeros(scale.shape, integers.dtype)}
        for one, array in arrays.items():
            graph.initializer.append(numpy_helper.from_array(array, one))
        return helper.make_node(
            "DequantizeLinear", [bits, step, zero], [back], name=back, axis=axis
        )


def output_axis(node: onnx.NodeProto) -> int:
    """Returns the axis of a layer's weights that counts output channels.

    A transposed convolution has those of one group along it, (C, K/groups, ...).
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(one.name == "transB" and one.i for one in node.attribute) else 1
    return 1


def weight_scales(weight: Array, axis: int, bias: Array | None) -> Array:
    """Returns the scale of each output channel, float32.

        scale = max |w| / 127, of a channel without weights 1

    bias: over the scale of the input; at least |bias| / 2^30 is returned, so that a bias that is
    far larger than its channel's products is an int32.
    """
    others = tuple(one for one in range(weight.ndim) if one != axis)
    scale = np.abs(weight).max(axis=others).astype(np.float64) / 127
    if bias is not None:
        groups = np.abs(bias).reshape(-1, len(scale)).max(axis=0)
        scale = np.maximum(scale, groups / LARGEST_BIAS)
    scale = np.where(scale == 0, 1.0, np.maximum(scale, SMALLEST))
    return np.asarray(scale, np.float32)


def _rewire_subgraphs(nodes: Sequence[onnx.NodeProto], rewired: Mapping[str, str]) -> None:
    """Lets what branches and loops read from outside be what was rounded, too."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                for inner in graph.node:
                    inner.input[:] = [rewired.get(name, name) for name in inner.input]
                _rewire_subgraphs(graph.node, rewired)


def _drop_unread_constants(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in _all_inputs(node)}
    read.update(value.name for value in graph.output)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _all_inputs(node: onnx.NodeProto) -> list[str]:
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names += _all_inputs(inner)
            names += [value.name for value in graph.output]
    return names
