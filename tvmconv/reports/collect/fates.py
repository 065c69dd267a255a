"""What became of every node of the ONNX graph, told from the graph and the plan.

The walk follows the ONNX graph, which need not look like Relax's everywhere; where it finds no
answer it says that TVM computes the node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import onnx

from tvmconv.onnx.model import shapes_of
from tvmconv.passes.plan.plan import PlannedConv
from tvmconv.passes.regions.regions import Region
from tvmconv.reports.collect.layers import merged_layers
from tvmconv.reports.data.build import OperatorReport

#: Operators that onnxruntime's simplification folds into the convolution before them.
FOLDS = ("BatchNormalization", "Mul", "Add", "Div", "Sub")
#: In the longest way to write an activation.
MOST_NODES = 8
#: Of a channel shuffle, as everybody writes it: Reshape, Transpose, Reshape.
SHUFFLE_NODES = 3


def operator_fates(
    original: onnx.ModelProto, simple: onnx.ModelProto, convs: Mapping[str, PlannedConv]
) -> tuple[OperatorReport, ...]:
    """One report per node of `original`; `simple` is the graph that was compiled."""
    fates: dict[str, str] = {}
    readers, shapes = _readers(simple), shapes_of(simple)
    order = {node.output[0]: at for at, node in enumerate(simple.graph.node)}
    makers = {name: node for node in simple.graph.node for name in node.output}
    nodes = {node.name: node for node in simple.graph.node}
    for node in simple.graph.node:
        if node.name in convs:
            planned = convs[node.name]
            fates[node.name] = f"{planned.kernels[0].choice.family.name} kernel"
            absorbed = _absorbed(node, readers, order, planned.region)
            inside = [*_pads_before(node, makers, shapes, planned.region), *absorbed]
            inside += _first_of_pair(nodes, makers, shapes, readers, order, planned.region)
            for one in inside:
                fates[one.name] = f"in the kernel of a convolution: {node.name}"
            for one in _places(absorbed[-1] if absorbed else node, readers, planned):
                fates[one.name] = f"written in place by a convolution: {node.name}"
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
    conv: onnx.NodeProto,
    readers: dict[str, list[onnx.NodeProto]],
    order: Mapping[str, int],
    region: Region,
) -> list[onnx.NodeProto]:
    """The nodes after `conv` that its kernel computes, in order.

    Each step of the epilogue is the smallest set of nodes that only its last one leads out of.
    """
    absorbed: list[onnx.NodeProto] = []
    at = conv.output[0]
    # A bias that was no input of the node was an operator of its own.
    steps = (region.bias is not None and not any(conv.input[2:])) + (region.residual is not None)
    steps += (region.activation.kind != "none") + (region.pool is not None)
    for _ in range(steps):
        step = _closed(at, readers, order)
        if not step:
            break
        absorbed += step
        at = step[-1].output[0]
    return absorbed


def _pads_before(
    conv: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    shapes: Mapping[str, list[int]],
    region: Region,
) -> list[onnx.NodeProto]:
    """The Pad before `conv`, if its kernel reads what that reads."""
    pad, read = makers.get(conv.input[0]), shapes.get(conv.input[0], [])
    if pad is None or pad.op_type != "Pad" or len(read) != 4:
        return []
    return [pad] if tuple(read[2:]) != region.x_shape[1:3] else []


def _first_of_pair(
    nodes: Mapping[str, onnx.NodeProto],
    makers: Mapping[str, onnx.NodeProto],
    shapes: Mapping[str, list[int]],
    readers: dict[str, list[onnx.NodeProto]],
    order: Mapping[str, int],
    region: Region,
) -> list[onnx.NodeProto]:
    """The convolution that the kernel of `region` computes first, if any, and what is in it."""
    first = region.prologue
    if first is None:
        return []
    node = nodes[first.name]
    return [
        *_pads_before(node, makers, shapes, first),
        node,
        *_absorbed(node, readers, order, first),
    ]


def _places(
    last: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], planned: PlannedConv
) -> list[onnx.NodeProto]:
    """The Concat after `last`, the end of a region, and the nodes of a channel shuffle, if the
    region writes where they would move its output."""
    place, region = planned.place, planned.region
    kinds: list[tuple[str, ...]] = [("Concat",)] * (place.channels > region.k)
    kinds += [("Reshape", "Transpose")] * SHUFFLE_NODES * (place.shuffle > 1)
    found: list[onnx.NodeProto] = []
    for kind in kinds:
        after = readers[last.output[0]]
        if len(after) != 1 or after[0].op_type not in kind:
            break
        last = after[0]
        found.append(last)
    return found


def _closed(
    start: str, readers: dict[str, list[onnx.NodeProto]], order: Mapping[str, int]
) -> list[onnx.NodeProto]:
    """The fewest nodes after tensor `start` of which only the last is read by others.

    order: of the nodes, by their first outputs.
    """
    found: list[onnx.NodeProto] = []
    known, waiting = {start}, list(readers[start])
    while waiting and len(found) < MOST_NODES:
        # In the order of the graph, so that the last reads what the others make.
        node = min(waiting, key=lambda one: order[one.output[0]])
        found.append(node)
        if all(reader in found for name in known for reader in readers[name]):
            return found
        known.update(node.output)
        waiting += readers[node.output[0]]
        waiting = [one for one in waiting if one not in found]
    return []


def _folded(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Where a node went that the simplification took out."""
    before = [producers[name] for name in node.input if name in producers]
    if node.op_type in FOLDS and any(one.op_type == "Conv" for one in before):
        conv = next(one for one in before if one.op_type == "Conv")
        return f"folded into the weights of a convolution: {conv.name}"
    return "folded away: constant, identity, or part of another node"
