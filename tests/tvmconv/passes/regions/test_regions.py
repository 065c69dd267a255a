"""What belongs to which convolution, and matrix products that are convolutions of one pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import graphs
from tests.support.models import Array, Graph


def matrix(g: Graph, rows: int, columns: int) -> str:
    return g.constant((g.rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype("f"))


# ---------------------------------------------------------------- convolutions


def test_a_residual_between_two_convolutions_ends_one_of_them() -> None:
    g = Graph([1, 8, 6, 6])
    a, b = g.conv("input", 8, 16, name="a"), g.conv("input", 8, 16, 1, name="b")
    result = graphs.became(g.model(g.conv(g.op("Relu", g.op("Add", a, b)), 16, 8, name="c")))
    assert sorted(result.epilogues.values()) == ["bias", "bias", "bias + residual + relu"]
    assert not result.left


def test_three_convolutions_summed() -> None:
    """The first sum is one's residual; the second is of a sum that has one, and another's."""
    g = Graph([1, 8, 6, 6])
    a, b, c = (g.conv("input", 8, 16, r, name=n) for r, n in ((3, "a"), (1, "b"), (5, "c")))
    result = graphs.became(g.model(g.op("Relu", g.op("Add", g.op("Add", a, b), c))))
    assert sorted(result.epilogues.values()) == [
        "bias",
        "bias + residual",
        "bias + residual + relu",
    ]
    assert not result.left


def test_a_value_that_is_read_twice_ends_its_region() -> None:
    g = Graph([1, 8, 6, 6])
    x = g.conv("input", 8, 8, name="one")
    y = g.conv(g.op("Relu", x), 8, 8, name="two")
    result = graphs.became(g.model(g.op("Add", x, y)))
    assert result.epilogues == {"one": "bias", "two": "bias + residual"}
    assert result.left == {"nn.relu": 1}


def test_an_output_in_the_middle_ends_its_region() -> None:
    g = Graph([1, 8, 6, 6])
    x = g.conv("input", 8, 8, name="one")
    y = g.op("Relu", x)
    result = graphs.became(g.model(x, y, g.conv(y, 8, 8, name="two")))
    assert result.epilogues == {"one": "bias", "two": "bias"}


def test_an_output_at_the_end_of_a_region_and_read_on() -> None:
    g = Graph([1, 8, 6, 6])
    x = g.op("Relu", g.conv("input", 8, 8, name="one"))
    result = graphs.became(g.model(x, g.conv(x, 8, 8, name="two")))
    assert result.epilogues == {"one": "bias + relu", "two": "bias"}


def test_declined_computed_weights() -> None:
    g = Graph([1, 8, 6, 6])
    weight = g.op("Mul", g.op("ReduceMean", "input", keepdims=0), g.constant(
        (g.rng.standard_normal((8, 8, 3, 3)) / 8).astype("f")))  # fmt: skip
    result = graphs.became(g.model(g.op("Relu", g.op("Conv", "input", weight))))
    assert [conv.family for conv in result.report.convs] == ["TVM"]


# ---------------------------------------------------------------- matrix products


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"transB": 1},
        {"transA": 1},
        {"transA": 1, "transB": 1},
        {"alpha": 0.5, "beta": 2.0},
        {"alpha": -1.5, "beta": 0.25, "transB": 1},
        {"alpha": 2.0, "transA": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_gemm(attributes: dict[str, Any], bias: bool) -> None:
    g = Graph([24, 5] if attributes.get("transA") else [5, 24])
    weight = matrix(g, 24, 10)
    if attributes.get("transB"):
        weight = g.constant((g.rng.standard_normal((10, 24)) / 5).astype("f"))
    inputs = ["input", weight] + [g.constant(g.rng.standard_normal(10).astype("f"))] * bias
    model = g.model(g.op("Relu", g.op("Gemm", *inputs, name="product", **attributes)))
    result = graphs.became(model)
    (product,) = result.report.convs
    assert (product.name, product.operator) == ("product", "Gemm")
    assert product.family == "wmma_nhwc"
    assert product.epilogue == ("bias + relu" if bias else "relu")
    assert product.useful_macs == 5 * 24 * 10


@pytest.mark.parametrize(
    ("shape", "bias"), [((5, 1), False), ((1, 10), True), ((5, 10), False), ((1,), True)]
)
def test_gemm_with_another_c(shape: tuple[int, ...], bias: bool) -> None:
    """C by row or by element is no bias."""
    g = Graph([5, 24])
    c = g.constant(g.rng.standard_normal(shape).astype("f"))
    result = graphs.became(g.model(g.op("Gemm", "input", matrix(g, 24, 10), c, name="product")))
    assert result.epilogues["product"] == ("bias" if bias else "none")


@pytest.mark.parametrize("shape", [(3, 24), (2, 3, 24), (2, 3, 4, 24), (1, 1, 24)])
def test_matmul(shape: tuple[int, ...]) -> None:
    g = Graph(shape)
    result = graphs.became(g.model(g.op("MatMul", "input", matrix(g, 24, 20), name="product")))
    (product,) = result.report.convs
    assert (product.name, product.operator, product.family) == ("product", "MatMul", "wmma_nhwc")
    assert product.useful_macs == np.prod(shape) * 20


def test_matmuls_in_a_row_with_gelu_and_residual() -> None:
    """As a transformer's two layers."""
    g = Graph([2, 7, 16])
    x = g.op("MatMul", "input", matrix(g, 16, 32))
    x = g.op("Add", x, g.constant(g.rng.standard_normal(32).astype("f")))
    x = g.op("Mul", x, g.op("Sigmoid", x))
    x = g.op("MatMul", x, matrix(g, 32, 16))
    result = graphs.became(g.model(g.op("Add", x, g.op("Tanh", "input"))))
    assert list(result.epilogues.values()) == ["bias + silu", "residual"]
    assert result.left == {"tanh": 1}


def test_two_products_that_share_a_matrix_keep_their_names() -> None:
    g = Graph([3, 16])
    shared = matrix(g, 16, 16)
    x = g.op("Relu", g.op("MatMul", "input", shared, name="first"))
    y = g.op("Tanh", g.op("MatMul", x, shared, name="second"))
    result = graphs.became(g.model(y))
    assert result.epilogues == {"first": "relu", "second": "tanh"}


def test_a_classifier_after_pooling() -> None:
    g = Graph([2, 8, 6, 6])
    x = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", g.conv("input", 8, 16))))
    result = graphs.became(g.model(g.op("Softmax", g.op("Gemm", x, matrix(g, 16, 10)))))
    assert [conv.operator for conv in result.report.convs] == ["Conv", "Gemm"]


DECLINED: dict[str, Any] = {
    "of two computed matrices": lambda g: g.op(
        "MatMul", "input", g.op("Transpose", g.op("Tanh", "input"), perm=[0, 2, 1])
    ),
    "of a stack of matrices": lambda g: g.op(
        "MatMul", "input", g.constant(_normal(g, 2, 24, 20))
    ),
    "with the constant first": lambda g: g.op("MatMul", g.constant(_normal(g, 6, 5)), "input"),
    "with a vector": lambda g: g.op("MatMul", "input", g.constant(_normal(g, 24))),
}  # fmt: skip


def _normal(g: Graph, *shape: int) -> Array:
    return (g.rng.standard_normal(shape) / 5).astype("f")


@pytest.mark.parametrize("name", DECLINED)
def test_declined_products(name: str) -> None:
    g = Graph([2, 5, 24])
    result = graphs.became(g.model(g.op("Relu", DECLINED[name](g))))
    assert [conv.family for conv in result.report.convs] == ["TVM"]
