"""Small networks with an operator that can't be compiled, each behind or between convolutions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.models import Graph

SHAPE = (1, 3, 12, 12)


def typed(model: onnx.ModelProto, **elements: int) -> onnx.ModelProto:
    """The model with other element types of some outputs."""
    for output in model.graph.output:
        if output.name in elements:
            output.type.tensor_type.elem_type = elements[output.name]
    return model


def declared(model: onnx.ModelProto, name: str, shape: list[int | str]) -> onnx.ModelProto:
    """The model with a shape of an output."""
    for output in model.graph.output:
        if output.name == name:
            element = output.type.tensor_type.elem_type
            output.CopyFrom(helper.make_tensor_value_info(name, element, shape))
    return model


def detector() -> onnx.ModelProto:
    """9 boxes and their scores from two convolutions, then NonMaxSuppression and a Gather."""
    g = Graph(SHAPE)
    x = g.op("Relu", g.conv("input", 3, 16, 3, strides=[4, 4]))
    flat = g.op("Reshape", g.conv(x, 16, 4, 1), g.constant(np.array([1, 4, 9], np.int64)))
    boxes = g.op("Abs", g.op("Transpose", flat, perm=[0, 2, 1]), name="boxes")
    scores = g.conv(x, 16, 2, 1)
    scores = g.op("Sigmoid", scores)
    scores = g.op("Reshape", scores, g.constant(np.array([1, 2, 9], np.int64)), name="scores")
    most, overlap = g.constant(np.array([5], np.int64)), g.constant(np.array([0.5], "f"))
    least = g.constant(np.array([0.3], "f"))
    kept = g.op("NonMaxSuppression", boxes, scores, most, overlap, least, name="kept")
    which = g.op("Gather", kept, g.constant(np.array(2, np.int64)), axis=1)
    g.op("Gather", boxes, which, axis=1, name="found")
    return typed(g.model("boxes", "kept", "found"), kept=TensorProto.INT64)


def best() -> onnx.ModelProto:
    """TopK of what a convolution gives."""
    g = Graph(SHAPE)
    flat = g.op("Flatten", g.conv("input", 3, 8, strides=[2, 2]))
    g.op("TopK", flat, g.constant(np.array([5], np.int64)), name="values")
    g.nodes[-1].output.append("places")
    return typed(g.model("values", "places"), places=TensorProto.INT64)


def nonzero() -> onnx.ModelProto:
    g = Graph(SHAPE)
    large = g.op("Greater", g.conv("input", 3, 8), g.constant(np.array(2, "f")))
    return typed(g.model(g.op("NonZero", large, name="where")), where=TensorProto.INT64)


def recurrent(kind: str) -> onnx.ModelProto:
    """A convolution, an LSTM or GRU over its columns, and a product with a matrix."""
    gates, hidden = {"LSTM": 4, "GRU": 3}[kind], 6
    g = Graph(SHAPE)
    x = g.op("Relu", g.conv("input", 3, 8))
    x = g.op("ReduceMean", x, axes=[2], keepdims=0)
    x = g.op("Transpose", x, perm=[2, 0, 1])
    weight = g.constant(g.rng.standard_normal((1, gates * hidden, 8)).astype("f") / 3)
    again = g.constant(g.rng.standard_normal((1, gates * hidden, hidden)).astype("f") / 3)
    x = g.op(kind, x, weight, again, hidden_size=hidden)
    x = g.op("Squeeze", x, g.constant(np.array([1], np.int64)))
    x = g.op("MatMul", x, g.constant(g.rng.standard_normal((hidden, 10)).astype("f")))
    return g.model(g.op("Softmax", x, axis=-1, name="letters"))


def undecided(dtype: str = "float32") -> onnx.ModelProto:
    """An If whose condition depends on the image, with a constant and a tensor from outside in its
    branches, between two convolutions."""
    g = Graph(SHAPE, dtype=dtype)
    x = g.conv("input", 3, 8)
    half = helper.make_tensor("half", g.element, [], [0.5])
    branches = []
    for name, operator in (("then", "Mul"), ("else", "Sub")):
        out = helper.make_tensor_value_info(f"{name}_out", g.element, [1, 8, 12, 12])
        nodes = [
            helper.make_node("Constant", [], [f"{name}_half"], value=half),
            helper.make_node(operator, [x, f"{name}_half"], [out.name]),
        ]
        branches.append(helper.make_graph(nodes, name, [], [out]))
    total = g.op("ReduceSum", x, keepdims=0)
    condition = g.op("Greater", total, g.constant(np.array(0, dtype)))
    x = g.op("If", condition, then_branch=branches[0], else_branch=branches[1])
    return g.model(g.op("Relu", g.conv(x, 8, 8), name="after"))


def loop() -> onnx.ModelProto:
    """Three rounds of state = state / 2 + x, then a sum; nothing knows the shape of the state."""
    g = Graph(SHAPE)
    x = g.conv("input", 3, 8)
    value = helper.make_tensor_value_info
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Mul", ["state", "half"], ["halved"]),
            helper.make_node("Add", ["halved", x], ["next"]),
        ],
        "body",
        [
            value("round", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, None),
        ],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
        [half],
    )
    rounds, go = g.constant(np.array(3, np.int64)), g.constant(np.array(True))
    g.op("Loop", rounds, go, x, name="state", body=body)
    return declared(g.model("state"), "state", [1, 8, "rows", 12])


def cumulated() -> onnx.ModelProto:
    """CumSum between two convolutions."""
    g = Graph(SHAPE)
    x = g.op("CumSum", g.conv("input", 3, 8), g.constant(np.array(3, np.int64)))
    return g.model(g.conv(x, 8, 8))


def of_domain(domain: str, operator: str) -> onnx.ModelProto:
    """An operator of another domain between two convolutions."""
    g = Graph(SHAPE)
    x = g.op(operator, g.conv("input", 3, 8), domain=domain)
    model = g.model(g.op("Relu", g.conv(x, 8, 8), name="after"))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


#: By name: the network, and how many parts it has of each side, compiled first.
NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, int]]] = {
    "NonMaxSuppression": (detector, (1, 1)),
    "TopK": (best, (1, 1)),
    "NonZero": (nonzero, (1, 1)),
    "LSTM": (lambda: recurrent("LSTM"), (2, 1)),
    "GRU": (lambda: recurrent("GRU"), (2, 1)),
    "If": (undecided, (2, 1)),
    "Loop": (loop, (1, 1)),
    "CumSum": (cumulated, (2, 1)),
    "com.microsoft.Gelu": (lambda: of_domain("com.microsoft", "Gelu"), (2, 1)),
}
