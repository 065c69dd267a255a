"""Norms of groups: one operator of each, one kernel with what is after it, and right."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from tvm import relax

import tvmconv
from tests.support import cuda_text, graphs
from tests.support.models import Graph
from tvmconv.passes.legalize.legalize import legalize
from tvmconv.passes.legalize.normalization import Groups

C, GROUPS = 24, 3
Write = Callable[[Graph, str], str]


def constant(g: Graph, *shape: int) -> str:
    return g.constant(g.rng.uniform(0.5, 2, shape).astype("f"))


def rows(g: Graph, x: str, last: int = -1) -> str:
    return g.op("Reshape", x, g.constant(np.array([0, GROUPS, last])), name="rows")


def of_groups(g: Graph, x: str) -> str:
    factors = constant(g, GROUPS), constant(g, GROUPS)
    return g.op("InstanceNormalization", rows(g, x), *factors, epsilon=1e-2, name="norm")


def back(g: Graph, y: str) -> str:
    return g.op("Reshape", y, g.constant(np.array([2, C, 6, 10])), name="back")


def torch(g: Graph, x: str) -> str:
    """As torch exports GroupNorm."""
    scaled = g.op("Mul", back(g, of_groups(g, x)), constant(g, C, 1, 1), name="scale")
    return g.op("Add", scaled, constant(g, C, 1, 1), name="shift")


def whole(g: Graph, x: str) -> str:
    factors = constant(g, C), constant(g, C)
    return g.op("GroupNormalization", x, *factors, num_groups=GROUPS, name="shift")


def instance(g: Graph, x: str) -> str:
    return g.op("InstanceNormalization", x, constant(g, C), constant(g, C), name="shift")


def bare(g: Graph, x: str) -> str:
    return back(g, of_groups(g, x))


def relu(g: Graph, y: str) -> str:
    return g.op("Relu", y, name="relu")


def silu(g: Graph, y: str) -> str:
    return g.op("Mul", y, g.op("Sigmoid", y, name="sigmoid"), name="silu")


def plain(g: Graph, y: str) -> str:
    return y


def network(norm: Write, after: Write = plain) -> onnx.ModelProto:
    """A norm between two convolutions."""
    g = Graph([2, 8, 6, 10])
    x = after(g, norm(g, g.conv("input", 8, C, 1, name="first")))
    return g.model(g.conv(x, C, 16, 1, name="last"), opset=21)


@pytest.mark.parametrize("after", [plain, relu, silu])
@pytest.mark.parametrize("norm", [torch, whole, instance, bare])
def test_a_norm_is_one_kernel_with_its_activation(norm: Write, after: Write) -> None:
    model = network(norm, after)
    how = {"arch": "sm_90a", "io_dtype": "float16", "io_layout": "NHWC"}
    report = tvmconv.inspect(model, **how).plan
    (kernel,) = report.kernels
    # What convolutions write and read is fp16; scale and shift are fp32.
    assert kernel.moved_bytes == 2 * 2 * (2 * 6 * 10 * C) + 2 * 4 * C
    fates = {one.name: one.fate for one in report.operators}
    named = [one for one in ("norm", "scale", "shift", "relu", "silu") if one in fates]
    assert named
    assert all("a kernel of TVM's" in fates[one] for one in named), fates


CASES = [(torch, plain), (whole, silu), (instance, relu)]
PARAMETERS = [
    pytest.param(*case, marks=[pytest.mark.slow] * (at > 0)) for at, case in enumerate(CASES)
]


@pytest.mark.parametrize(("norm", "after"), PARAMETERS)
def test_it_is_right(norm: Write, after: Write) -> None:
    model = network(norm, after)
    assert tvmconv.compare(model, tvmconv.build(model, target="llvm")).passed(2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [torch, instance])
def test_a_mean_that_is_large_beside_the_deviation(norm: Write) -> None:
    """mean(x^2) - mean(x)^2 has no digit left of such; neither layout computes so."""
    graph = Graph([2, C, 6, 10])
    last = graph.conv(norm(graph, "input"), C, 8, 1)
    outermost = Graph([2, C, 6, 10])
    x = (10000 + np.random.default_rng(0).standard_normal((2, C, 6, 10))).astype("f")
    for model in (graph.model(last), outermost.model(norm(outermost, "input"))):
        report = tvmconv.compare(model, tvmconv.build(model, target="llvm"), {"input": x})
        assert report.passed(5e-3), report


def read_between(g: Graph, x: str) -> str:
    y = back(g, of_groups(g, x))
    return g.op("Mul", g.op("Mul", y, constant(g, C, 1, 1)), g.op("Exp", y))


def by_pixel(g: Graph, x: str) -> str:
    return g.op("Mul", bare(g, x), constant(g, 6, 10))


def of_other_groups(g: Graph, x: str) -> str:
    """Each normalizes a part of a channel."""
    y = g.op("Reshape", x, g.constant(np.array([0, 2 * C, -1])))
    y = g.op("InstanceNormalization", y, constant(g, 2 * C), constant(g, 2 * C))
    return back(g, y)


@pytest.mark.parametrize(
    ("norm", "left"),
    [
        (torch, {"nn.group_norm": 1}),
        (read_between, {"nn.group_norm": 1, "multiply": 2}),
        (by_pixel, {"nn.group_norm": 1, "multiply": 1}),
        (of_other_groups, {"nn.layer_norm": 1, "multiply": 1}),
    ],
)
def test_what_belongs_to_the_norm(norm: Write, left: dict[str, int]) -> None:
    found = graphs.counts(graphs.tidied(network(norm)))
    names = ("nn.group_norm", "nn.layer_norm", "multiply")
    assert {name: found[name] for name in names} == {name: left.get(name, 0) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("norm", [read_between, by_pixel, of_other_groups, bare])
def test_the_others_are_right(norm: Write) -> None:
    model = network(norm)
    assert tvmconv.compare(model, tvmconv.build(model, target="llvm")).passed(2e-3)


@pytest.mark.parametrize("arch", ["sm_80", pytest.param("sm_90a", marks=pytest.mark.slow)])
def test_it_is_compiled_for_a_gpu(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel keeps more of a block's memory than every block has, or waits in a branch."""
    texts = cuda_text.without_compiler(monkeypatch)
    g = Graph([2, 8, 16, 16])
    x = g.conv("input", 8, 320, 1)
    y = silu(g, g.op("GroupNormalization", x, constant(g, 320), constant(g, 320), num_groups=32))
    tvmconv.build(g.model(g.conv(y, 320, 8, 1), opset=21), target="cuda", arch=arch)
    (kernel,) = (
        one for one in "".join(texts).split('extern "C"') if "group_norm" in one and "{" in one
    )
    floats = [int(one) for one in re.findall(r"__shared__ .*float \w+\[(\d+)\];", kernel)]
    assert 0 < 4 * sum(floats) <= 48 * 1024
    assert kernel.count("__syncthreads();") >= 6


@pytest.mark.parametrize(
    ("pixels", "channels", "groups"),
    [(4096, 320, 32), (49, 1280, 32), (1, 64, 8), (3136, 64, 64), (97, 30, 3), (64, 8192, 1)],
)
def test_groups_are_shared_out_evenly(pixels: int, channels: int, groups: int) -> None:
    plan = Groups.of(pixels, channels, groups)
    assert pixels % plan.rows == 0
    assert channels % plan.slab == 0
    assert plan.slab % (channels // groups) == 0
    assert plan.slab % plan.adjacent == 0


def test_a_mean_that_is_large_where_channels_are_innermost() -> None:
    """As loops of ours: a network would round such numbers to fp16 before."""
    x = (10000 + np.random.default_rng(0).standard_normal((2, 6, 10, C))).astype("f")
    builder = relax.BlockBuilder()
    var = relax.Var("x", relax.TensorType(x.shape, "float32"))
    ones, zeros = (relax.const(np.full(C, one, "f")) for one in (1, 0))
    with builder.function("main", [var]):
        with builder.dataflow():
            norm = relax.op.nn.group_norm(var, ones, zeros, GROUPS, 3, [1, 2])
            out = builder.emit_output(builder.normalize(norm))
        builder.emit_func_output(out)
    (got,) = graphs.run(legalize()(builder.get()), x)
    groups = x.astype("d").reshape(2, 60, GROUPS, -1)
    centred = groups - groups.mean((1, 3), keepdims=True)
    want = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, want.reshape(x.shape), rtol=5e-3, atol=5e-3)
