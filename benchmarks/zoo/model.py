"""The zoo's entry for each network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.zoo.drawings import drawings
from benchmarks.zoo.photos import Pictures, photos

Source = Callable[[int], Pictures]
"""Returns the given number of different pictures."""


@dataclass(frozen=True)
class ZooModel:
    """One network: its origin, its size, and functions that make it and its input."""

    name: str
    source: str
    licence: str
    parameters: int | None
    """Trainable parameters; None if batch norm is folded."""
    gmacs: float
    """Multiply-adds of its convolutions and linear layers for one image, in units of 1e9."""
    input_name: str
    make: Callable[[], onnx.ModelProto]
    prepare: Callable[[Pictures], NDArray[np.float32]]
    """Maps [N, H, W, 3] uint8 pictures to the input array."""
    photos: Source = photos
    """Real pictures of its training domain; drawn ones if no package has real ones."""
    drawings: Source = drawings
    """Drawn pictures to which its answers are not near zero."""
