"""Kind and work of the convolutions and matrix products of an ONNX graph.

Computed from inferred shapes alone, so also for networks that can't be built.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from tvmconv.onnx.model import shapes_of
from tvmconv.onnx.quantized.operators import DEQUANTIZE, is_standard
from tvmconv.reports.data.capability import KINDS, TRAITS

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")
LAYERS = (*CONVOLUTIONS, *PRODUCTS)
#: Fewer input channels than this, in all, are few: a tensor core's tile is 16 wide.
FEW_CHANNELS = 8


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product of an ONNX graph.

    x, weight, y: the shapes as in ONNX (N, C, ...), (K, C/groups, ...), (N, K, ...); () for one
    that could not be inferred.
    """

    name: str
    operator: str
    #: One of `KINDS`, and those of `TRAITS` that hold.
    kind: str
    traits: tuple[str, ...]
    #: Input channels of a group; for a product, the length of its reduction.
    group_channels: int
    x: tuple[int, ...]
    weight: tuple[int, ...]
    y: tuple[int, ...]
    #: True if the weight, or one operand of a product, is a constant, quantised or not.
    constant: bool

    @property
    def known(self) -> bool:
        """True if all shapes are known; else multiply-adds can't be counted."""
        return bool(self.x and self.weight and self.y)

    @property
    def macs(self) -> int:
        """Multiply-adds by definition; 0 if shapes are not known."""
        if not self.known:
            return 0
        if self.operator in PRODUCTS:
            return math.prod(self.y) * self.group_channels
        # Every input element of a transposed convolution meets the filter once, else every output.
        pixels = self.x if self.operator == "ConvTranspose" else self.y
        return math.prod(pixels) * math.prod(self.weight[1:])

    @property
    def moved_bytes(self) -> int:
        """To read and write every operand once, in fp16."""
        return 2 * sum(math.prod(one) for one in (self.x, self.weight, self.y)) * self.known

    def __str__(self) -> str:
        return ", ".join("x".join(map(str, one)) or "unknown" for one in (self.x, self.weight))


def layers(proto: onnx.ModelProto) -> dict[str, Layer]:
    """Layers by name of node, in order, of a graph with inferred shapes and named nodes."""
    shapes = {name: tuple(s) for name, s in shapes_of(proto).items() if s and 0 not in s}
    constants = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
    constants |= _dequantised(proto, constants)
    return {
        node.name: _layer(node, shapes, constants)
        for node in proto.graph.node
        if is_standard(node, *LAYERS)
    }


def convolutions(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes that become convolutions or matrix products of Relax, in order.

    A Gemm or MatMul is one if it multiplies by a constant fp32 matrix, quantised or not. The calls
    of Relax in the same order are `tvmconv.passes.regions.anchors`.
    """
    shapes = shapes_of(proto)
    single = onnx.TensorProto.FLOAT
    constants = {one.name for one in proto.graph.initializer if one.data_type == single}
    constants |= _dequantised(proto, {one.name for one in proto.graph.initializer})

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


def _dequantised(proto: onnx.ModelProto, constants: Collection[str]) -> set[str]:
    """Tensors that DequantizeLinear gives of constants: quantised weights as numbers."""
    return {
        node.output[0]
        for node in proto.graph.node
        if node.op_type == DEQUANTIZE and node.input[0] in constants
    }


def _layer(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], constants: Collection[str]
) -> Layer:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    x, weight, y = (shapes.get(name, ()) for name in (*node.input[:2], node.output[0]))
    constant = any(name in constants for name in node.input[:2])
    if node.op_type in PRODUCTS:
        reduction = x[0 if attributes.get("transA", 0) else -1] if x else 0
        kind = KINDS[3] if constant else KINDS[4]
        return Layer(node.name, node.op_type, kind, (), reduction, x, weight, y, constant)
    transposed = node.op_type == "ConvTranspose"
    groups = attributes.get("group", 1)
    channels = (weight[0] if transposed else weight[1] * groups) if weight else 0
    outputs = (weight[1] * groups if transposed else weight[0]) if weight else 0
    if groups == 1:
        kind = "dense"
    else:
        kind = "depthwise" if groups == channels and outputs % groups == 0 else "grouped"
    traits = _traits(transposed, weight[2:], channels, attributes)
    constant = node.input[1] in constants
    each = channels // groups
    return Layer(node.name, node.op_type, kind, traits, each, x, weight, y, constant)


def _traits(
    transposed: bool, taps: tuple[int, ...], channels: int, attributes: Mapping[str, Any]
) -> tuple[str, ...]:
    """The traits that hold, in the order of `TRAITS`. taps: sizes of the filter; () if unknown."""
    held = {
        "1x1": bool(taps) and set(taps) == {1},
        "strided": max(attributes.get("strides", [1])) > 1,
        "dilated": max(attributes.get("dilations", [1])) > 1,
        "transposed": transposed,
        "1-D": len(taps) == 1,
        "3-D": len(taps) == 3,
        "few input channels": 0 < channels < FEW_CHANNELS,
    }
    return tuple(name for name in TRAITS if held[name])
