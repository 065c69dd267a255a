"""Batch norms and per-channel chains become one multiply and one add, with the numbers they had."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm

from tests.support import graphs
from tests.support.models import Graph
from tvmconv.passes.simplify.scale_and_shift import scale_and_shift

C = 8
ARITHMETIC = {"add", "subtract", "multiply", "divide", "nn.batch_norm"}


def rewritten(model: onnx.ModelProto) -> tvm.IRModule:
    return scale_and_shift()(graphs.imported(model, simplified=False))


def arithmetic(mod: tvm.IRModule) -> dict[str, int]:
    return {name: n for name, n in graphs.counts(mod).items() if name in ARITHMETIC}


def norm(g: Graph, x: str, channels: int = C, epsilon: float = 1e-5) -> str:
    gamma, beta, mean = (g.constant(g.rng.standard_normal(channels, "f")) for _ in range(3))
    variance = g.constant(g.rng.uniform(1e-6, 2, channels).astype("f"))
    return g.op("BatchNormalization", x, gamma, beta, mean, variance, epsilon=epsilon)


def channels(g: Graph, shape: tuple[int, ...] = (C, 1, 1)) -> str:
    return g.constant(g.rng.uniform(0.5, 2, shape).astype("f"))


@pytest.mark.parametrize("shape", [(2, C), (2, C, 5), (2, C, 5, 3), (1, C, 2, 3, 4)])
def test_a_batch_norm(shape: tuple[int, ...]) -> None:
    g = Graph(shape)
    model = g.model(g.op("Relu", norm(g, "input")))
    mod = rewritten(model)
    assert arithmetic(mod) == {"multiply": 1, "add": 1}
    graphs.same(mod, model)


def test_a_batch_norm_with_a_tiny_variance_is_computed_in_float64() -> None:
    g = Graph([1, C, 3, 3])
    values = [np.full(C, value, "f") for value in (3.0, -1.0, 1e3, 1e-12)]
    parameters = [g.constant(value) for value in values]
    model = g.model(g.op("BatchNormalization", "input", *parameters, epsilon=1e-9))
    scale, _ = (b.value.args[1].value.numpy() for b in graphs.graph.bindings(rewritten(model)))
    epsilon = float(np.float32(1e-9))
    exact = 3.0 / np.sqrt(np.float64(np.float32(1e-12)) + epsilon)
    np.testing.assert_array_equal(scale.reshape(-1), np.full(C, exact).astype("f"))


def test_a_long_chain_is_one_multiply_and_one_add() -> None:
    g = Graph([2, C, 4, 3])
    x = g.op("Mul", norm(g, "input"), channels(g))
    x = g.op("Sub", g.constant(np.array(2.5, "f")), g.op("Div", x, channels(g)))
    model = g.model(norm(g, g.op("Add", channels(g), g.op("Sub", x, channels(g, (1, C, 1, 1))))))
    mod = rewritten(model)
    assert arithmetic(mod) == {"multiply": 1, "add": 1}
    graphs.same(mod, model)


def test_what_changes_nothing_goes() -> None:
    g = Graph([1, C, 2, 2])
    x = g.op("Mul", g.op("Add", "input", g.constant(np.zeros((C, 1, 1), "f"))), channels(g))
    one = g.op("Div", "input", g.constant(np.ones((1, C, 1, 1), "f")))
    mod = rewritten(g.model(x, g.op("Relu", one)))
    assert arithmetic(mod) == {"multiply": 1}


def test_what_somebody_else_reads_stays() -> None:
    g = Graph([1, C, 3, 3])
    x = g.op("Mul", "input", channels(g))
    y = g.op("Add", x, channels(g))
    model = g.model(x, g.op("Relu", g.op("Mul", y, channels(g))))
    mod = rewritten(model)
    assert arithmetic(mod) == {"multiply": 2, "add": 1}
    graphs.same(mod, model)


@pytest.mark.parametrize("shape", [(C, 3, 1), (3, 3), (1, C, 3, 3)])
def test_declined_constants_that_are_not_per_channel(shape: tuple[int, ...]) -> None:
    g = Graph([1, C, 3, 3])
    constants = [g.constant(g.rng.standard_normal(shape, "f")) for _ in range(2)]
    model = g.model(g.op("Sub", g.op("Mul", "input", constants[0]), constants[1]))
    mod = rewritten(model)
    assert arithmetic(mod) == {"multiply": 1, "subtract": 1}
    graphs.same(mod, model)


def test_declined_channels_of_two_axes() -> None:
    g = Graph([1, C, 3, 5])
    columns = g.constant(g.rng.standard_normal(5, "f"))
    model = g.model(g.op("Mul", g.op("Mul", "input", channels(g)), columns))
    mod = rewritten(model)
    assert arithmetic(mod) == {"multiply": 2}
    graphs.same(mod, model)


def test_declined_a_constant_that_makes_the_tensor_larger() -> None:
    g = Graph([1, 1, 3, 3])
    model = g.model(g.op("Sub", g.op("Mul", "input", channels(g)), channels(g)))
    mod = rewritten(model)
    assert arithmetic(mod) == {"multiply": 1, "add": 1}  # only the Sub is of one shape throughout
    graphs.same(mod, model)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_declined_factors_whose_product_is_no_number_of_the_dtype(factor: float) -> None:
    g = Graph([1, C, 3, 3])
    twice = [g.constant(np.full((C, 1, 1), factor, "f")) for _ in range(2)]
    model = g.model(g.op("Mul", g.op("Mul", "input", twice[0]), twice[1]))
    mod = rewritten(model)
    assert arithmetic(mod) == {"multiply": 2}
    x = np.full((1, C, 3, 3), 1 / factor, "f")
    np.testing.assert_allclose(graphs.run(mod, x)[0], graphs.expected(model, x)[0], rtol=1e-6)


def test_declined_division_by_zero_and_integers() -> None:
    g = Graph([1, C, 3, 3])
    zero = np.ones((C, 1, 1), "f")
    zero[3] = 0
    model = g.model(g.op("Div", "input", g.constant(zero)))
    assert arithmetic(rewritten(model)) == {"divide": 1}
    g = Graph([1, C, 3, 3], dtype="int64")
    model = g.model(g.op("Div", "input", g.constant(np.full((C, 1, 1), 3, "int64"))))
    assert arithmetic(rewritten(model)) == {"divide": 1}


def test_batch_norms_before_convolutions_cost_no_transposes() -> None:
    g = Graph([1, C, 9, 9])
    x = g.op("MaxPool", "input", kernel_shape=[2, 2])
    for _ in range(2):
        y = g.conv(g.op("Relu", norm(g, x)), C, C)
        x = g.op("Concat", x, y, axis=1)
        x = g.conv(g.op("Relu", norm(g, x, 2 * C)), 2 * C, C, 1)
    model = g.model(g.op("GlobalAveragePool", x))
    mod = graphs.tidied(model)
    assert graphs.counts(mod)["permute_dims"] == 1  # of the input
    graphs.same(mod, model)
    graphs.right(model)
