"""Layers of QDQ models, for `tests.support.models.Graph`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.models import Graph

S8, U8 = np.int8, np.uint8
ZERO = S8(0)


def pair(g: Graph, x: str, scale: float, zero: Any = ZERO) -> str:
    """The tensor quantised, and dequantised."""
    parameters = [g.constant(np.float32(scale)), g.constant(np.asarray(zero))]
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, *parameters), *parameters)


def weight(g: Graph, *shape: int, axis: int = 0, zero: Any = ZERO) -> str:
    """Random 8-bit weights, each output channel with a scale of its own."""
    kind = np.asarray(zero).dtype
    info = np.iinfo(kind)
    numbers = g.rng.integers(info.min + 1, info.max + 1, shape).astype(kind)
    fan = np.prod(shape) / shape[axis]
    scales = g.rng.uniform(0.5, 1.5, shape[axis]).astype(np.float32) / np.float32(70 * np.sqrt(fan))
    zeros = g.constant(np.full(shape[axis], zero))
    return g.op("DequantizeLinear", g.constant(numbers), g.constant(scales), zeros, axis=axis)


def conv(
    g: Graph, x: str, c: int = 16, k: int = 16, r: int = 3, group: int = 1, **more: Any
) -> str:
    """A convolution with quantised weights and a float bias."""
    zero, name = more.pop("zero", S8(0)), more.pop("name", None)
    bias = g.constant(g.rng.standard_normal(k).astype(np.float32))
    more.setdefault("pads", [r // 2] * 4)
    w = weight(g, k, c // group, r, r, zero=zero)
    return g.op("Conv", x, w, bias, name=name, group=group, **more)
