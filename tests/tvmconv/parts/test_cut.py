"""Graphs are cut into as few parts as possible, and every part is a model of its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.fallbacks import NETWORKS, SHAPE, of_domain, typed
from tests.support.models import Graph
from tvmconv.onnx.prepare import prepare
from tvmconv.parts.cut import NO_LAYER, Part, cut
from tvmconv.runtime.io_form import IoForm
from tvmconv.runtime.session import open_session


def parts_of(model: onnx.ModelProto) -> tuple[Part, ...]:
    (graph,) = prepare(model, None, None, IoForm()).graphs
    return cut(graph.simple)


def operators(part: Part) -> list[str]:
    return [node.op_type for node in part.model.graph.node]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_node_is_in_one_part_and_every_tensor_is_there_when_it_is_read(name: str) -> None:
    model = NETWORKS[name][0]()
    (graph,) = prepare(model, None, None, IoForm()).graphs
    parts = cut(graph.simple)
    nodes = [node.name for part in parts for node in part.model.graph.node]
    assert sorted(nodes) == sorted(node.name for node in graph.simple.graph.node)
    there = {value.name for value in graph.simple.graph.input}
    for part in parts:
        if part.side == "compiled":
            onnx.checker.check_model(part.model)
        else:  # its results may have no known rank, which the checker does not take
            open_session(part.model)
        read = {value.name for value in part.model.graph.input}
        assert read <= there
        there |= {value.name for value in part.model.graph.output}
        kept = {tensor.name for tensor in part.model.graph.initializer}
        used = {name for node in part.model.graph.node for name in node.input}
        assert kept <= used
    assert {value.name for value in graph.simple.graph.output} <= there
    for before, after in pairwise(parts):
        assert before.side != after.side
    for part in parts:
        told = [one.name for one in part.reasons]
        assert told == ([] if part.side == "compiled" else [n.name for n in part.model.graph.node])


def test_what_constants_decide_is_in_every_part_that_reads_it() -> None:
    """A weight that is dequantised is a constant of the convolution behind onnxruntime as well."""
    g = Graph(SHAPE)
    numbers = g.constant(g.rng.integers(-128, 128, (8, 8, 3, 3), np.int8))
    scale = g.constant(np.array(0.01, "f"))
    weight = g.op("DequantizeLinear", numbers, scale, name="weight")
    x = g.op("Conv", g.conv("input", 3, 8), weight)
    x = g.op("CumSum", x, g.constant(np.array(3, np.int64)))
    parts = parts_of(g.model(g.op("Conv", x, weight)))
    assert [part.side for part in parts] == ["compiled", "onnxruntime", "compiled"]
    assert ["DequantizeLinear" in operators(part) for part in parts] == [True, False, True]
    for part in parts:
        assert "weight" not in {value.name for value in part.model.graph.input}
    assert "DequantizeLinear" not in {one.operator for one in parts[1].reasons}


def test_two_branches_share_their_parts() -> None:
    """Four operators of onnxruntime and five convolutions, but only two changes of side."""
    g = Graph(SHAPE)
    axis = g.constant(np.array(3, np.int64))
    x = g.conv("input", 3, 8)
    sums = [g.op("CumSum", one, axis) for one in (x, g.conv("input", 3, 8))]
    ends = [g.conv(one, 8, 8) for one in sums]
    model = g.model(*ends, g.op("CumSum", "input", axis))
    parts = parts_of(model)
    assert [part.side for part in parts] == ["compiled", "onnxruntime", "compiled"]
    assert [operators(part) for part in parts] == [["Conv"] * 2, ["CumSum"] * 3, ["Conv"] * 2]


def test_the_first_part_may_be_onnxruntimes() -> None:
    g = Graph(SHAPE)
    x = g.op("CumSum", "input", g.constant(np.array(3, np.int64)))
    parts = parts_of(g.model(g.conv(x, 3, 8)))
    assert [part.side for part in parts] == ["onnxruntime", "compiled"]


def test_a_part_without_a_convolution_goes_to_onnxruntime_with_its_neighbours() -> None:
    g = Graph(SHAPE)
    axis = g.constant(np.array(3, np.int64))
    x = g.op("CumSum", g.conv("input", 3, 8), axis)
    x = g.op("CumSum", g.op("Sigmoid", x), axis)
    parts = parts_of(g.model(g.conv(x, 8, 8)))
    assert [operators(part) for part in parts] == [
        ["Conv"],
        ["CumSum", "Sigmoid", "CumSum"],
        ["Conv"],
    ]
    assert [one.reason for one in parts[1].reasons] == [
        "not yet lowered",
        NO_LAYER,
        "not yet lowered",
    ]


def test_what_is_behind_an_open_shape_is_onnxruntimes() -> None:
    g = Graph(SHAPE)
    where = g.op("NonZero", g.op("Relu", g.conv("input", 3, 8)))
    rows = g.op("Cast", g.op("Transpose", where, perm=[1, 0]), to=TensorProto.FLOAT)
    product = g.op("MatMul", rows, g.constant(np.ones((4, 16), "f")), name="product")
    parts = parts_of(g.model(product))
    assert [part.side for part in parts] == ["compiled", "onnxruntime"]
    reasons = {one.operator: one.reason for one in parts[1].reasons}
    assert reasons["MatMul"].startswith("only a run decides the shape of ")


def test_what_has_strings_is_onnxruntimes() -> None:
    g = Graph(SHAPE)
    x = g.conv("input", 3, 8)
    text = g.op("Cast", x, to=TensorProto.STRING)
    back = g.op("Cast", text, to=TensorProto.FLOAT)
    parts = parts_of(g.model(g.conv(back, 8, 8)))
    assert [operators(part) for part in parts] == [["Conv"], ["Cast", "Cast"], ["Conv"]]
    assert all("elements of string" in one.reason for one in parts[1].reasons)


def test_onnxruntime_is_asked_for_shapes_behind_its_own_operators() -> None:
    (graph,) = prepare(of_domain("com.microsoft", "Gelu"), None, None, IoForm()).graphs
    assert graph.outputs[0].shape == (1, 8, 12, 12)
    assert [part.side for part in cut(graph.simple)] == ["compiled", "onnxruntime", "compiled"]


def test_outputs_that_are_inputs_or_constants_and_tensors_read_by_both_sides() -> None:
    g = Graph(SHAPE)
    x = g.conv("input", 3, 8)
    constant = g.constant(np.arange(3, dtype="f"), "constant")
    sums = g.op("CumSum", x, g.constant(np.array(3, np.int64)))
    model = g.model("input", constant, x, g.op("Add", sums, x, name="sum"))
    parts = parts_of(model)
    assert [value.name for value in parts[1].model.graph.output] == ["sum", "constant"]
    assert [value.name for value in parts[0].model.graph.output] == [x]


def test_nothing_to_compile() -> None:
    g = Graph(SHAPE)
    model = typed(g.model(g.op("NonZero", "input", name="where")), where=TensorProto.INT64)
    assert parts_of(model) == ()


def test_names_inside_of_branches_are_none_of_the_graphs() -> None:
    """A tensor in a branch that is called as none outside does not cross."""
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8, 12, 12])
    g = Graph(SHAPE)
    x = g.conv("input", 3, 8)
    branch = [
        helper.make_graph(
            [
                helper.make_node("Neg", [x], ["inner"]),
                helper.make_node(operator, ["inner"], ["out"]),
            ],
            operator,
            [],
            [out],
        )
        for operator in ("Neg", "Abs")
    ]
    condition = g.op("Cast", g.op("ReduceSum", x, keepdims=0), to=TensorProto.BOOL)
    y = g.op("If", condition, then_branch=branch[0], else_branch=branch[1])
    parts = parts_of(g.model(g.conv(y, 8, 8)))
    (theirs,) = (part for part in parts if part.side == "onnxruntime")
    crossing = {value.name for value in theirs.model.graph.input}
    assert x in crossing
    assert "inner" not in crossing
