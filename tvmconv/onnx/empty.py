"""Tensors without elements: which a graph has, and those that a concatenation can do without.

Before: y = Concat(c, k), k of shape (1, 0, 9, 7)
After:  y = Identity(c)

torch.cat with an empty tensor is exported so, and a pad of a computed length that is 0.
"""

from __future__ import annotations

import onnx

from tvmconv.onnx.model import drop_unread, drop_unread_constants


def empty_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of tensors that are known to have no elements: initializers, and others with inferred
    shapes."""
    found = {tensor.name for tensor in graph.initializer if 0 in tensor.dims}
    for node in graph.node:
        if node.op_type == "Constant" and any(0 in one.t.dims for one in node.attribute):
            found.update(node.output)
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if any(dim.HasField("dim_value") and not dim.dim_value for dim in dims):
            found.add(value.name)
    return found


def drop_empty_operands(graph: onnx.GraphProto) -> None:
    """Removes operands without elements from every Concat, in place, and what computed them.

    A Concat of nothing but such operands stays as it is.
    """
    empty = empty_tensors(graph)
    changed = False
    for node in graph.node:
        if node.op_type != "Concat" or node.domain not in ("", "ai.onnx"):
            continue
        kept = [name for name in node.input if name not in empty]
        if not kept or len(kept) == len(node.input):
            continue
        changed = True
        del node.input[:]
        node.input.extend(kept)
        if len(kept) == 1:
            node.op_type = "Identity"
            del node.attribute[:]
    if changed:
        drop_unread(graph)
        drop_unread_constants(graph)
