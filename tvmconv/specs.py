"""Inputs and outputs of a network: name, shape, dtype, layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network."""

    name: str
    shape: tuple[int, ...]
    #: NumPy's name of it, such as ``float32``.
    dtype: str
    #: ``NHWC`` if the shape is NHWC and the model's NCHW; empty if the shape is the model's.
    layout: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


def batch_of(inputs: Iterable[TensorSpec]) -> int:
    """Images of one run: the first dimension of the first input that is no scalar, else 1."""
    return next((spec.shape[0] for spec in inputs if spec.shape), 1)
