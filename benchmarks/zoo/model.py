"""What the zoo knows of each network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.zoo.drawings import drawings
from benchmarks.zoo.photos import Pictures, photos

Source = Callable[[int], Pictures]
"""Gives that many different pictures."""


@dataclass(frozen=True)
class ZooModel:
    """One network: where it is from, what it costs, and how to make it and its input."""

    name: str
    source: str
    licence: str
    parameters: int | None
    """Trainable parameters; None where batch norm is folded away."""
    gmacs: float
    """Multiply-adds of its convolutions and linear layers for one image, in units of 1e9."""
    input_name: str
    make: Callable[[], onnx.ModelProto]
    prepare: Callable[[Pictures], NDArray[np.float32]]
    """[N, H, W, 3] uint8 pictures to the array that the input takes."""
    photos: Source = photos
    """Real pictures of what it was trained on; drawn ones where no package has real ones."""
    drawings: Source = drawings
    """Drawn pictures that it does not answer near zero to."""
