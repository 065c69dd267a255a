"""What is folded away before the network reaches Relax, and what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support import graphs
from tests.support.models import Graph
from tvmconv import errors
from tvmconv.onnx import frontend
from tvmconv.onnx import model as onnx_model

MIB = 1 << 20


def simple(model: onnx.ModelProto) -> onnx.ModelProto:
    return frontend.simplify(frontend.widen(onnx_model.fix_shapes(onnx_model.read(model))))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in simple(model).graph.node]


def numbers(g: Graph, *values: int) -> str:
    return g.constant(np.array(values, "int64"))


def test_identities_and_dropout_go() -> None:
    g = Graph([2, 3, 4, 4])
    x = g.op("Dropout", g.op("Identity", "input"), g.constant(np.array(0.5, "f")))
    weight = g.op("Identity", g.constant(g.rng.standard_normal((3, 1, 1), "f")))
    weight = g.op("Dropout", weight)
    model = g.model(g.op("Relu", g.op("Mul", x, weight)))
    mod = graphs.tidied(model)
    assert graphs.counts(mod) == {"multiply": 1, "nn.relu": 1}
    graphs.same(mod, model)


def test_an_identity_that_is_the_whole_network_stays_and_builds() -> None:
    g = Graph([2, 3])
    built = tvmconv.build(g.model(g.op("Identity", "input")), target="llvm")
    x = np.ones((2, 3), "f")
    np.testing.assert_array_equal(built(x), x)


def flattened(g: Graph, x: str) -> str:
    """A reshape to (batch, -1), its batch read out of the shape, as PyTorch exports view()."""
    batch = g.op("Gather", g.op("Shape", x), g.constant(np.array(0, "int64")), axis=0)
    batch = g.op("Unsqueeze", batch, numbers(g, 0))
    return g.op("Reshape", x, g.op("Concat", batch, numbers(g, -1), axis=0))


def doubled(g: Graph, x: str) -> str:
    """A resize to twice the rows and columns, computed from a slice of the shape."""
    size = g.op("Slice", g.op("Shape", x), numbers(g, 2), numbers(g, 4))
    size = g.op("Mul", size, numbers(g, 2))
    first = g.op("Slice", g.op("Shape", x), numbers(g, 0), numbers(g, 2))
    sizes = g.op("Concat", first, size, axis=0)
    mode: dict[str, Any] = {
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return g.op("Resize", x, "", "", sizes, mode="nearest", **mode)


@pytest.mark.parametrize(("arithmetic", "left"), [(flattened, "Reshape"), (doubled, "Resize")])
def test_shape_arithmetic_is_folded(arithmetic: Any, left: str) -> None:
    g = Graph([2, 3, 4, 5])
    model = g.model(g.op("Relu", arithmetic(g, "input")))
    assert operators(model) == [left, "Relu"]
    graphs.same(graphs.tidied(model), model)


def test_arithmetic_on_numbers_of_the_input_is_not_folded() -> None:
    g = Graph([2, 3, 4, 5])
    x = g.op("Mul", "input", g.op("ReduceMax", "input", keepdims=0))
    model = g.model(flattened(g, x))
    assert operators(model) == ["ReduceMax", "Mul", "Reshape"]
    graphs.same(graphs.tidied(model), model)


# --- constants that would grow -------------------------------------------------------------------
def expanded(g: Graph, rows: int) -> str:
    return g.op("Expand", g.constant(np.full((1, 1), 2, "f")), numbers(g, rows, 256))


def tiled(g: Graph, rows: int) -> str:
    return g.op("Tile", g.constant(np.full((1, 256), 2, "f")), numbers(g, rows, 1))


def filled(g: Graph, rows: int) -> str:
    value = onnx.numpy_helper.from_array(np.array([2], "f"))
    return g.op("ConstantOfShape", numbers(g, rows, 256), value=value)


def product(g: Graph, rows: int) -> str:
    return g.op("MatMul", *(g.constant(np.full(s, 2, "f")) for s in [(rows, 1), (1, 256)]))


@pytest.mark.parametrize("grown", [expanded, tiled, filled, product])
def test_constants_are_folded_up_to_a_size(grown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def model(rows: int) -> onnx.ModelProto:
        g = Graph([1, 256])
        return g.model(g.op("ReduceMax", g.op("Add", "input", grown(g, rows)), keepdims=0))

    assert operators(model(64)) == ["Add", "ReduceMax"]
    # A gigabyte is not even tried.
    large = simple(model(MIB))
    assert [node.op_type for node in large.graph.node] != ["Add", "ReduceMax"]
    assert large.ByteSize() < 16 * MIB
    # What is not folded is computed, and right.
    monkeypatch.setattr(frontend, "FOLDED_BYTES", 1024)
    monkeypatch.setattr(frontend, "FOLDED_GROWTH", 1)
    assert operators(model(64)) != ["Add", "ReduceMax"]
    graphs.same(graphs.tidied(model(64)), model(64))


def test_large_weights_may_be_transposed_and_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "FOLDED_BYTES", 1024)
    g = Graph([2, 64])
    weight = g.constant(g.rng.integers(-128, 128, (64, 64), "int8"))
    weight = g.op("Cast", weight, to=onnx.TensorProto.FLOAT)
    weight = g.op("Mul", weight, g.constant(np.array(0.01, "f")))
    model = g.model(g.op("MatMul", "input", g.op("Transpose", weight, perm=[1, 0])))
    assert operators(model) == ["MatMul"]


def ranged(length: int, as_nodes: bool = False) -> onnx.ModelProto:
    g = Graph([1, 1])
    bounds = []
    for value in (0, length, 1):
        tensor = np.array(value, "int64")
        if as_nodes:
            bounds.append(g.op("Constant", value=onnx.numpy_helper.from_array(tensor)))
        else:
            bounds.append(g.constant(tensor))
    count = g.op("Cast", g.op("Range", *bounds, name="count"), to=onnx.TensorProto.FLOAT)
    return g.model(g.op("ReduceMax", g.op("Add", "input", count), keepdims=0))


def test_a_range_is_folded() -> None:
    assert operators(ranged(1000)) == ["Add", "ReduceMax"]
    graphs.same(graphs.tidied(ranged(1000)), ranged(1000))


@pytest.mark.parametrize("as_nodes", [False, True])
def test_a_range_that_does_not_end_is_refused_by_name(as_nodes: bool) -> None:
    with pytest.raises(errors.ModelError, match="'count' counts 1000000000000") as error:
        tvmconv.build(ranged(10**12, as_nodes), target="llvm")
    assert error.value.note
    assert error.value.hint


def test_nodes_that_onnxruntime_makes_have_names() -> None:
    """Of a HardSwish it makes two without a name, beside one that has the name they would get."""
    g = Graph([1, 8, 4, 4])
    x = g.op("HardSwish", g.op("Mul", "input", "input", name="Mul_2"))
    x = g.op("HardSwish", g.conv(x, 8, 8))
    nodes = frontend.simplify(onnx_model.fix_shapes(onnx_model.read(g.model(x)))).graph.node
    names = [node.name for node in nodes]
    assert all(names)
    assert len(set(names)) == len(names)
    assert "Mul_2" in names
