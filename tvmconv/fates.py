"""What became of every node of the ONNX graph, told from the graph and the plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import onnx

from tvmconv.passes.plan import PlannedConv
from tvmconv.report import OperatorReport

#: Operators that onnxruntime's simplification folds into the convolution before them.
FOLDS = ("BatchNormalization", "Mul", "Add", "Div", "Sub")


def operator_fates(
    original: onnx.ModelProto, simple: onnx.ModelProto, convs: Mapping[str, PlannedConv]
) -> tuple[OperatorReport, ...]:
    """One report per node of `original`; `simple` is the graph that was compiled."""
    fates: dict[str, str] = {}
    readers = _readers(simple)
    for node in simple.graph.node:
        if node.name in convs:
            planned = convs[node.name]
            fates[node.name] = f"{planned.choice.family.name} kernel"
            for absorbed in _absorbed(node, readers, planned):
                fates[absorbed.name] = f"in the epilogue of a convolution: {node.name}"
    remaining = {node.name for node in simple.graph.node}
    producers = {name: node for node in original.graph.node for name in node.output}
    reports = []
    for node in original.graph.node:
        if node.name in fates:
            fate = fates[node.name]
        elif node.name in remaining:
            fate = "a kernel of TVM's" + (_why_generic(node) if node.op_type == "Conv" else "")
        else:
            fate = _folded(node, producers)
        reports.append(OperatorReport(node.name, node.op_type, fate))
    return tuple(reports)


def _readers(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _absorbed(
    conv: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], planned: PlannedConv
) -> list[onnx.NodeProto]:
    """The nodes after `conv` that its epilogue computes, in order."""
    region, absorbed, at = planned.region, [], conv
    # A bias that was no input of the node was an Add of its own.
    expected = ["Add"] * (region.bias is not None and len(conv.input) < 3)
    expected += ["Add"] * (region.residual_argument is not None)
    expected += {"none": [], "relu": ["Relu"], "clip": ["Clip"]}[region.activation.kind]
    for operator in expected:
        (at,) = readers[at.output[0]]
        assert at.op_type in (operator, "Relu", "Clip"), f"{at.name} is a {at.op_type}"
        absorbed.append(at)
    return absorbed


def _why_generic(node: onnx.NodeProto) -> str:
    return f": {node.name} is not a 2-D convolution with constant weights"


def _folded(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Where a node went that the simplification took out."""
    before = [producers[name] for name in node.input if name in producers]
    if node.op_type in FOLDS and any(one.op_type == "Conv" for one in before):
        conv = next(one for one in before if one.op_type == "Conv")
        return f"folded into the weights of a convolution: {conv.name}"
    return "folded away: constant, identity, or part of another node"
