"""Operators that move or compare numbers work on quantised ones.

Before: q -> DequantizeLinear -> MaxPool -> y
After:  q -> MaxPool -> DequantizeLinear -> y

A quarter of the bytes, and what follows reads 8-bit numbers: a convolution, or a QuantizeLinear of
the same scale, which then does nothing and is left out. Real values are the same, since
dequantising keeps the order of numbers.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from tvmconv.onnx.branches import rename
from tvmconv.onnx.model import drop_unread, infer_shapes
from tvmconv.onnx.quantized.operators import DEQUANTIZE, QUANTIZE, is_standard

#: Operators whose first input and outputs have one scale. The others of `MOVES` are left to floats:
#: TVM has no kernels of theirs for every integer.
ONE_INPUT = (
    *("DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
)


def sink(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with DequantizeLinear after such operators, and after a Concat of tensors
    of one scale. A model without DequantizeLinear is returned as it is."""
    if not any(is_standard(node, DEQUANTIZE) for node in proto.graph.node):
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    parameters = _Parameters(graph)
    written: list[onnx.NodeProto] = []
    #: By real tensor: the DequantizeLinear that gives it. By tensor: another of the same numbers.
    sources: dict[str, onnx.NodeProto] = {}
    names: dict[str, str] = {}
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        rename(node, names)
        if is_standard(node, DEQUANTIZE) and parameters.single(node):
            sources[node.output[0]] = node
        if is_standard(node, QUANTIZE) and node.output[0] not in outputs:
            source = sources.get(node.input[0])
            if source is not None and parameters.same(source, node):
                names[node.output[0]] = source.input[0]
                continue
        moved = sources.get(node.input[0]) if is_standard(node, *ONE_INPUT) else None
        if is_standard(node, "Concat"):
            found = [sources.get(name) for name in node.input]
            if all(one is not None and parameters.same(one, found[0]) for one in found):
                moved = found[0]
        if moved is None or (node.op_type == "MaxPool" and len(node.output) > 1):
            written.append(node)
            continue
        count = len(node.input) if node.op_type == "Concat" else 1
        node.input[:count] = [sources[name].input[0] for name in node.input[:count]]
        for at, output in enumerate(node.output):
            if output:
                node.output[at] = f"{output}.numbers"
        written.append(node)
        for output in [name.removesuffix(".numbers") for name in node.output if name]:
            inputs = [f"{output}.numbers", *moved.input[1:]]
            sources[output] = helper.make_node(
                DEQUANTIZE, inputs, [output], f"{output}.dequantized"
            )
            written.append(sources[output])
    del graph.node[:]
    graph.node.extend(written)
    drop_unread(graph)
    return infer_shapes(changed)


class _Parameters:
    """Scales and zero points of a graph's QDQ."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.values = {one.name: one for one in graph.initializer}

    def single(self, node: onnx.NodeProto) -> bool:
        """True for one constant scale of the whole of a tensor that is no constant itself."""
        scale = self.values.get(node.input[1])
        one = scale is not None and numpy_helper.to_array(scale).size == 1
        return one and node.input[0] not in self.values

    def same(self, first: onnx.NodeProto | None, second: onnx.NodeProto | None) -> bool:
        """True for one scale and one zero point, of one dtype, of both."""
        return (
            first is not None
            and second is not None
            and len(first.input) == len(second.input) == 3
            and all(
                self._equal(*names) for names in zip(first.input[1:], second.input[1:], strict=True)
            )
        )

    def _equal(self, first: str, second: str) -> bool:
        if first == second:
            return True
        if first not in self.values or second not in self.values:
            return False
        one, two = (numpy_helper.to_array(self.values[name]) for name in (first, second))
        return one.dtype == two.dtype and one.size == two.size == 1 and one.item() == two.item()
