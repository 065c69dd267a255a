"""The layers of a network, each with what its kernel does beside: its region.

A region grows from the layer's output, as the regions of a build do
(`tvmconv.passes.regions.regions`): pointwise functions, and one residual. The rules are kept in
step with those, so that what a kernel holds in registers is not rounded to 8 bits in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from tvmconv.onnx import kinds
from tvmconv.quantization.network import Network

#: Pointwise functions of one tensor; any further inputs are constants.
UNARY = frozenset(
    (
        *("Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
        *("Identity", "LeakyRelu", "Mish", "Neg", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus"),
        *("Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
    )
)
#: Pointwise functions of two, one of which is a constant or depends on the layer as well.
BINARY = frozenset(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"))
#: Sums that take a residual.
SUMS = frozenset(("Add", "Sum"))
#: The most nodes of one activation: HardSwish, written out, is Add, Clip, Div, Mul.
LONGEST = 8


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product and what follows it in one kernel."""

    name: str
    #: Its kind, its sizes and its work.
    info: kinds.Layer
    #: The tensor that it reads, and its weights and bias; "" without a bias.
    x: str
    weight: str
    bias: str
    #: The tensor that its kernel writes: after bias, residual and activation.
    output: str
    #: The tensor that is added; "" if there is none.
    residual: str
    #: Names of the nodes of its kernel, its own first.
    nodes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of the product: images times output pixels."""
        y = self.info.y
        channels = (y[-1] if self.info.operator in kinds.PRODUCTS else y[1]) if y else 1
        return math.prod(y) // channels


def find_layers(network: Network, sized: Network) -> tuple[Layer, ...]:
    """Returns the layers of a network in order.

    sized: the same network at the shapes of a feed. The sum of two convolutions is in the region of
    the first of them, as in a build; the other's region ends before it.
    """
    infos = kinds.layers(sized.proto)
    taken: set[str] = set()
    found = []
    for name, node in network.nodes.items():
        if name in infos:
            found.append(_layer(node, infos[name], network, sized.shapes, taken))
    return tuple(found)


def _layer(
    node: onnx.NodeProto,
    info: kinds.Layer,
    network: Network,
    shapes: Mapping[str, list[int]],
    taken: set[str],
) -> Layer:
    nodes, output, residual = [node.name], node.output[0], ""
    while output not in network.outputs:
        added = ""
        grown = _pointwise_after(output, network, shapes)
        if grown is None and not residual:
            grown, added = _sum_after(output, network, shapes)
        if grown is None or taken.intersection(grown[0]):
            break
        nodes += grown[0]
        output, residual = grown[1], residual or added
    taken.update(nodes)
    inputs = [*node.input, "", ""]
    bias = inputs[2] if node.op_type != "MatMul" else ""
    return Layer(node.name, info, inputs[0], inputs[1], bias, output, residual, tuple(nodes))


def _pointwise_after(
    start: str, network: Network, shapes: Mapping[str, list[int]]
) -> tuple[list[str], str] | None:
    """The fewest nodes that compute a pointwise function of a tensor whose other readers they are.

    Returns their names and the tensor that they compute; None if what follows is something else.
    One node, or several such as Sigmoid and Mul of SiLU.
    """
    inside, absorbed = {start}, list[str]()
    waiting = list(network.readers.get(start, ()))
    while waiting and len(absorbed) < LONGEST:
        ready = [node for node in waiting if _is_pointwise(node, inside, network)]
        if not ready:
            return None
        node = ready[0]
        waiting.remove(node)
        absorbed.append(node.name)
        output = node.output[0]
        if shapes.get(output) != shapes.get(start):
            return None
        inside.add(output)
        if not waiting:
            return absorbed, output
        if output in network.outputs:
            return None
        waiting += [one for one in network.readers.get(output, ()) if one not in waiting]
    return None


def _is_pointwise(node: onnx.NodeProto, inside: set[str], network: Network) -> bool:
    variable = network.variable_inputs(node)
    if not variable or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return False
    if node.op_type in UNARY:
        return variable == [node.input[0]] and node.input[0] in inside
    return node.op_type in BINARY and inside.issuperset(variable)


def _sum_after(
    start: str, network: Network, shapes: Mapping[str, list[int]]
) -> tuple[tuple[list[str], str] | None, str]:
    """The sum of a tensor that nothing else reads and another one of its shape: as
    `_pointwise_after`, and the other tensor."""
    readers = network.readers.get(start, ())
    if len(readers) != 1 or readers[0].op_type not in SUMS or len(readers[0].input) != 2:
        return None, ""
    node = readers[0]
    others = [name for name in node.input if name != start]
    if len(others) != 1 or others[0] in network.constants:
        return None, ""
    if shapes.get(others[0]) != shapes.get(start) or not shapes.get(start):
        return None, ""
    return ([node.name], node.output[0]), others[0]
