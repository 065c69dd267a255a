"""NaN and infinities through comparisons, as ONNX defines them: by themselves, and fused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.support import emulated, graphs, sass
from tests.support.models import Array, Graph
from tests.support.thinned import thinned
from tvmconv.compiler import toolchain

NAN, INF = np.nan, np.inf
#: Every kind of number, at every place of a vector of 16 and beside it.
VALUES = np.array([NAN, 1, -2, INF, -INF, 0, NAN, 3, -0.5, 7, NAN, -INF, 2, 5, -4, 6, INF], "f")
X = np.stack([np.roll(VALUES, i) for i in range(19)])

SM_90A = toolchain.cuda_arch("sm_90a")

Make = Callable[[Graph, str], str]
Want = Callable[[Array], Array]


def of(operator: str, *constants: float, **attributes: Any) -> Make:
    def make(g: Graph, x: str) -> str:
        more = [g.constant(np.array(one, g.dtype)) for one in constants]
        return g.op(operator, x, *more, **attributes)

    return make


#: Name to an operator and its meaning in NumPy.
POINTWISE: dict[str, tuple[Make, Want]] = {
    "Relu": (of("Relu"), lambda x: np.maximum(x, 0)),
    "Clip": (of("Clip", 0, 6), lambda x: np.clip(x, 0, 6)),
    "Clip, from below": (of("Clip", 0.5), lambda x: np.maximum(x, x.dtype.type(0.5))),
    "Max": (of("Max", 1), lambda x: np.maximum(x, 1)),
    "Min": (of("Min", 1), lambda x: np.minimum(x, 1)),
    "Max of two": (
        lambda g, x: g.op("Max", x, g.op("Neg", x)),
        lambda x: np.maximum(x, -x),
    ),
    "LeakyRelu": (of("LeakyRelu", alpha=0.5), lambda x: np.where(x < 0, x / 2, x)),
    "PRelu": (of("PRelu", [0.25]), lambda x: np.where(x < 0, x / 4, x)),
    "Sign": (of("Sign"), np.sign),
    "HardSigmoid": (
        of("HardSigmoid", alpha=0.25, beta=0.5), lambda x: np.clip(x / 4 + x.dtype.type(0.5), 0, 1)
    ),
}  # fmt: skip


def run(proto: Any, x: Array) -> Array:
    return np.asarray(next(iter(tvmconv.build(proto, target="llvm").run({"input": x}).values())))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_pointwise(dtype: str) -> None:
    """All in one network, each by itself."""
    g = Graph(X.shape, dtype=dtype)
    # Of doubles onnxruntime, which simplifies, does not have all.
    cases = {
        name: case for name, case in POINTWISE.items() if dtype != "float64" or "Hard" not in name
    }
    outputs = [make(g, "input") for make, _ in cases.values()]
    x = X.astype(dtype)
    given = tvmconv.build(g.model(*outputs), target="llvm").run({"input": x})
    with np.errstate(invalid="ignore"):
        for (name, (_, want)), got in zip(cases.items(), given.values(), strict=True):
            np.testing.assert_allclose(got, want(x), rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [[0], [1], [0, 1]])
def test_reductions(operator: str, axes: list[int]) -> None:
    """Of infinities too, which the largest finite number would hide."""
    want = np.max if operator == "ReduceMax" else np.min
    rows = [X[:, :], np.full_like(X, -INF), np.full_like(X, INF), np.nan_to_num(X, nan=0.0)]
    for x in rows:
        g = Graph(x.shape)
        proto = g.model(g.op(operator, "input", axes=axes, keepdims=0))
        np.testing.assert_array_equal(run(proto, x), want(x, axis=tuple(axes)))


def pooled(x: Array, kernel: int, stride: int, pad: int) -> Array:
    """Of (N, C, H, W), by the definition."""
    wide = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)], constant_values=-INF)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (kernel, kernel), (2, 3))
    return np.asarray(windows[:, :, ::stride, ::stride].max((4, 5)))


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_max_pool(kernel: int, stride: int, pad: int) -> None:
    x = np.where(np.random.default_rng(0).random((1, 16, 12, 10)) < 0.05, NAN, -INF).astype("f")
    x[:, :, 7:, 3:] = 1
    g = Graph(x.shape)
    how = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    proto = g.model(g.op("MaxPool", "input", **how))
    np.testing.assert_array_equal(run(proto, x), pooled(x, kernel, stride, pad))


@pytest.mark.parametrize("name", ["Relu", "Clip", "Clip, from below", "LeakyRelu", "PRelu"])
def test_fused_into_a_convolution(name: str) -> None:
    """Each channel is that of the input, through a product with ones and zeros: so all of a pixel
    are NaN where one is no number."""
    make, want = POINTWISE[name]
    x = np.zeros((1, 16, 4, 5), "f")
    x[0, 3] = np.arange(20).reshape(4, 5) - 9
    x[0, 5, 1, 2], x[0, 3, 2, 2], x[0, 3, 3, 3] = NAN, INF, -INF
    g = Graph(x.shape)
    ones = np.ones((16, 16, 1, 1), "f")
    y = g.op("Conv", "input", g.constant(ones))
    proto = g.model(make(g, y))
    exe = tvmconv.build(proto, target="llvm")
    assert exe.report.convs[0].epilogue != "none"
    (got,) = exe.run({"input": x}).values()
    np.testing.assert_allclose(got, want(np.repeat(x.sum(1, keepdims=True), 16, 1)), rtol=1e-3)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.skipif(not sass.available(), reason="needs cuobjdump and nvdisasm")
def test_on_a_gpu_it_is_one_instruction(tmp_path: Path) -> None:
    """Of fp16 and of fp32, where there is one."""
    g = Graph([2, 16, 16, 16])
    pool = g.op("MaxPool", g.conv("input", 16, 16), kernel_shape=[3, 3], strides=[2, 2])
    other = g.op("ReduceMax", "input", axes=[1])
    proto = g.model(g.conv(g.op("Max", pool, g.op("Neg", pool)), 16, 16), other)
    for arch in ("sm_90a", "sm_75"):
        exe = tvmconv.build(proto, target="cuda", arch=arch, families=("direct",))
        path = tmp_path / f"{arch}.so"
        path.write_bytes(exe.code)
        text = "".join(sass.kernels(path).values())
        found = set(re.findall(r"\b(?:HMNMX2|VHMNMX|FMNMX)[.\w]*", text))
        assert all(".NAN" in one for one in found), found
        assert any("HMNMX" in one for one in found) == (arch == "sm_90a"), found
        assert ("FMNMX.NAN" in found) == (arch == "sm_90a"), found


@pytest.mark.parametrize("name", ["Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid"])
@pytest.mark.parametrize("channels", thinned([3, 64], 2))
def test_fused_into_a_kernel_for_a_gpu(channels: int, name: str) -> None:
    """Its CUDA text, in the emulator, by the families that sm_90a has for few and many channels.

    Of few channels without infinities: the kernel multiplies some elements by zeros, too.
    """
    make = of("Sigmoid") if name == "Sigmoid" else POINTWISE[name][0]
    x = np.random.default_rng(0).standard_normal((1, channels, 8, 8)).astype("f")
    x[0, 1, 2, 3], x[0, 0, 5, 6], x[0, 0, 7, 2] = (NAN, INF, -INF) if channels > 3 else (NAN,) * 3
    g = Graph(x.shape)
    proto = g.model(make(g, g.conv("input", channels, 64)))
    (got,), (want,) = emulated.run(proto, SM_90A, x), graphs.expected(proto, x)
    assert np.isnan(want).any()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    finite = np.isfinite(want)
    np.testing.assert_allclose(got[finite], want[finite], rtol=5e-3, atol=2e-2)
