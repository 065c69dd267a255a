"""The tensors of one convolution in plain shapes, and their conversion to a kernel's operands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.layout import Layout
from schedules.conv.precision import RESIDUAL_SCALE, RESULT_SCALE, RESULT_ZERO, SCALE
from schedules.conv.signature import BIAS, CHANNEL, GATE, RESIDUAL, SLOPE, WEIGHT, X, Y
from schedules.conv.workload import ConvWorkload
from schedules.family import Family, Given, with_prologue

Array = NDArray[Any]
#: Period of the random numbers: a prime, so that rows and images differ.
PERIOD = 1_000_003
#: Standard deviation of random integers, and of what becomes an 8-bit result.
SPREAD = 32


@dataclass(frozen=True)
class Tensors:
    """x (N, H, W, C), weight (K, C/groups, R, S), bias, slope (K,), residual (N, P, Q, K), gate
    (N, 1, 1, C).

    In the dtypes of the workload's precision. ``scales``: by name, fp32 (K,). ``first``: the
    prologue's tensors; its x is the input.
    """

    x: Array
    weight: Array
    bias: Array | None
    slope: Array | None
    residual: Array | None
    first: Tensors | None = None
    scales: Mapping[str, Array] = field(default_factory=dict)
    gate: Array | None = None

    @classmethod
    def random(cls, w: ConvWorkload, seed: int = 0) -> Tensors:
        """Returns random tensors, whose real values are of order one at every stage.

        So errors relative to the output are meaningful. (A GPU is also faster if bits do not
        change, as with zeros.) Integers are of order `SPREAD`, and so is an integer result.
        """
        generator = np.random.default_rng(seed)

        def draw(shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Array:
            noise = generator.standard_normal(min(math.prod(shape), PERIOD), np.float32)
            row = dtypes.get(dtype)
            if row.integer:
                noise = abs(noise) if np.iinfo(row.numpy).min == 0 else noise
                noise = np.rint(np.clip(noise * SPREAD, -row.largest, row.largest))
            else:
                noise = noise * scale
            return np.resize(noise.astype(row.numpy), shape)

        own, fan_in = w.precision, w.group_c * w.r * w.s
        scales = _random_scales(w, generator)
        rows, columns = (w.window.rows, w.window.columns) if w.window else (w.p, w.q)
        return cls(
            draw((w.n, w.h, w.w, w.c), own.x),
            draw((w.k, w.group_c, w.r, w.s), own.operands[1], 1 / math.sqrt(fan_in)),
            draw((w.k,), CHANNEL, _unit(w)) if w.epilogue.bias else None,
            draw((w.k,), CHANNEL) if w.epilogue.activation.has_slopes else None,
            draw((w.n, rows, columns, w.k), own.added) if w.epilogue.residual else None,
            None if w.prologue is None else cls.random(w.prologue, seed + 1),
            scales,
            draw(w.gate_shape, own.x) if w.gate else None,
        )

    @property
    def given(self) -> Given:
        """The constant tensors by the names that `Family.pack` takes."""
        found = {WEIGHT: self.weight, BIAS: self.bias, SLOPE: self.slope, **self.scales}
        given = {name: array for name, array in found.items() if array is not None}
        return given if self.first is None else with_prologue(given, self.first.given)


def _unit(w: ConvWorkload) -> float:
    """Size of the epilogue's values that stand for one: before the result's scale, if it has one,
    they are real."""
    own = w.precision
    return SPREAD if dtypes.get(own.result).integer and RESULT_SCALE not in own.scales else 1.0


def _random_scales(w: ConvWorkload, generator: np.random.Generator) -> dict[str, Array]:
    """Random scales by name that bring integers of order `SPREAD` to values of order `_unit`."""
    own, unit = w.precision, _unit(w)
    products = SPREAD**2 * math.sqrt(w.group_c * w.r * w.s)
    sizes = {
        SCALE: unit / products if dtypes.get(own.accumulator).integer else unit,
        RESIDUAL_SCALE: unit / (SPREAD if dtypes.get(own.added).integer else 1),
        RESULT_SCALE: SPREAD,
    }
    found = {
        name: (generator.uniform(0.5, 1.5, w.k) * sizes[name]).astype(dtypes.get(CHANNEL).numpy)
        for name in own.scales
        if name != RESULT_ZERO
    }
    if RESULT_ZERO in own.scales:
        # A zero point is the whole tensor's.
        zero = generator.integers(-SPREAD, SPREAD) + (SPREAD if own.result == "uint8" else 0)
        found[RESULT_ZERO] = np.full(w.k, zero, dtypes.get(CHANNEL).numpy)
    return found


def inputs(
    family: Family, w: ConvWorkload, config: Any, tensors: Tensors, padding: float = 0.0
) -> list[Array]:
    """Returns all operands of a family's kernel but the result, in their order and layouts.

    padding: the value in the padding of a packed layout.
    """
    x = tensors.x if tensors.first is None else tensors.first.x
    found = family.pack(w, config, tensors.given)
    found[X] = to_layout(x, w.apart[0].in_layout, padding)
    if tensors.gate is not None:
        found[GATE] = tensors.gate
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
