"""What became of every node of the ONNX graph, told from the graph and the plan.

The walk follows the ONNX graph, which need not look like Relax's everywhere; where it finds no
answer it says that TVM computes the node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import onnx

from tvmconv.layer_reports import merged_layers
from tvmconv.passes.plan import PlannedConv
from tvmconv.report import OperatorReport

#: Operators that onnxruntime's simplification folds into the convolution before them.
FOLDS = ("BatchNormalization", "Mul", "Add", "Div", "Sub")
#: In the longest way to write an activation.
MOST_NODES = 8


def operator_fates(
    original: onnx.ModelProto, simple: onnx.ModelProto, convs: Mapping[str, PlannedConv]
) -> tuple[OperatorReport, ...]:
    """One report per node of `original`; `simple` is the graph that was compiled."""
    fates: dict[str, str] = {}
    readers = _readers(simple)
    for node in simple.graph.node:
        if node.name in convs:
            planned = convs[node.name]
            fates[node.name] = f"{planned.kernels[0].choice.family.name} kernel"
            for absorbed in _absorbed(node, readers, planned):
                fates[absorbed.name] = f"in the kernel of a convolution: {node.name}"
    merged = merged_layers(simple, convs)
    remaining = {node.name for node in simple.graph.node}
    producers = {name: node for node in original.graph.node for name in node.output}
    reports = []
    for node in original.graph.node:
        if node.name in fates:
            fate = fates[node.name]
        elif node.name in merged:
            fate = "merged with an equal one"
        elif node.name in remaining:
            fate = "a kernel of TVM's"
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
    """The nodes after `conv` that its kernel computes, in order.

    Each step of the epilogue is the smallest set of nodes that only its last one leads out of.
    """
    region, absorbed, at = planned.region, [], conv.output[0]
    # A bias that was no input of the node was an operator of its own.
    steps = (region.bias is not None and not any(conv.input[2:])) + (region.residual is not None)
    steps += region.activation.kind != "none"
    for _ in range(steps):
        step = _closed(at, readers)
        if not step:
            break
        absorbed += step
        at = step[-1].output[0]
    return absorbed


def _closed(start: str, readers: dict[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """The fewest nodes after tensor `start` of which only the last is read by others."""
    found: list[onnx.NodeProto] = []
    waiting = list(readers[start])
    while waiting and len(found) < MOST_NODES:
        found += [node for node in waiting if node not in found]
        inner = [start, *(name for node in found[:-1] for name in node.output)]
        if all(reader in found for name in inner for reader in readers[name]):
            return found
        waiting = [reader for node in waiting for reader in readers[node.output[0]]]
    return []


def _folded(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Where a node went that the simplification took out."""
    before = [producers[name] for name in node.input if name in producers]
    if node.op_type in FOLDS and any(one.op_type == "Conv" for one in before):
        conv = next(one for one in before if one.op_type == "Conv")
        return f"folded into the weights of a convolution: {conv.name}"
    return "folded away: constant, identity, or part of another node"
