"""Tensors without elements: left out of a Concat, refused by name where they are data."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import tvmconv
from tests.support.checks import DIRECT, all_right, refused
from tests.support.models import Graph


def nothing(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, "f")


def of_constants(axis: int, *shapes: tuple[int, ...], first: bool = False) -> onnx.ModelProto:
    """A convolution's result of shape (1, 8, 9, 7) beside empty constants."""
    g = Graph([1, 8, 9, 7])
    x, constants = g.conv("input", 8, 8), [g.constant(nothing(shape)) for shape in shapes]
    operands = [*constants, x] if first else [x, *constants]
    return g.model(g.op("Relu", g.op("Concat", *operands, axis=axis)))


def of_a_computed_pad() -> onnx.ModelProto:
    """Rows of zeros are added up to a height of 9, which there are."""
    g = Graph([1, 8, 9, 7])
    x = g.conv("input", 8, 8)
    height = g.op("Gather", g.op("Shape", x), g.constant(np.array(2)))
    missing = g.op("Sub", g.constant(np.array(9)), height)
    sizes = [g.constant(np.array([size])) for size in (1, 8, 7)]
    rows = g.op("Unsqueeze", missing, g.constant(np.array([0])))
    shape = g.op("Concat", sizes[0], sizes[1], rows, sizes[2], axis=0)
    return g.model(g.op("Concat", x, g.op("ConstantOfShape", shape), axis=2))


def of_a_slice_of_nothing() -> onnx.ModelProto:
    """No constant, but without elements all the same."""
    g = Graph([1, 8, 9, 7])
    x = g.conv("input", 8, 8)
    bounds = [g.constant(np.array([one])) for one in (9, 99, 2)]
    return g.model(g.conv(g.op("Concat", x, g.op("Slice", "input", *bounds), axis=2), 8, 8))


def test_a_concat_leaves_them_out() -> None:
    models = {
        "channels": of_constants(1, (1, 0, 9, 7)),
        "columns, before": of_constants(3, (1, 8, 9, 0), first=True),
        "two of them": of_constants(-3, (1, 0, 9, 7), (1, 0, 9, 7)),
        "a computed pad": of_a_computed_pad(),
        "a slice of nothing": of_a_slice_of_nothing(),
    }
    all_right(models, families=DIRECT)


def test_the_rest_of_the_concat_stays() -> None:
    g = Graph([1, 8, 9, 7])
    x, y = g.conv("input", 8, 8), g.op("Relu", "input")
    all_right({"three": g.model(g.op("Concat", x, g.constant(nothing((1, 0, 9, 7))), y, axis=1))})


def test_such_a_network_is_scheduled_for_cuda() -> None:
    report = tvmconv.inspect(of_constants(1, (1, 0, 9, 7)), arch="sm_90a")
    assert report.buildable
    assert not report.unsupported


@pytest.mark.parametrize("operator", ["Concat", "Relu", "Add"])
def test_data_without_elements_is_refused(operator: str) -> None:
    g = Graph([2, 3])
    empty = g.constant(nothing((2, 0)))
    given = {
        "Concat": lambda: g.op("Concat", empty, empty, axis=1),
        "Relu": lambda: g.op("Concat", g.op("Relu", empty), empty, axis=1),
        "Add": lambda: g.op("Add", empty, g.op("Slice", "input", *bounds(g))),
    }[operator]()
    refused(g.model(given, g.op("Neg", "input")), "without elements")


def bounds(g: Graph) -> list[str]:
    return [g.constant(np.array([one])) for one in (3, 9, 1)]


def test_lists_of_nothing_are_values_like_others() -> None:
    """No axes, no sizes: of a tensor without dimensions."""
    g = Graph([2, 3])
    total = g.op("ReduceSum", "input", keepdims=0)
    none = g.constant(np.zeros(0, np.int64))
    y = g.op("Unsqueeze", g.op("Reshape", total, none), g.constant(np.array([0])))
    model = g.model(y)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    all_right({"": model})
