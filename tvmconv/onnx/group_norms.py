"""Writes GroupNormalization as InstanceNormalization between reshapes, as torch exports it.

    y = reshape(InstanceNormalization(reshape(x, (N, groups, -1)))) * scale + bias

onnx's own definition computes the variance as mean(x^2) - mean(x)^2, which loses all digits where
the mean is large beside the deviation, and onnxruntime has no kernel for every opset. The pass
`group_norms` makes one operator of it again.

https://onnx.ai/onnx/operators/onnx__GroupNormalization.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvmconv.errors import ModelError

GROUP_NORM = "GroupNormalization"


def write_group_norms(proto: onnx.ModelProto, opset: int) -> None:
    """Rewrites all of them, in place. opset: of the model; before 21 scale and bias are of groups,
    since then of channels.

    Raises `ModelError` for groups that do not divide the channels.
    """
    graph = proto.graph
    nodes: list[onnx.NodeProto] = []
    grouped: list[tuple[str, int]] = []
    for node in graph.node:
        if node.op_type == GROUP_NORM and node.domain in ("", "ai.onnx"):
            nodes += _written(node, graph, per_group=opset < 21)
            grouped.append((node.input[0], _groups(node)))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    values = {one.name: one for one in (*inferred.input, *inferred.value_info)}
    for x, groups in grouped:
        dims = list(values[x].type.tensor_type.shape.dim) if x in values else []
        channels = dims[1].dim_value if len(dims) > 1 else 0
        if groups < 1 or channels % groups:
            raise ModelError(
                f"a GroupNormalization has {groups} groups of {channels} channels",
                hint="the number of groups has to divide the channels",
            )


def _groups(node: onnx.NodeProto) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "num_groups"), 0)


def _written(
    node: onnx.NodeProto, graph: onnx.GraphProto, per_group: bool
) -> Iterator[onnx.NodeProto]:
    """The nodes that compute the same; the last has its name and its result."""
    x, scale, bias = node.input
    how = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    groups, last = _groups(node), node.output[0]

    def constant(what: str, array: Any) -> str:
        name = f"{last}.{what}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def made(op: str, what: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
        name = f"{last}.{what}" if what else last
        label = f"{node.name}.{what}" if what else node.name
        return helper.make_node(op, list(inputs), [name], label, **attributes)

    yield made("Reshape", "rows", x, constant("groups", np.array([0, groups, -1])))
    yield made("Shape", "shape", x)
    factors = [scale, bias]
    if not per_group:
        for what, number in (("ones", 1), ("zeros", 0)):
            yield made(
                "CastLike", what, constant(f"wide_{what}", np.full(groups, number, "f")), scale
            )
        factors = [f"{last}.ones", f"{last}.zeros"]
    epsilon = how.get("epsilon", 1e-5)
    yield made("InstanceNormalization", "norm", f"{last}.rows", *factors, epsilon=epsilon)
    if per_group:
        yield made("Reshape", "", f"{last}.norm", f"{last}.shape")
        return
    yield made("Shape", "channels", scale)
    ends = [constant("images", np.array([0])), constant("pixels", np.array([-1]))]
    yield made("Concat", "flat_shape", ends[0], f"{last}.channels", ends[1], axis=0)
    yield made("Reshape", "flat", f"{last}.norm", f"{last}.flat_shape")
    axes = constant("axes", np.array([1]))
    yield made("Unsqueeze", "wide_scale", scale, axes)
    yield made("Unsqueeze", "wide_bias", bias, axes)
    yield made("Mul", "scaled", f"{last}.flat", f"{last}.wide_scale")
    yield made("Add", "shifted", f"{last}.scaled", f"{last}.wide_bias")
    yield made("Reshape", "", f"{last}.shifted", f"{last}.shape")
