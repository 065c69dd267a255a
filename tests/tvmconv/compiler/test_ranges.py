"""Weights, inputs and activations of any size keep their eleven bits, held to float64."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import tvmconv
from schedules.threads import emulator
from tests.support import emulated, graphs
from tests.support.models import Graph
from tests.support.thinned import thinned
from tvmconv.compiler import toolchain

Array = NDArray[Any]
#: The relative l2 error that is asked for; eleven bits alone are off by 3e-4.
BOUND = 2e-3
SHAPE = (2, 12, 9, 8)
LAYERS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "dense": ("Conv", (16, 12, 3, 3), {"pads": [1] * 4, "strides": [2, 1]}),
    "grouped": ("Conv", (20, 3, 3, 3), {"pads": [0, 1, 1, 0], "group": 4}),
    "depthwise": ("Conv", (12, 1, 3, 3), {"pads": [1] * 4, "group": 12}),
    "transposed": ("ConvTranspose", (12, 10, 4, 3), {"pads": [1] * 4, "strides": [2, 2]}),
    "MatMul": ("MatMul", (8, 24), {}),
}


def convolved(x: Array, weight: Array, strides: Any = (1, 1), pads: Any = (0,) * 4, group: int = 1):
    """The convolution by its definition, in float64."""
    top, left, bottom, right = pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    k, _, r, s = weight.shape
    rows, columns = (
        (size - taps) // step + 1
        for size, taps, step in zip(x.shape[2:], (r, s), strides, strict=True)
    )
    n, grouped = x.shape[0], weight.reshape(group, k // group, -1, r, s).astype(np.float64)
    y = np.zeros((n, group, k // group, rows, columns))
    for i, j in itertools.product(range(r), range(s)):
        at = x[
            :, :, i : i + rows * strides[0] : strides[0], j : j + columns * strides[1] : strides[1]
        ]
        at = at[:, :, :rows, :columns].reshape(n, group, -1, rows, columns)
        y += np.einsum("gki,ngipq->ngkpq", grouped[..., i, j], at)
    return y.reshape(n, k, rows, columns)


def transposed(x: Array, weight: Array, strides: Any, pads: Any) -> Array:
    """The same of a transposed one: over x with zeros between, by the filter turned around."""
    n, c, h, w = x.shape
    spread = np.zeros((n, c, (h - 1) * strides[0] + 1, (w - 1) * strides[1] + 1))
    spread[:, :, :: strides[0], :: strides[1]] = x
    r, s = weight.shape[2:]
    around = [size - 1 - pad for size, pad in zip((r, s, r, s), pads, strict=True)]
    turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return convolved(spread, turned, pads=around)


def exact(kind: str, x: Array, weight: Array) -> Array:
    op, _, how = LAYERS[kind]
    if op == "MatMul":
        return x.astype(np.float64) @ weight.astype(np.float64)
    return transposed(x, weight, **how) if op == "ConvTranspose" else convolved(x, weight, **how)


def noise(*shape: int, seed: int, scale: float) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def weights(scale: float) -> dict[str, Array]:
    return {
        kind: noise(*shape, seed=seed, scale=scale)
        for seed, (kind, (_, shape, _)) in enumerate(LAYERS.items(), start=1)
    }


def network(scale: float) -> onnx.ModelProto:
    """Every kind of layer, each with an output of its own, with weights times `scale`."""
    g = Graph(SHAPE)
    for kind, weight in weights(scale).items():
        op, _, how = LAYERS[kind]
        g.op(op, "input", g.constant(weight), name=kind, **how)
    return g.model(*LAYERS)


@functools.cache
def outputs(x_scale: float, scale: float, calibrated: bool) -> tuple[Array, dict[str, Array]]:
    x = noise(*SHAPE, seed=9, scale=x_scale)
    feeds = {"input": x}
    exe = tvmconv.build(network(scale), target="llvm", calibrate=feeds if calibrated else None)
    assert exe.report.convs
    return x, {name: np.asarray(y) for name, y in exe.run(feeds).items()}


def error(y: Array, right: Array) -> float:
    assert y.shape == right.shape
    return float(np.linalg.norm(y - right) / np.linalg.norm(right))


def held(kind: str, x_scale: float, scale: float, calibrated: bool) -> None:
    x, given = outputs(x_scale, scale, calibrated)
    assert error(given[kind], exact(kind, x, weights(scale)[kind])) < BOUND


SCALES = [1e-8, 1e8, *(pytest.param(one, marks=pytest.mark.slow) for one in (1e-5, 1.0, 1e4))]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_times(kind: str, scale: float) -> None:
    held(kind, 1.0, scale, False)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_times(kind: str, scale: float) -> None:
    held(kind, scale, 1.0, True)


@pytest.mark.parametrize(("x", "scale"), thinned([(1e-8, 1e-8), (1e8, 1e8), (1e-8, 1e8)], 3))
@pytest.mark.parametrize("kind", LAYERS)
def test_both_times(kind: str, x: float, scale: float) -> None:
    held(kind, x, scale, True)


def test_each_channel_of_an_output_has_a_scale() -> None:
    g = Graph(SHAPE)
    by_channel = np.float32(10.0) ** np.linspace(-8, 8, 16, dtype=np.float32)
    weight = weights(1.0)["dense"] * by_channel[:, None, None, None]
    small = weight * np.float32(1e-8)  # none of which overflows
    how = LAYERS["dense"][2]
    for name, one in (("large", weight), ("small", small)):
        g.op("Conv", "input", g.constant(one), name=name, **how)
    x = noise(*SHAPE, seed=9, scale=1.0)
    exe = tvmconv.build(g.model("large", "small"), target="llvm")
    given = exe.run({"input": x})
    for name, one in (("large", weight), ("small", small)):
        right, y = convolved(x, one, **how), np.asarray(given[name])
        for k in range(16):
            assert error(y[:, k], right[:, k]) < BOUND


def test_usual_sizes_leave_the_code_as_it_is() -> None:
    """Calibrated or not, a network whose activations fp16 holds has the same kernels."""
    feeds = [{"input": noise(*SHAPE, seed=9, scale=1.0)}]
    plain, calibrated = (
        tvmconv.inspect(network(1.0), target="llvm", calibrate=one).plan for one in (None, feeds)
    )
    assert [one.workloads for one in plain.convs] == [one.workloads for one in calibrated.convs]
    assert not any(any(scales(one.workloads)) for one in plain.convs)
    assert not any(one.kept for one in (*plain.convs, *calibrated.convs))


def scales(workloads: tuple[str, ...]) -> list[list[str]]:
    return [json.loads(one)["precision"]["scales"] for one in workloads]


# --- for GPUs -------------------------------------------------------------------------------
ARCHS = ("sm_80", "sm_90a")


@pytest.mark.parametrize("arch", ARCHS)
def test_scaled_layers_stay_on_tensor_cores(arch: str) -> None:
    plain, small = (tvmconv.inspect(network(scale), arch=arch).plan.convs for scale in (1.0, 1e-8))
    assert [one.tensor_core for one in small] == [one.tensor_core for one in plain]
    assert all(scales(one.workloads)[0] == ["scale"] for one in small)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("arch", ARCHS)
def test_it_builds(arch: str) -> None:
    feeds = {"input": noise(*SHAPE, seed=9, scale=1e-8)}
    exe = tvmconv.build(network(1e-8), arch=arch, calibrate=feeds)
    kept = ("result in fp32", "x times 2**25", "weights by channel")
    assert [one.kept for one in exe.report.convs] == [kept] * len(LAYERS)


@pytest.mark.skipif(not emulator.available(), reason="no g++")
@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_of_a_gpu_give_the_same(arch: str) -> None:
    """Two convolutions with a pool between: scaled sums, a result in fp32, a scaled input."""
    g = Graph([1, 16, 12, 9])
    one, two = noise(32, 16, 3, 3, seed=1, scale=1e-8), noise(64, 32, 1, 1, seed=2, scale=1e8)
    x = g.op("MaxPool", g.op("Conv", "input", g.constant(one)), kernel_shape=[2, 2])
    model = g.model(g.op("Conv", x, g.constant(two)))
    fed = noise(1, 16, 12, 9, seed=3, scale=1.0)
    (given,) = emulated.run(model, toolchain.cuda_arch(arch), fed)
    (right,) = graphs.expected(model, fed)
    assert error(given, right) < BOUND
