"""Products and attention in networks: found, right beside onnxruntime, and nothing moved around
them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import tvmconv
from schedules.machine.hardware import CPU, CUDA_ARCHS
from schedules.threads import emulator
from tests.support import attention, emulated, graphs
from tests.support.attention import NETWORKS
from tests.support.models import Graph
from tests.support.thinned import thinned
from tvmconv.passes.products.find_products import find_products
from tvmconv.reports.data.build import BuildReport

SM_80 = next(one for one in CUDA_ARCHS if one.name == "sm_80")
#: What is left to TVM beside the conversions of input and output.
LEFT = {
    "vision_transformer": 0,
    "relative_positions": 0,
    # Values, once more as an image for the convolution that adds positions.
    "position_sensitive": 1,
    "masked": 0,
    # Both ReLUs and what they read.
    "linear_attention": 3,
    "operator": 0,
}


def on_tensor_cores(report: BuildReport) -> bool:
    products = [one for one in report.convs if one.kind == "product of activations"]
    return bool(products) and all(one.tensor_core for one in products)


def found(model: onnx.ModelProto) -> list[str]:
    """What the calls in the graph compute."""
    _, products, _ = find_products(graphs.tidied(model), CPU, {})
    return [str(one.workload) for one in products.values()]


@pytest.mark.parametrize("name", thinned(NETWORKS, 3))
def test_a_network_with_attention_is_right_and_moves_nothing_around_it(name: str) -> None:
    model = NETWORKS[name]()
    exe = tvmconv.build(model, "llvm")
    assert tvmconv.compare(model, exe).relative_l2 < 2e-3
    assert len(exe.report.kernels) - 2 == LEFT[name]
    assert on_tensor_cores(exe.report)


@pytest.mark.skipif(not emulator.available(), reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "masked")) for n in NETWORKS]
)
def test_its_kernels_for_a_gpu_are_right(name: str) -> None:
    model = NETWORKS[name]()
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(size=shape).astype("f")
    (got,), (want,) = emulated.run(model, SM_80, x), graphs.expected(model, x)
    assert np.linalg.norm(got - want) < 2e-3 * np.linalg.norm(want)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_builds_for_a_gpu(name: str, arch: str) -> None:
    report = tvmconv.build(NETWORKS[name](), "cuda", arch=arch).report
    assert on_tensor_cores(report)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_right_on_this_gpu(name: str) -> None:
    model = NETWORKS[name]()
    exe = tvmconv.build(model, "cuda")
    assert tvmconv.compare(model, exe).relative_l2 < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_batches(batch: int) -> None:
    model = attention.vision_transformer()
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert dim.dim_value == 1
    exe = tvmconv.build(model, "llvm", batch=1)
    assert tvmconv.compare(model, exe).relative_l2 < 2e-3


def test_what_each_node_of_attention_became() -> None:
    report = tvmconv.build(attention.vision_transformer(), "llvm").report
    fates = {one.name: one.fate for one in report.operators}
    assert fates["matmul_15"] == "attention kernel"
    inside = ("matmul_13", "softmax_14", "mul_11", "mul_12", "gather_7", "gather_8", "gather_9")
    assert {fates[name] for name in inside} == {"in the kernel of attention: matmul_15"}
    layers = {one.name: one for one in report.convs}
    assert layers["matmul_13"].part_of == "matmul_15"
    assert layers["matmul_15"].family == "attention"
    assert layers["matmul_15"].kernels == ("attention_0",)
    assert layers["matmul_15"].useful_macs == 2 * 49 * 49 * 16


def heads(g: Graph, x: str, count: int = 3, bias: bool = True) -> list[str]:
    """(1, 2, 36, 8) of an image (1, 16, 6, 6), by a convolution each."""
    made = []
    for _ in range(count):
        y = g.op("Reshape", g.conv(x, 16, 16, 1, bias), g.constant(np.array([1, 2, 8, 36])))
        made.append(g.op("Transpose", y, perm=[0, 1, 3, 2]))
    return made


def kept_scores(g: Graph) -> list[str]:
    """The scores are an output as well."""
    q, k, v = heads(g, "input")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    return [g.op("MatMul", g.op("Softmax", scores, axis=-1), v), scores]


def other_axis(g: Graph) -> list[str]:
    """A softmax along the queries."""
    q, k, v = heads(g, "input")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    return [g.op("MatMul", g.op("Softmax", scores, axis=2), v)]


def computed_scale(g: Graph) -> list[str]:
    """Scores times one number for each head, which no kernel has as a scale."""
    q, k, v = heads(g, "input")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    factors = g.constant(np.array([0.5, 2.0], "f").reshape(1, 2, 1, 1))
    return [g.op("MatMul", g.op("Softmax", g.op("Mul", scores, factors), axis=-1), v)]


def scaled_after_the_mask(g: Graph) -> list[str]:
    """softmax((q k + mask) / 2), whose mask is scaled as well."""
    q, k, v = heads(g, "input")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    mask = g.constant(g.rng.normal(size=(36, 36)).astype("f"))
    scores = g.op("Div", g.op("Add", scores, mask), g.constant(np.array(2, "f")))
    return [g.op("MatMul", g.op("Softmax", scores, axis=-1), v)]


def biased_then_scaled(g: Graph) -> list[str]:
    """(a b + bias) * 3, whose bias is scaled as well."""
    a, b = heads(g, "input", 2)
    y = g.op("MatMul", a, g.op("Transpose", b, perm=[0, 1, 3, 2]))
    y = g.op("Add", y, g.constant(g.rng.normal(size=36).astype("f")))
    return [g.op("Mul", y, g.constant(np.array(3, "f")))]


def computed_addend(g: Graph) -> list[str]:
    """(a b + c) * 3 of a computed c, of which the scale is no part of a constant."""
    a, b, c = heads(g, "input")
    y = g.op("MatMul", g.op("Transpose", a, perm=[0, 1, 3, 2]), b)
    c = g.op("MatMul", g.constant(g.rng.normal(size=(8, 36)).astype("f")), c)
    return [g.op("Mul", g.op("Add", c, y), g.constant(np.array(3, "f")))]


def mask_of_a_product(g: Graph) -> list[str]:
    """A mask that a product gives in another shape; the product is read where it was written."""
    q, k, v = heads(g, "input")
    left = g.constant(g.rng.normal(size=(1, 2, 36, 36)).astype("f"))
    rows = g.op("Reshape", g.op("MatMul", left, q), g.constant(np.array([1, 2, 1, 288])))
    rows = g.op("Slice", rows, *(g.constant(np.array([i])) for i in (0, 36, 3)))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    weights = g.op("Softmax", g.op("Add", scores, rows), axis=-1)
    return [g.op("MatMul", weights, v)]


def constant_left(g: Graph) -> list[str]:
    """A constant on the left, one matrix for each head."""
    (b,) = heads(g, "input", 1)
    left = g.constant(g.rng.normal(size=(2, 20, 36)).astype("f"))
    return [g.op("MatMul", left, b)]


def masked_by_the_image(g: Graph) -> list[str]:
    """A mask that is computed."""
    q, k, v = heads(g, "input")
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    row = g.op("Reshape", g.conv("input", 16, 1, 1), g.constant(np.array([1, 1, 1, 36])))
    weights = g.op("Softmax", g.op("Add", row, scores), axis=-1)
    return [g.op("MatMul", weights, v)]


def times_zero(g: Graph) -> list[str]:
    """A product of zeros."""
    a, b = heads(g, "input", 2)
    y = g.op("MatMul", a, g.op("Transpose", b, perm=[0, 1, 3, 2]))
    return [g.op("Add", g.op("Mul", y, g.constant(np.array(0, "f"))), y)]


CASES: dict[str, tuple[Callable[[Graph], list[str]], list[str]]] = {
    "kept scores": (
        kept_scores,
        ["product of 2 times 36x8 by 8x36", "product of 2 times 36x36 by 36x8"],
    ),
    "another axis": (
        other_axis,
        ["product of 2 times 36x8 by 8x36", "product of 2 times 36x36 by 36x8"],
    ),
    "a scale by head": (
        computed_scale,
        ["product of 2 times 36x8 by 8x36", "product of 2 times 36x36 by 36x8"],
    ),
    "scaled after the mask": (
        scaled_after_the_mask,
        ["product of 2 times 36x8 by 8x36", "product of 2 times 36x36 by 36x8"],
    ),
    "a bias, then a scale": (biased_then_scaled, ["product of 2 times 36x8 by 8x36"]),
    "a computed addend, then a scale": (
        computed_addend,
        ["product of 2 times 8x36 by 36x8", "product of 2 times 8x36 by 36x8"],
    ),
    "a mask of a product": (
        mask_of_a_product,
        ["attention of 2 times 36x8 on 36 keys -> 8", "product of 2 times 36x36 by 36x8"],
    ),
    "a constant on the left": (constant_left, ["product of 2 times 20x36 by 36x8"]),
    "a computed mask": (masked_by_the_image, ["attention of 2 times 36x8 on 36 keys -> 8"]),
    "times zero": (times_zero, ["product of 2 times 36x8 by 8x36"]),
}


@pytest.mark.parametrize("name", thinned(CASES, 3))
def test_what_is_and_what_is_no_attention(name: str) -> None:
    write, wanted = CASES[name]
    g = Graph([1, 16, 6, 6])
    model = g.model(*write(g))
    # A scale behind the mask would scale it too: it may be absorbed only if that is done.
    assert sorted(found(model)) == sorted(wanted)
    graphs.right(model, 2e-3)


def test_ranges_that_fp16_does_not_hold_are_scaled() -> None:
    """Queries of 1e-7, keys of 1e7 and values of 1e6: each is lost in fp16."""
    g = Graph([1, 16, 6, 6])
    q, k, v = heads(g, "input", bias=False)
    weights = [one for one in g.initializers if len(one.dims) == 4]
    for weight, factor in zip(weights, (1e-7, 1e7, 1e6), strict=True):
        array = onnx.numpy_helper.to_array(weight) * factor
        weight.CopyFrom(onnx.numpy_helper.from_array(array.astype("f"), weight.name))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = g.op("Mul", scores, g.constant(np.array(0.3, "f")))
    model = g.model(g.op("MatMul", g.op("Softmax", scores, axis=-1), v))
    graphs.right(model, 2e-3)
    layers = {one.name: one for one in tvmconv.build(model, "llvm").report.convs}
    assert len(layers["matmul_13"].kept) == 3
