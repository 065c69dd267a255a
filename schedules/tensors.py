"""The tensors of one convolution in plain shapes, and their conversion to a kernel's operands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.layout import Layout
from schedules.conv.signature import BIAS, CHANNEL, RESIDUAL, SLOPE, WEIGHT, X, Y
from schedules.conv.workload import ConvWorkload
from schedules.family import PROLOGUE_BIAS, PROLOGUE_WEIGHT, Family, Given

Array = NDArray[Any]
#: Period of the random numbers: a prime, so that rows and images differ.
PERIOD = 1_000_003


@dataclass(frozen=True)
class Tensors:
    """x (N, H, W, C), weight (K, C/groups, R, S), bias, slope (K,), residual (N, P, Q, K).

    In the dtypes of the workload's precision. ``first``: the prologue's tensors; its x is the
    input.
    """

    x: Array
    weight: Array
    bias: Array | None
    slope: Array | None
    residual: Array | None
    first: Tensors | None = None

    @classmethod
    def random(cls, w: ConvWorkload, seed: int = 0) -> Tensors:
        """Returns random tensors, of order one at every stage.

        So errors relative to the output are meaningful. (A GPU is also faster if bits do not
        change, as with zeros.)
        """
        generator = np.random.default_rng(seed)

        def draw(shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Array:
            noise = generator.standard_normal(min(math.prod(shape), PERIOD), np.float32)
            return np.resize((noise * scale).astype(dtypes.get(dtype).numpy), shape)

        own, fan_in = w.precision, w.group_c * w.r * w.s
        rows, columns = (w.window.rows, w.window.columns) if w.window else (w.p, w.q)
        return cls(
            draw((w.n, w.h, w.w, w.c), own.x),
            draw((w.k, w.group_c, w.r, w.s), own.operands[1], 1 / math.sqrt(fan_in)),
            draw((w.k,), CHANNEL) if w.epilogue.bias else None,
            draw((w.k,), CHANNEL) if w.epilogue.activation.has_slopes else None,
            draw((w.n, rows, columns, w.k), own.x) if w.epilogue.residual else None,
            None if w.prologue is None else cls.random(w.prologue, seed + 1),
        )

    @property
    def given(self) -> Given:
        """The constant tensors by the names that `Family.pack` takes."""
        found = {WEIGHT: self.weight, BIAS: self.bias, SLOPE: self.slope}
        if self.first is not None:
            found |= {PROLOGUE_WEIGHT: self.first.weight, PROLOGUE_BIAS: self.first.bias}
        return {name: array for name, array in found.items() if array is not None}


def inputs(
    family: Family, w: ConvWorkload, config: Any, tensors: Tensors, padding: float = 0.0
) -> list[Array]:
    """Returns all operands of a family's kernel but the result, in their order and layouts.

    padding: the value in the padding of a packed layout.
    """
    x = tensors.x if tensors.first is None else tensors.first.x
    found = family.pack(w, config, tensors.given)
    found[X] = to_layout(x, w.apart[0].in_layout, padding)
    if tensors.residual is not None:
        found[RESIDUAL] = to_layout(tensors.residual, w.epilogue.residual_layout, padding)
    return [found[one.name] for one in family.signature(w, config) if one.name != Y]


def to_layout(array: Array, layout: Layout, padding: float = 0.0) -> Array:
    """Returns an (N, H, W, C) array in a layout; `padding` fills the padding of a packed one."""
    if not layout.packed:
        return array
    laid = np.full(layout.shape(*array.shape), padding, array.dtype)
    at: Any = np.indices(array.shape, sparse=True)
    laid[layout.index(*at)] = array
    return laid


def from_layout(laid: Array, layout: Layout, shape: tuple[int, ...]) -> Array:
    """Returns the (N, H, W, C) array of that shape; the inverse of `to_layout`."""
    at: Any = np.indices(shape, sparse=True)
    return np.asarray(laid[layout.index(*at)])
