"""Activations between layers that leave the range of fp16 are scaled, or kept in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import tvmconv
from tests.support import graphs
from tests.support.models import Graph, residual_net
from tests.support.thinned import thinned
from tvmconv.errors import FeedError

Array = NDArray[Any]
BOUND = 2e-3
SHAPE = [1, 8, 10, 9]


def conv(g: Graph, x: str, c: int, k: int, scale: float, r: int = 3, **how: Any) -> str:
    """Gains `scale`, with a bias of that size."""
    group = how.get("group", 1)
    weight = g.rng.standard_normal((k, c // group, r, r)) * scale / np.sqrt(c // group * r * r)
    bias = g.rng.standard_normal(k) * scale * 0.3
    how.setdefault("pads", [r // 2] * 4)
    return g.op("Conv", x, g.constant(weight.astype("f")), g.constant(bias.astype("f")), **how)


def last(g: Graph, x: str, c: int, scale: float, *outputs: str) -> onnx.ModelProto:
    """Ends in a convolution without a bias, whose result is as small as what it reads."""
    weight = g.rng.standard_normal((8, c, 1, 1)) * scale
    return g.model(g.op("Conv", x, g.constant(weight.astype("f"))), *outputs)


def pooled(g: Graph, s: float, t: float) -> onnx.ModelProto:
    x = g.op("MaxPool", conv(g, "input", 8, 16, s), kernel_shape=[2, 2])
    return last(g, x, 16, t)


def averaged(g: Graph, s: float, t: float) -> onnx.ModelProto:
    x = g.op("AveragePool", conv(g, "input", 8, 16, s), kernel_shape=[3, 3])
    return last(g, x, 16, t)


def rectified(g: Graph, s: float, t: float) -> onnx.ModelProto:
    return last(g, g.op("Relu", conv(g, "input", 8, 16, s)), 16, t)


def silu(g: Graph, s: float, t: float) -> onnx.ModelProto:
    x = conv(g, "input", 8, 16, s)
    return last(g, g.op("Mul", x, g.op("Sigmoid", x)), 16, t)


def sigmoid(g: Graph, s: float, t: float) -> onnx.ModelProto:
    return last(g, g.op("Sigmoid", conv(g, "input", 8, 16, s)), 16, t)


def added(g: Graph, s: float, t: float) -> onnx.ModelProto:
    a, b = conv(g, "input", 8, 16, s), g.op("Relu", conv(g, "input", 8, 16, s))
    x = g.op("Relu", g.op("Add", conv(g, b, 16, 16, 1), a))
    return last(g, x, 16, t, x)


def joined(g: Graph, s: float, t: float) -> onnx.ModelProto:
    x = g.op("Concat", conv(g, "input", 8, 16, s), conv(g, "input", 8, 16, 1), axis=1)
    return last(g, x, 32, t)


def separable(g: Graph, s: float, t: float) -> onnx.ModelProto:
    x = conv(g, "input", 8, 8, s, group=8)
    x = g.op("Clip", x, g.constant(np.float32(0)), g.constant(np.float32(6 * s)))
    return last(g, x, 8, t)


def shuffled(g: Graph, s: float, t: float) -> onnx.ModelProto:
    x = g.op("Reshape", conv(g, "input", 8, 16, s), g.constant(np.array([1, 2, 8, 10, 9])))
    x = g.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    return last(g, g.op("Reshape", x, g.constant(np.array([1, 16, 10, 9]))), 16, t)


def product(g: Graph, s: float, t: float) -> onnx.ModelProto:
    x = g.op("Flatten", g.op("GlobalAveragePool", conv(g, "input", 8, 16, s)))
    weight = (g.rng.standard_normal((10, 16)) * t).astype("f")
    return g.model(g.op("Gemm", x, g.constant(weight), transB=1))


NETWORKS: dict[str, Callable[[Graph, float, float], onnx.ModelProto]] = {
    one.__name__: one
    for one in (
        pooled, averaged, rectified, silu, sigmoid, added, joined, separable, shuffled, product,
    )
}  # fmt: skip


def held(model: onnx.ModelProto, x_scale: float, **options: Any) -> tvmconv.Executable:
    """Built and within the bound of onnxruntime, fed numbers of that size."""
    x = (np.random.default_rng(5).standard_normal(SHAPE) * x_scale).astype("f")
    calibrate = [{"input": x}] if options.pop("calibrated", False) else None
    exe = tvmconv.build(model, target="llvm", calibrate=calibrate, **options)
    for y, right in zip(exe.run({"input": x}).values(), graphs.expected(model, x), strict=True):
        off = np.linalg.norm(np.asarray(y, np.float64) - right) / np.linalg.norm(right)
        assert off < BOUND
    return exe


@pytest.mark.parametrize(("s", "t"), thinned([(1e-8, 1.0), (1e8, 1e-8)], 2))
@pytest.mark.parametrize("name", thinned(NETWORKS, 2))
def test_weights_alone_tell(name: str, s: float, t: float) -> None:
    held(NETWORKS[name](Graph(SHAPE), s, t), 1.0)


@pytest.mark.parametrize(("x", "s"), thinned([(1e-6, 1.0), (1e6, 3.0)], 2))
# A sigmoid of 1e6 is a step: its slope there is no measure of anything.
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "sigmoid"])
def test_what_was_seen_tells(name: str, x: float, s: float) -> None:
    held(NETWORKS[name](Graph(SHAPE), s, 1.0), x, calibrated=True)


@pytest.mark.parametrize("target", ["llvm", "hmma-sim"])
def test_a_simulated_tensor_core_scales_too(target: str) -> None:
    g = Graph([1, 8, 4, 4])
    model = last(g, "input", 8, 1e-8)
    x = (np.random.default_rng(5).standard_normal((1, 8, 4, 4)) * 1e-8).astype("f")
    (y,) = tvmconv.build(model, target=target, calibrate={"input": x}).run({"input": x}).values()
    (right,) = graphs.expected(model, x)
    assert np.linalg.norm(np.asarray(y, np.float64) - right) < BOUND * np.linalg.norm(right)


def test_bfloat16_has_the_range_of_fp32() -> None:
    g = Graph(SHAPE)
    model, x = last(g, "input", 8, 1e-8), np.full(SHAPE, 1e-8, "f")
    exe = tvmconv.build(model, target="llvm", precision="bf16", calibrate={"input": x})
    assert not any(one.kept for one in exe.report.convs)


def test_the_report_says_what_was_done_and_the_file_keeps_it(tmp_path: Path) -> None:
    exe = held(silu(Graph(SHAPE), 3e5, 1e-5), 1.0, calibrated=True)
    first, second = exe.report.convs
    assert first.kept[0] == "result in fp32"
    assert second.kept[0].startswith("x times 2**-")
    assert "kept by" in str(exe.report)
    exe.save(tmp_path / "net")
    loaded = tvmconv.load(tmp_path / "net").report
    assert [one.kept for one in loaded.convs] == [first.kept, second.kept]


def test_of_several_feeds_the_largest_counts() -> None:
    model = last(Graph(SHAPE), "input", 8, 1.0)
    several = [{"input": np.full(SHAPE, size, "f")} for size in (1e-7, 1e-3, 1e-5)]
    (conv,) = tvmconv.inspect(model, "llvm", calibrate=several).convs
    assert "x times 2**10" in conv.kept


def test_buckets_are_calibrated_at_the_largest() -> None:
    model = residual_net("batch")
    x = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype("f") * np.float32(1e-7)
    exe = tvmconv.build(model, "llvm", batch=[1, 3], calibrate=x)
    assert all(bucket.convs[0].kept for bucket in (exe.report, *exe.report.smaller))
    assert tvmconv.compare(model, exe, {"input": x}).passed(BOUND)


BAD: dict[str, tuple[Any, str]] = {
    "another name": ({"x": np.zeros(SHAPE, "f")}, r"feed 0 has \['x'\]"),
    "another shape": ({"input": np.zeros((1, 8, 10, 8), "f")}, "expected float32"),
    "another dtype": ({"input": np.zeros(SHAPE, "d")}, "expected float32"),
    "NaN": ({"input": np.full(SHAPE, np.nan, "f")}, "has NaN in it"),
    "infinity": ([{"input": np.full(SHAPE, np.inf, "f")}], "has infinity in it"),
    "no feeds": ([], "there are no feeds to calibrate with"),
    "a number": (3, "not one int"),
    "fp32 overflows": (np.full(SHAPE, 3e38, "f"), "reads infinity or NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_feeds_are_refused(name: str) -> None:
    feeds, message = BAD[name]
    model = rectified(Graph(SHAPE), 30.0, 1.0)
    with pytest.raises(FeedError, match=message):
        tvmconv.build(model, target="llvm", calibrate=feeds)


def test_zeros_tell_nothing() -> None:
    model = rectified(Graph(SHAPE), 1.0, 1.0)
    report = tvmconv.inspect(model, "llvm", calibrate=np.zeros(SHAPE, "f"))
    assert not any("x times" in what for one in report.convs for what in one.kept)


def test_a_folder_of_images_calibrates(tmp_path: Path) -> None:
    model = rectified(Graph(SHAPE), 1.0, 1.0)
    for name, size in (("a", 1e-7), ("b", 1e-6)):
        np.save(tmp_path / name, np.full(SHAPE[1:], size, "f"))
    first, _ = tvmconv.inspect(model, "llvm", calibrate=tmp_path).convs
    assert "x times 2**20" in first.kept
    g = Graph([4, 8, 10, 9])
    (several,) = tvmconv.inspect(last(g, "input", 8, 1.0), "llvm", calibrate=str(tmp_path)).convs
    assert "x times 2**20" in several.kept
    with pytest.raises(FeedError, match="is no folder"):
        tvmconv.inspect(model, "llvm", calibrate=tmp_path / "nowhere")
