"""Weights, inputs and activations of any size keep their eleven bits, held to float64."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import tvmconv
from tests.support.models import Graph
from tvmconv.errors import FeedError

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
        at = x[:, :, i : i + rows * strides[0] : strides[0], j : j + columns * strides[1] : strides[1]]
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


SCALES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e3, 1e5, 1e8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_times(kind: str, scale: float) -> None:
    held(kind, 1.0, scale, False)


@pytest.mark.parametrize("scale", [one for one in SCALES if one != 1])
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_times(kind: str, scale: float) -> None:
    held(kind, scale, 1.0, True)


@pytest.mark.parametrize(("x", "scale"), [(1e-8, 1e-8), (1e8, 1e8), (1e-8, 1e8), (1e8, 1e-8)])
@pytest.mark.parametrize("kind", LAYERS)
def test_both_times(kind: str, x: float, scale: float) -> None:
    held(kind, x, scale, True)
