"""Cuts the graph of one bucket into parts: compiled ones and ones for onnxruntime, in turns.

    Conv -> Relu -> TopK -> NonZero -> Cast        one tensor of a fixed shape, then open ones
    [ compiled  ]   [    onnxruntime      ]

A node is onnxruntime's if it can't be built, or if one of its tensors has an open shape or an
element type that networks are not built for. The others are compiled, unless their part would have
no convolution or product: then it costs less to let onnxruntime go on.

There are as few parts as possible: a node is in the earliest part of its side that comes after all
that it reads, so that the parts are as many as the longest path changes sides. What constants
decide alone, such as the DequantizeLinear of a weight, is in every part that reads it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import onnx

from tvmconv.onnx.branches import RANDOM, known_shapes
from tvmconv.onnx.kinds import LAYERS
from tvmconv.onnx.model import inputs, read_by
from tvmconv.onnx.quantized.operators import STANDARD, is_standard
from tvmconv.onnx.supported import DTYPES, operator, verdicts
from tvmconv.reports.data.parts import FallbackReport

Side = Literal["compiled", "onnxruntime"]
SIDES: tuple[Side, Side] = ("compiled", "onnxruntime")
NO_LAYER = "no convolution or product beside it that could be compiled"


@dataclass(frozen=True, eq=False)
class Part:
    """Nodes that are compiled together, or that one session of onnxruntime runs."""

    side: Side
    #: Its inputs are what it reads of the network's inputs and of other parts, its outputs what
    #: other parts or the caller read. It has its constants, also where another part has them too.
    model: onnx.ModelProto
    #: One for each node, in order, but those that constants decide; none if it is compiled.
    reasons: tuple[FallbackReport, ...] = ()


def cut(proto: onnx.ModelProto) -> tuple[Part, ...]:
    """Returns the parts in the order in which they run; none if there is nothing left to compile.

    proto: of fixed inputs, simplified, with inferred shapes.
    """
    reasons = node_reasons(proto)
    shared = _shared(proto.graph, reasons)
    while True:
        levels = _levels(proto.graph, reasons, shared)
        idle = [
            level
            for level in levels
            if not any(at in reasons for at in level)
            and not any(is_standard(proto.graph.node[at], *LAYERS) for at in level)
        ]
        if not idle:
            break
        reasons |= {at: NO_LAYER for level in idle for at in level}
    if all(level[0] in reasons for level in levels):
        return ()
    return tuple(_part(proto, level, levels, reasons, shared) for level in levels)


def node_reasons(proto: onnx.ModelProto) -> dict[int, str]:
    """By position of a node that can't be compiled: why."""
    graph = proto.graph
    shapes, elements = known_shapes(graph), _elements(graph)
    found: dict[int, str] = {}
    for at, (node, reason) in enumerate(verdicts(proto, folded=True)):
        if reason is not None:
            foreign = node.domain not in STANDARD
            found[at] = reason or ("no operator of ONNX's own" if foreign else "not implemented")
            continue
        for name in (*read_by(node), *filter(None, node.output)):
            if name not in elements:
                continue  # inside of a branch
            if elements[name] == "UNDEFINED":
                found[at] = f"{name!r} is no tensor of a known type"
            elif elements[name] not in DTYPES:
                found[at] = f"{name!r} has elements of {elements[name].lower()}"
            elif name not in shapes:
                found[at] = f"only a run decides the shape of {name!r}"
            else:
                continue
            break
    return found


def _elements(graph: onnx.GraphProto) -> dict[str, str]:
    """ONNX's names of the element types of all tensors of a graph; UNDEFINED if not known."""
    found = {name: 0 for node in graph.node for name in node.output if name}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: onnx.TensorProto.DataType.Name(number) for name, number in found.items()}


def _shared(graph: onnx.GraphProto, reasons: Mapping[int, str]) -> set[int]:
    """Positions of nodes that constants decide alone, that can be built and give no output."""
    known = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    found = set()
    for at, node in enumerate(graph.node):
        decided = node.op_type not in RANDOM and known.issuperset(read_by(node))
        if decided and at not in reasons and not outputs.intersection(node.output):
            found.add(at)
            known.update(node.output)
    return found


def _levels(
    graph: onnx.GraphProto, reasons: Mapping[int, str], shared: Set[int]
) -> list[list[int]]:
    """Positions of the nodes of every part, in order, without those in `shared`; no part is empty.

    The first part may be of either side: of both ways the one with fewer parts is taken.
    """
    found = [_levels_from(graph, reasons, shared, first) for first in (False, True)]
    return min(found, key=len)


def _levels_from(
    graph: onnx.GraphProto, reasons: Mapping[int, str], shared: Set[int], first: bool
) -> list[list[int]]:
    """first: True if part 0 is onnxruntime's."""
    level_of: dict[str, int] = {}
    levels: dict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(graph.node):
        if at in shared:
            continue
        side = at in reasons
        level = int(side is not first)
        for name in read_by(node):
            before = level_of.get(name, 0)
            # Parts take turns, so a part of the other side is never the same.
            level = max(level, before + (before + level) % 2)
        level_of.update((name, level) for name in node.output if name)
        levels[level].append(at)
    return [levels[level] for level in sorted(levels)]


def _part(
    proto: onnx.ModelProto,
    level: Sequence[int],
    levels: Sequence[Sequence[int]],
    reasons: Mapping[int, str],
    shared: Set[int],
) -> Part:
    graph = proto.graph
    nodes = _with_shared(graph, level, shared)
    side = SIDES[level[0] in reasons]
    types = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made = {name for node in nodes for name in node.output if name}
    read = list(dict.fromkeys(name for node in nodes for name in read_by(node)))
    outside = {name for one in levels for at in one for name in graph.node[at].output} - made
    outside |= {value.name for value in inputs(proto)}
    inside = set(level)
    others = (graph.node[at] for one in levels for at in one if at not in inside)
    wanted = {name for node in others for name in read_by(node)}
    wanted |= {value.name for value in graph.output}
    given = (name for at in level for name in graph.node[at].output if name)
    results = [name for name in given if name in wanted]
    used = [name for name in read if name in constants]
    if level is next(one for one in levels if one[0] in reasons):
        # An output that is a constant of the network: onnxruntime gives it.
        results += dict.fromkeys(value.name for value in graph.output if value.name in constants)
        used += [name for name in results if name in constants and name not in used]
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    del model.graph.input[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants[name] for name in used)
    # onnxruntime infers the types of its results itself.
    unknown = onnx.ValueInfoProto
    fed = (name for name in read if name in outside)
    model.graph.input.extend(types.get(name) or unknown(name=name) for name in fed)
    model.graph.output.extend(types.get(name) or unknown(name=name) for name in results)
    inner = made.difference(results)
    model.graph.value_info.extend(types[name] for name in types if name in inner)
    if side == "compiled":
        return Part(side, model)
    told = (
        FallbackReport(graph.node[at].name, operator(graph.node[at]), reasons[at]) for at in level
    )
    return Part(side, model, tuple(told))


def _with_shared(
    graph: onnx.GraphProto, level: Sequence[int], shared: Set[int]
) -> list[onnx.NodeProto]:
    """The nodes at `level` and those in `shared` that they need, in the order of the graph."""
    makers = {name: at for at in shared for name in graph.node[at].output}
    kept = set(level)
    waiting = list(level)
    while waiting:
        for name in read_by(graph.node[waiting.pop()]):
            if name in makers and makers[name] not in kept:
                kept.add(makers[name])
                waiting.append(makers[name])
    return [graph.node[at] for at in sorted(kept)]
