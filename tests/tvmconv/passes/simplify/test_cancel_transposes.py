"""Transposes meet and go; those that are needed stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

from tests.support import graphs
from tests.support.models import Graph
from tvmconv.passes.simplify.axis_orders import compose, inverse, moves
from tvmconv.passes.simplify.cancel_transposes import cancel_transposes

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
NHWC = (2, 4, 5, 3)


def turned(g: Graph, x: str, axes: list[int]) -> str:
    return g.op("Transpose", x, perm=axes)


def cancelled(model: onnx.ModelProto, left: int) -> tvm.IRModule:
    """The module after the pass, which leaves so many transposes and the same numbers."""
    mod = cancel_transposes()(graphs.imported(model, simplified=False))
    assert graphs.counts(mod)["permute_dims"] == left, mod.script(show_meta=False)
    graphs.same(mod, model)
    return mod


def test_arithmetic_of_axes() -> None:
    x = np.arange(24).reshape(2, 3, 4, 1)
    a, b = (0, 3, 1, 2), (2, 0, 1, 3)
    twice = x.transpose(a).transpose(b)
    np.testing.assert_array_equal(twice, x.transpose(compose(a, b)))
    np.testing.assert_array_equal(x.transpose(a).transpose(inverse(a)), x)
    assert moves((2, 3, 4, 1), b)
    assert not moves((2, 1, 1, 4), (0, 3, 1, 2))


def test_a_pair_goes_and_three_become_one() -> None:
    g = Graph(NHWC)
    x = turned(g, turned(g, "input", TO_NCHW), TO_NHWC)
    cancelled(g.model(g.op("Relu", x)), 0)
    g = Graph(NHWC)
    x = turned(g, turned(g, turned(g, "input", TO_NCHW), [1, 0, 2, 3]), [2, 3, 1, 0])
    cancelled(g.model(g.op("Relu", x)), 1)


def test_the_networks_output_may_be_its_input() -> None:
    g = Graph(NHWC)
    mod = cancelled(g.model(turned(g, turned(g, "input", TO_NCHW), TO_NHWC)), 0)
    assert not graphs.counts(mod)


def elementwise(g: Graph, x: str) -> str:
    return g.op("Mul", g.op("Sigmoid", g.op("LeakyRelu", x, alpha=0.2)), g.op("Erf", x))


def broadcast(g: Graph, x: str) -> str:
    small = g.constant(g.rng.standard_normal((3, 1, 1), "f"))
    image = g.constant(g.rng.standard_normal((1, 1, 4, 5), "f"))
    return g.op("Max", g.op("Sub", small, x), g.op("Add", image, g.constant(np.array(2, "f"))))


def joined(g: Graph, x: str) -> str:
    return g.op("Concat", x, g.op("Tanh", x), axis=-3)


def normalised(g: Graph, x: str) -> str:
    return g.op("Softmax", x, axis=1)


def reduced(g: Graph, x: str) -> str:
    return g.op("Sub", x, g.op("ReduceMean", x, axes=[1, -1], keepdims=1))


def sloped(g: Graph, x: str) -> str:
    return g.op("PRelu", x, g.constant(g.rng.standard_normal((3, 1, 1), "f")))


BETWEEN = [elementwise, broadcast, joined, normalised, reduced, sloped]


@pytest.mark.parametrize("between", BETWEEN)
def test_a_pair_around_operators_goes(between: Any) -> None:
    g = Graph(NHWC)
    x = between(g, turned(g, "input", TO_NCHW))
    cancelled(g.model(g.op("Relu", turned(g, x, TO_NHWC))), 0)


def test_a_pair_around_a_pad_goes() -> None:
    x = relax.Var("x", relax.TensorType(NHWC, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x], attrs={"num_input": 1}):
        with builder.dataflow():
            y = builder.emit(relax.op.permute_dims(x, TO_NCHW))
            y = builder.emit(relax.op.nn.pad(y, [0, 0, 1, 2, 3, 4, 5, 6], "constant", 1.5))
            y = builder.emit_output(relax.op.permute_dims(y, TO_NHWC))
        builder.emit_func_output(y)
    mod = cancel_transposes()(builder.get())
    assert graphs.counts(mod) == {"nn.pad": 1}
    values = np.random.default_rng(0).standard_normal(NHWC).astype("f")
    padded = np.pad(values, [(0, 0), (3, 4), (5, 6), (1, 2)], constant_values=1.5)
    np.testing.assert_array_equal(graphs.run(mod, values)[0], padded)


def test_branches_that_all_are_transposed_are_transposed_once_joined() -> None:
    g = Graph(NHWC)
    branches = [turned(g, g.op(kind, "input"), TO_NCHW) for kind in ("Relu", "Tanh", "Sigmoid")]
    cancelled(g.model(g.op("Concat", *branches, axis=1)), 1)


def test_of_axes_of_one_element_a_reshape_is_made() -> None:
    g = Graph([2, 1, 1, 6])
    mod = cancelled(g.model(g.op("Flatten", turned(g, "input", TO_NCHW))), 0)
    assert graphs.counts(mod) == {"reshape": 1}


def test_reshapes_of_reshapes_and_to_the_same_shape() -> None:
    g = Graph([2, 3, 4])
    x = "input"
    for shape in ([2, 3, 4], [6, 4], [24], [4, 6]):
        x = g.op("Reshape", x, g.constant(np.array(shape)))
    mod = cancelled(g.model(g.op("Relu", x)), 0)
    assert graphs.counts(mod) == {"reshape": 1, "nn.relu": 1}


def test_declined_one_transpose_is_needed_wherever_it_is() -> None:
    g = Graph(NHWC)
    cancelled(g.model(g.op("Flatten", g.op("Relu", turned(g, "input", TO_NCHW)))), 1)


def test_declined_a_reshape_that_mixes_axes_stays_between_a_pair() -> None:
    g = Graph(NHWC)
    x = g.op("Reshape", turned(g, "input", TO_NCHW), g.constant(np.array([2, 5, 3, 4])))
    cancelled(g.model(turned(g, x, TO_NHWC)), 2)


def test_declined_operands_of_different_ranks() -> None:
    g = Graph(NHWC)
    row = g.op("ReduceMean", "input", axes=[0, 1, 2], keepdims=0)  # (3,), along the last axis
    x = g.op("Add", turned(g, "input", [0, 2, 1, 3]), row)
    cancelled(g.model(turned(g, x, [0, 2, 1, 3])), 2)


def test_declined_no_transpose_comes_between_a_convolution_and_its_epilogue() -> None:
    g = Graph([1, 8, 6, 6])
    x = g.conv("input", 8, 8)
    outputs = [turned(g, g.op(kind, x), [0, 1, 3, 2]) for kind in ("Relu", "Tanh")]
    mod = graphs.tidied(g.model(*outputs))
    conv = next(b.var for b in graphs.graph.bindings(mod) if "conv2d" in str(b.value))
    readers = {graphs.graph.op_name(b.value) for b in graphs.graph.bindings(mod)}
    assert "relax.permute_dims" in readers
    for binding in graphs.graph.bindings(mod):
        if graphs.graph.op_name(binding.value) == "relax.permute_dims":
            assert not binding.value.args[0].same_as(conv)


def test_a_network_that_is_fed_nhwc_is_not_transposed_at_all() -> None:
    g = Graph([1, 9, 9, 3])
    x = g.conv(turned(g, "input", TO_NCHW), 3, 8)
    slope = g.constant(g.rng.standard_normal((8, 1, 1), "f"))
    x = g.conv(g.op("PRelu", x, slope), 8, 4)
    model = g.model(turned(g, g.op("Softmax", x, axis=1), TO_NHWC))
    mod = graphs.tidied(model)
    assert graphs.counts(mod)["permute_dims"] == 0
    graphs.same(mod, model)
    graphs.right(model)
