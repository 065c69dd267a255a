"""Writes the QDQ model: QuantizeLinear and DequantizeLinear around tensors, weights in int8.

The forms are those that onnxruntime turns into QLinearConv:

- an activation: QuantizeLinear, DequantizeLinear, per tensor, zero point 0; all readers read it
- a weight: an int8 initializer, DequantizeLinear per output channel, zero point 0, from -127 to 127
- a bias: in fp32, as it was, but for its correction. onnxruntime brings it to int32 at the product
  of the scales of input and weight, and so can any kernel: `weight_scales` sees to it that it fits
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvmconv.errors import QuantizationError
from tvmconv.onnx.model import drop_unread_constants, infer_shapes
from tvmconv.quantization.calibration import SMALLEST, Scale
from tvmconv.quantization.layers import Layer
from tvmconv.quantization.network import Network, restore_shapes

Array = NDArray[Any]
#: The largest integer of a bias, which leaves half the range of int32 to the sum of products. As
#: kernels may bring a bias to int32, weights of a channel are rounded more coarsely if it needs be.
LARGEST_BIAS = 2.0**30


class Writer:
    """Writes models of one network, of which other layers may be in 8 bits each time."""

    def __init__(self, network: Network, layers: Sequence[Layer]) -> None:
        self._network = network
        self._layers = layers
        self._names = {*network.nodes, *network.producer, *network.constants}
        self._names.update(value.name for value in network.proto.graph.input)

    def back(self, tensor: str) -> str:
        """Returns the name of a tensor in 8 bits after it was rounded."""
        return self._name(f"{tensor}_dequantized")

    def step(self, model: onnx.ModelProto, tensor: str) -> float:
        """Returns the scale of a tensor in 8 bits in a model that was written."""
        name = self._name(f"{tensor}_scale")
        found = next(one for one in model.graph.initializer if one.name == name)
        return float(numpy_helper.to_array(found))

    def write(
        self,
        names: Collection[str],
        scales: Mapping[str, Scale],
        corrections: Mapping[str, Array] | None = None,
    ) -> onnx.ModelProto:
        """Returns the network with the layers of these names in 8 bits.

        scales: of every tensor that is in 8 bits. corrections: by layer, what is subtracted from
        its bias, (K,). Raises `QuantizationError` for weights that are not finite.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self._network.proto)
        graph = proto.graph
        rewired = {name: self.back(name) for name in scales}
        nodes = [n for v in graph.input if v.name in scales for n in self._pair(v.name, scales)]
        for name, scale in scales.items():
            self._parameters(graph, name, scale)
        chosen = {layer.name: layer for layer in self._layers if layer.name in names}
        for node in list(graph.node):
            node.input[:] = [rewired.get(name, name) for name in node.input]
            if node.name in chosen:
                layer = chosen[node.name]
                shift = (corrections or {}).get(layer.name)
                nodes += self._weights(graph, node, layer, scales[layer.x].scale, shift)
            nodes.append(node)
            nodes += [n for name in node.output if name in scales for n in self._pair(name, scales)]
        _rewire_subgraphs(nodes, rewired)
        del graph.node[:]
        graph.node.extend(nodes)
        _drop_unread(proto)
        proto.producer_name = "tvmconv"
        inferred = infer_shapes(proto)
        restore_shapes(inferred, self._network.proto)
        return inferred

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
        bits, back = self._name(f"{tensor}_quantized"), self.back(tensor)
        return [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [bits], name=bits),
            helper.make_node("DequantizeLinear", [bits, *parameters], [back], name=back),
        ]

    def _weights(
        self,
        graph: onnx.GraphProto,
        node: onnx.NodeProto,
        layer: Layer,
        step: float,
        shift: Array | None,
    ) -> list[onnx.NodeProto]:
        """Replaces a layer's weights by integers, and its bias by the corrected one. Returns the
        nodes that they need.

        step: the scale of the layer's input. shift: what is subtracted from the bias.
        """
        integers, scale = rounded_weight(self._network, layer, step)
        axis = output_axis(node)
        back = self._constant(graph, f"{layer.name}.weight", integers, scale.ravel(), axis)
        node.input[1] = back.output[0]
        bias = bias_by_channel(self._network, layer)
        if shift is not None and bias is not None:
            name = self._name(f"{layer.name}.bias_corrected")
            corrected = (bias - shift).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(corrected, name))
            node.input[2:] = [name]
        return [back]

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


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """Returns a number that is an attribute of a node."""
    found = (helper.get_attribute_value(one) for one in node.attribute if one.name == name)
    return float(next(found, default))


def output_axis(node: onnx.NodeProto) -> int:
    """Returns the axis of a layer's weights that counts output channels.

    A transposed convolution has those of one group along it, (C, K/groups, ...).
    """
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def bias_by_channel(network: Network, layer: Layer) -> Array | None:
    """Returns the bias, (K,) float64, of zeros where a convolution or Gemm has none.

    None where there can't be one, or it is no vector of channels that is added as it is.
    """
    node = network.nodes[layer.name]
    if node.op_type == "MatMul" or any(attribute(node, one, 1) != 1 for one in ("alpha", "beta")):
        return None
    shape = network.constant(layer.weight).shape
    channels = shape[output_axis(node)]
    if not layer.bias:
        groups = attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1
        return np.zeros(int(groups) * channels)
    if layer.bias not in network.constants:
        return None
    bias = network.constant(layer.bias).astype(np.float64)
    return None if bias.ndim != 1 or len(bias) % channels else bias


def rounded_weight(network: Network, layer: Layer, step: float) -> tuple[Array, Array]:
    """Returns a layer's weights as int8, and their scales along the axis of output channels.

    step: the scale of the layer's input. Raises `QuantizationError` for weights or biases that are
    not finite.
    """
    weight, bias = network.constant(layer.weight), bias_by_channel(network, layer)
    axis = output_axis(network.nodes[layer.name])
    scale = weight_scales(weight, axis, None if bias is None else bias / step)
    if not np.isfinite(weight).all() or not np.isfinite(scale).all():
        raise QuantizationError(
            f"layer {layer.name!r} has weights that are not finite",
            note="so has what the float model computes of them",
            hint="export the model anew from a checkpoint that is whole",
        )
    along = [1] * weight.ndim
    along[axis] = -1
    scale = scale.reshape(along)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def weight_scales(weight: Array, axis: int, bias: Array | None) -> Array:
    """Returns the scale of each output channel, float32.

        scale = max |w| / 127, of a channel without weights 1

    bias: over the scale of the input; at least |bias| / 2^30 is returned, so that a bias that is
    far larger than its channel's products fits into int32.
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


def _drop_unread(proto: onnx.ModelProto) -> None:
    """Removes constants that nothing reads, and imports of operators that there are none of."""
    graph = proto.graph
    drop_unread_constants(graph)
    domains = {"", "ai.onnx", *_domains(graph)}
    imports = [one for one in proto.opset_import if one.domain in domains]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)


def _domains(graph: onnx.GraphProto) -> set[str]:
    found = {node.domain for node in graph.node}
    for node in graph.node:
        for one in node.attribute:
            found = found.union(*(_domains(inner) for inner in (one.g, *one.graphs)))
    return found
