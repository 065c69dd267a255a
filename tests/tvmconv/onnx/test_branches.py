"""An If whose condition constants or shapes decide is the branch that is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmconv
from tests.support.checks import DIRECT, refused
from tests.support.models import Array, Graph

Nodes = list[tuple[str, list[str], str, dict[str, Any]]]


def branch(nodes: Nodes, output: str, *constants: tuple[str, Array]) -> onnx.GraphProto:
    made = [helper.make_node(op, given, [out], **how) for op, given, out, how in nodes]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(array, name) for name, array in constants]
    return helper.make_graph(made, "branch", [], [result], initializers)


def choose(g: Graph, condition: str, then: onnx.GraphProto, other: onnx.GraphProto) -> str:
    return g.op("If", condition, then_branch=then, else_branch=other)


def size_is(g: Graph, x: str, axis: int, size: int) -> str:
    """What torch exports to ask whether x.shape[axis] == size."""
    found = g.op("Gather", g.op("Shape", x), g.constant(np.array(axis)))
    return g.op("Equal", found, g.constant(np.array(size)))


#: The inner results of all branches have the same name, as torch gives them.
TWICE = branch([("Add", ["x", "x"], "t", {})], "t")
SELF = branch([("Identity", ["x"], "t", {})], "t")


def squeezed(g: Graph, condition: str) -> str:
    """x without its dimension of 1, or x."""
    then = branch([("Squeeze", ["x", "axes"], "t", {})], "t", ("axes", np.array([1])))
    return choose(g, condition, then, SELF)


def nested(g: Graph) -> str:
    """The outer is decided, then the inner, whose branch reads a constant of the outer's."""
    inner = branch([("Mul", ["x", "two"], "t", {})], "t", ("two", np.array(2, "f")))
    inside = helper.make_node("If", ["yes"], ["t"], then_branch=inner, else_branch=SELF)
    outer = branch([], "t", ("yes", np.array(True)))
    outer.node.append(inside)
    return choose(g, size_is(g, "x", 1, 1), outer, SELF)


CASES: dict[str, tuple[Callable[[Graph], str], Callable[[Array], Array]]] = {
    "a constant": (lambda g: squeezed(g, g.constant(np.array(True))), lambda x: x[:, 0]),
    "a constant, the other branch": (
        lambda g: squeezed(g, g.constant(np.array([False]))),
        lambda x: x,
    ),
    "a shape": (lambda g: squeezed(g, size_is(g, "x", 1, 1)), lambda x: x[:, 0]),
    "a shape, negated": (
        lambda g: squeezed(g, g.op("Not", size_is(g, "x", 1, 1))),
        lambda x: x,
    ),
    "the number of elements": (
        lambda g: choose(g, g.op("Less", g.op("Size", "x"), g.constant(np.array(51))), TWICE, SELF),
        lambda x: 2 * x,
    ),
    "one in another": (nested, lambda x: 2 * x),
    "an operator that is written out": (
        lambda g: choose(g, size_is(g, "x", 0, 2), branch([("Celu", ["x"], "t", {})], "t"), SELF),
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    ),
}


def network(make: Callable[[Graph], str], shape: list[Any] | None = None) -> onnx.ModelProto:
    g = Graph(shape or [2, 8, 5, 5])
    g.nodes.append(helper.make_node("ReduceMean", ["input"], ["x"], "x", axes=[1], keepdims=1))
    return g.model(make(g))


@pytest.mark.parametrize("name", CASES)
def test_the_branch_that_is_taken(name: str) -> None:
    """Though the network does not name its output's shape."""
    make, want = CASES[name]
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 5)).astype("f")
    exe = tvmconv.build(network(make), target="llvm")
    right = want(x.mean(1, keepdims=True))
    (got,) = exe.run({"input": x}).values()
    assert exe.outputs[0].shape == got.shape == right.shape
    np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-6)
    assert "If" not in str(exe.report)


def test_two_of_them_in_a_row_between_convolutions() -> None:
    g = Graph(["n", 4, 6, 6])
    x = g.conv("input", 4, 8)
    for size in (8, 7):
        inner = branch([("Relu", [x], "t", {})], "t")
        other = branch([("Sigmoid", [x], "t", {})], "t")
        x = choose(g, size_is(g, x, 1, size), inner, other)
    model = g.model(g.conv(x, 8, 8))
    exe = tvmconv.build(model, target="llvm", batch=2, families=DIRECT)
    assert tvmconv.compare(model, exe).relative_l2 <= 5e-3


def test_what_branches_alone_read_of_a_quantised_network() -> None:
    """Numbers that are dequantised, and weights that are."""
    g = Graph([1, 8, 6, 6])
    scale, zero = g.constant(np.array(0.05, "f")), g.constant(np.array(0, np.int8))
    x = g.op("DequantizeLinear", g.op("QuantizeLinear", "input", scale, zero), scale, zero)
    numbers = np.random.default_rng(2).integers(-9, 9, (8, 8, 1, 1)).astype(np.int8)
    w = g.op("DequantizeLinear", g.constant(numbers), scale, zero)
    inner = branch([("Conv", [x, w], "t", {})], "t")
    other = branch([("Identity", [x], "t", {})], "t")
    model = g.model(choose(g, size_is(g, "input", 1, 8), inner, other))
    exe = tvmconv.build(model, target="llvm", families=("wmma_nhwc", "direct"))
    assert tvmconv.compare(model, exe).relative_l2 <= 5e-3
    assert exe.report.convs[0].floats_because == ""


def test_a_batch_decides() -> None:
    """Each bucket by itself."""
    make = lambda g: choose(g, size_is(g, "x", 0, 1), TWICE, TWICE)  # noqa: E731
    exe = tvmconv.build(network(make, ["n", 8, 5, 5]), target="llvm", batch=[1, 2])
    x = np.ones((3, 8, 5, 5), "f")
    np.testing.assert_allclose(exe(x), np.full((3, 1, 5, 5), 2), rtol=1e-6)


@pytest.mark.parametrize("shape", [None, [2, 1, 5, 5]])
def test_what_a_value_decides_is_refused_by_name(shape: list[int] | None) -> None:
    g = Graph([2, 8, 5, 5])
    g.nodes.append(helper.make_node("Relu", ["input"], ["x"], "x"))
    total = g.op("ReduceSum", "x", keepdims=0)
    model = g.model(choose(g, g.op("Cast", total, to=TensorProto.BOOL), TWICE, SELF))
    if shape:
        value = helper.make_tensor_value_info(model.graph.output[0].name, 1, [2, 8, 5, 5])
        model.graph.output[0].CopyFrom(value)
    refused(model, "If x1")
    assert tvmconv.inspect(model, target="llvm").unsupported == {"If": 1}


def test_a_condition_of_several_numbers_is_refused() -> None:
    model = network(lambda g: squeezed(g, g.constant(np.array([True, True]))))
    with pytest.raises(tvmconv.errors.ModelError) as error:
        tvmconv.build(model, target="llvm")
    assert error.value.hint
