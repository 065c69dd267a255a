"""Inputs and outputs of a network: name, shape, dtype, layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A dimension that only a run decides, in the shape of an output that onnxruntime computes.
OPEN = -1


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network."""

    name: str
    #: Sizes; of an output some may be `OPEN`.
    shape: tuple[int, ...]
    #: NumPy's name of it, such as ``float32``.
    dtype: str
    #: ``NHWC`` if the shape is NHWC and the model's NCHW; empty if the shape is the model's.
    layout: str = ""
    #: For 8-bit numbers that stand for real ones of the model: feed round(real / scale) +
    #: zero_point, saturated. None if the model's own numbers are fed.
    scale: float | None = None
    zero_point: int = 0

    def __str__(self) -> str:
        plain = f"{self.name}: {self.dtype}[{', '.join(map(size_text, self.shape))}]"
        if self.scale is None:
            return plain
        real = "real" if self.scale == 1 else f"real / {self.scale:.6g}"
        zero = f" {'+' if self.zero_point > 0 else '-'} {abs(self.zero_point)}"
        return f"{plain} = {real}{zero if self.zero_point else ''}"


def size_text(size: int) -> str:
    """A dimension as text: ``?`` for an open one."""
    return "?" if size == OPEN else str(size)


def batch_of(inputs: Iterable[TensorSpec]) -> int:
    """Images of one run: the first dimension of the first input that is no scalar, else 1."""
    return next((spec.shape[0] for spec in inputs if spec.shape), 1)


def shapes_of(specs: Iterable[TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, in order."""
    return {spec.name: spec.shape for spec in specs}


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Text such as ``1x3x224x224``; of several, with names: ``a 1x3x8x8, b 1x4``."""
    texts = {name: "x".join(map(size_text, shape)) or "scalar" for name, shape in shapes.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def bucket_texts(buckets: Iterable[tuple[int, Mapping[str, Sequence[int]]]]) -> list[str]:
    """Each bucket as text, given its batch and the shapes of its inputs: the batch, if that is all
    that they differ in, else the shapes."""
    each = list(buckets)
    sizes = {tuple(tuple(shape[1:]) for shape in shapes.values()) for _, shapes in each}
    return [str(batch) if len(sizes) == 1 else shapes_text(shapes) for batch, shapes in each]


def is_float(dtype: str) -> bool:
    """True for a NumPy dtype of floating point, by name."""
    return dtype.startswith("float")


def as_fed(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Real numbers of the model in the dtype of `spec`, contiguous: of 8 bits as QuantizeLinear
    makes them. Others, and what is in 8 bits already, are cast."""
    if spec.scale is not None and is_float(array.dtype.name):
        limits, wide = np.iinfo(spec.dtype), array.astype(np.float32, copy=False)
        whole = np.rint(wide / np.float32(spec.scale)) + np.float32(spec.zero_point)
        array = np.clip(whole, limits.min, limits.max)
    return np.ascontiguousarray(array, spec.dtype)
