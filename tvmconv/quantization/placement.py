"""Which tensors are in 8 bits, and which of them have one scale.

The rules, with `x` a tensor in fp32 and `layers` those that are in 8 bits:

1. A layer reads its input in 8 bits, and the residual that its kernel adds. So the sum of a
   residual block is rounded once, after its activation, and never between convolution and sum.
2. A tensor in 8 bits is rounded once, and all its readers read what was rounded.
3. A tensor that no such layer reads, directly or through rule 4, stays in floating point.
4. An operator that only moves elements or chooses among them (`PASSING`) passes the scale through:
   if its result is in 8 bits, so are its inputs, at the same scale. All inputs of a Concat and its
   result so have one scale, and no operator of these computes on numbers that it would first have
   to convert.
5. Relu and Clip outside of a layer's region pass it through as well, if what is before them does;
   else they are computed with that, and the result is rounded. What they cut off does not widen the
   scale of tensors of which nothing else becomes.
6. An average over many pixels is not rule 4's: it is much smaller than the largest pixel, whose
   scale would leave it few of the 8 bits. But the pixels are in 8 bits, if a layer in 8 bits
   writes them for the average alone: their errors average out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx

from tvmconv.quantization.layers import Layer
from tvmconv.quantization.network import Network

#: Operators with one input to pass through, the first. AveragePool of few pixels and a Resize
#: between pixels average neighbours that are alike: at their scale that adds half a step of error.
ONE_INPUT = frozenset(
    (
        *("AveragePool", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool"),
        *("Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split"),
        *("Squeeze", "Tile", "Transpose", "Unsqueeze", "Upsample"),
    )
)
PASSING = ONE_INPUT | {"Concat"}
AVERAGING = frozenset(("AveragePool", "Resize", "Upsample"))
#: Operators that average over many pixels, or over few by the rule before.
AVERAGES = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean"))
#: The most pixels of such an AveragePool: 3x3.
FEW_PIXELS = 9
#: Pointwise operators that keep what they do not cut off.
CUTTING = frozenset(("Relu", "Clip"))


@dataclass(frozen=True)
class Group:
    """Tensors of one scale."""

    #: In the order of the network.
    tensors: tuple[str, ...]
    #: Those whose range decides; the others are cut off by their only reader.
    ranging: tuple[str, ...]


def place(network: Network, layers: Sequence[Layer], names: Collection[str]) -> tuple[Group, ...]:
    """Returns the tensors that are in 8 bits if the layers of these names are.

    Fewer names give a subset of the tensors.
    """
    absorbed = {name for layer in layers for name in layer.nodes}
    placed: dict[str, str] = {}  # a forest: each tensor's parent in its group, itself at the root
    waiting = [
        name
        for layer in layers
        if layer.name in names
        for name in (layer.x, layer.residual, _averaged(layer, network))
        if name
    ]
    while waiting:
        tensor = waiting.pop()
        if tensor in placed:
            continue
        placed[tensor] = tensor
        node = network.producer.get(tensor)
        if node is not None and passes(node, network, absorbed):
            waiting += data_inputs(node)
    for tensor in placed:
        node = network.producer.get(tensor)
        if node is not None and passes(node, network, absorbed):
            for name in data_inputs(node):
                placed[_root(name, placed)] = _root(tensor, placed)
    # Inputs come first, then tensors in the order in which nodes write them.
    order = [value.name for value in network.proto.graph.input] + list(network.producer)
    groups: dict[str, list[str]] = {}
    for name in order:
        if name in placed:
            groups.setdefault(_root(name, placed), []).append(name)
    return tuple(Group(tuple(one), _ranging(one, network, absorbed)) for one in groups.values())


def _averaged(layer: Layer, network: Network) -> str:
    """Returns what a layer writes if an average over many pixels alone reads it, or ""."""
    readers = network.readers.get(layer.output, [])
    alone = len(readers) == 1 and layer.output not in network.outputs
    return layer.output if alone and readers[0].op_type in AVERAGES else ""


def _root(tensor: str, parents: dict[str, str]) -> str:
    while parents[tensor] != tensor:
        tensor = parents[tensor]
    return tensor


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """Returns the inputs of a passing node that hold data; not its shapes, indices or bounds."""
    return list(node.input) if node.op_type == "Concat" else [node.input[0]]


def passes(node: onnx.NodeProto, network: Network, absorbed: Collection[str]) -> bool:
    """Returns True if a node passes its scale through, by rules 4 and 5.

    absorbed: names of the nodes in a layer's region.
    """
    if node.name in absorbed or node.domain not in ("", "ai.onnx"):
        return False
    if not all(name in network.floats for name in data_inputs(node)):
        return False  # a constant among them, whose range nobody measured
    if node.op_type == "Pad":
        return not _pads_a_number(node, network)
    if node.op_type == "AveragePool":
        window = next(one.ints for one in node.attribute if one.name == "kernel_shape")
        return math.prod(window) <= FEW_PIXELS
    if node.op_type in PASSING:
        return True
    if node.op_type not in CUTTING:
        return False
    before = network.producer.get(node.input[0])
    read_by = network.readers[node.input[0]]
    return len(read_by) > 1 or before is None or passes(before, network, absorbed)


def _pads_a_number(node: onnx.NodeProto, network: Network) -> bool:
    """True if a Pad adds numbers other than 0, which could lie outside of the range."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    return node.input[2] not in network.constants or bool(network.constant(node.input[2]).any())


def _ranging(
    tensors: Sequence[str], network: Network, absorbed: Collection[str]
) -> tuple[str, ...]:
    found = [name for name in tensors if not _is_cut(name, network, absorbed)]
    return tuple(found or tensors)


def _is_cut(tensor: str, network: Network, absorbed: Collection[str]) -> bool:
    """True if all that becomes of a tensor is moved and then cut off by one Relu or Clip.

    An average in between would be of other numbers if they were cut off before it.
    """
    readers = network.readers.get(tensor, [])
    if len(readers) != 1 or tensor in network.outputs or not passes(readers[0], network, absorbed):
        return False
    (node,) = readers
    if node.op_type in CUTTING:
        return True
    return node.op_type not in AVERAGING and all(
        _is_cut(name, network, absorbed) for name in node.output if name in network.floats
    )


def tensors_of(groups: Iterable[Group]) -> tuple[str, ...]:
    """Returns the tensors of all groups."""
    return tuple(name for group in groups for name in group.tensors)
