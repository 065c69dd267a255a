"""Replaces every If whose condition is known at build time by the branch that is taken.

Before: y = If(Shape(c)[1] == 1, then: Squeeze(c), else: c)        c of shape (2, 1, 5, 5)
After:  y = Squeeze(c)

torch.onnx exports such an If for squeeze(dim), and for what depends on the size of an image. The
condition is computed by onnxruntime, out of constants and of shapes, which are numbers by now.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvmconv.runtime.session import open_session

#: Operators whose results are not the same every time.
RANDOM = (
    *("Bernoulli", "Dropout", "Multinomial"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
)


def has_branches(graph: onnx.GraphProto) -> bool:
    """True for a graph with an If."""
    return any(node.op_type == "If" for node in graph.node)


def take_known_branches(proto: onnx.ModelProto) -> bool:
    """Puts branches in place of Ifs whose conditions are known, in place. True if there are any.

    proto: with inferred shapes. Those inside of the branches stay: infer shapes and call it again.
    """
    graph = proto.graph
    names = tensor_names(graph)
    written: list[onnx.NodeProto] = []
    found = False
    for node in graph.node:
        condition = _known(proto, node.input[0]) if node.op_type == "If" else None
        if condition is None:
            written.append(node)
            continue
        found = True
        wanted = "then_branch" if condition else "else_branch"
        branch = next(one.g for one in node.attribute if one.name == wanted)
        written += _inlined(graph, node, branch, names)
    if found:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
        del graph.node[:]
        graph.node.extend(copies)
    return found


def _known(proto: onnx.ModelProto, name: str) -> bool | None:
    """The value of a condition; None unless it follows from constants and shapes."""
    graph = proto.graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = known_shapes(graph)
    needed: dict[str, onnx.NodeProto] = {}
    used: dict[str, onnx.TensorProto] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if not one or one in needed or one in used:
            continue
        if one in constants:
            used[one] = constants[one]
            continue
        node = producers.get(one)
        if node is None or node.op_type in RANDOM or any(a.g.node for a in node.attribute):
            return None
        if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
            used[one] = _measured(node, shapes[node.input[0]], one)
            continue
        needed.update((output, node) for output in node.output)
        waiting += node.input
    kept = {id(node) for node in needed.values()}
    part = helper.make_graph(
        [node for node in graph.node if id(node) in kept],
        "condition",
        [],
        [onnx.ValueInfoProto(name=name)],
        list(used.values()),
    )
    if name in used:  # an output has to be computed
        part.node.append(helper.make_node("Identity", [name], [f"{name}/value"]))
        part.output[0].name = f"{name}/value"
    return _computed(proto, part)


def _computed(proto: onnx.ModelProto, part: onnx.GraphProto) -> bool | None:
    """The one number that a graph without inputs gives; None if onnxruntime can't run it."""
    model = helper.make_model(
        part, opset_imports=proto.opset_import, ir_version=max(proto.ir_version, 4)
    )
    try:
        (value,) = open_session(model).run(None, {})
    except Exception:  # its exceptions have no common base; the If is refused by name then
        return None
    return bool(value.item()) if value.size == 1 else None


def _measured(node: onnx.NodeProto, shape: list[int], name: str) -> onnx.TensorProto:
    """The result of a Shape or Size."""
    bounds = {one.name: one.i for one in node.attribute}
    part = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
    value = np.prod(shape) if node.op_type == "Size" else part
    return numpy_helper.from_array(np.array(value, np.int64), name)


def known_shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Shapes of which every dimension is known."""
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[value.name] = [dim.dim_value for dim in tensor.shape.dim]
    return found


def _inlined(
    graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto, names: set[str]
) -> list[onnx.NodeProto]:
    """The nodes of a branch, under names of their own, then one for each result of the If. Adds the
    branch's constants to the graph."""
    renamed: dict[str, str] = {}
    for name in _defined(branch):
        new = f"{node.name or node.output[0]}/{name}"
        while new in names:
            new += "_"
        names.add(new)
        renamed[name] = new
    for tensor in branch.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = renamed[tensor.name]
    inner = [onnx.NodeProto.FromString(one.SerializeToString()) for one in branch.node]
    for one in inner:
        if one.name:
            one.name = f"{node.name or node.output[0]}/{one.name}"
        rename(one, renamed)
    results = [
        helper.make_node("Identity", [renamed.get(made.name, made.name)], [output], output)
        for made, output in zip(branch.output, node.output, strict=True)
        if output
    ]
    return [*inner, *results]


def _defined(graph: onnx.GraphProto) -> list[str]:
    made = [output for node in graph.node for output in node.output if output]
    return [*(tensor.name for tensor in graph.initializer), *made]


def rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Renames what a node reads and gives, in graphs inside of it as well."""
    node.input[:] = [renamed.get(name, name) for name in node.input]
    node.output[:] = [renamed.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for one in inner.node:
                rename(one, renamed)
            for value in inner.output:
                value.name = renamed.get(value.name, value.name)


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor, in graphs inside of this one as well."""
    found = {*_defined(graph), *(value.name for value in (*graph.input, *graph.output))}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= tensor_names(inner)
    return found
