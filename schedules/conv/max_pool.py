"""The max pool that a convolution's kernel can do after it: `MaxPool`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]


@dataclass(frozen=True)
class MaxPool:
    """A max pool over rows and columns.

    Row i, column j of the output is the largest element of a window of size ``kernel``. It starts
    at row i * stride[0] - padding[0], column j * stride[1] - padding[1]. Elements outside of the
    image are less than all others. ``size`` is rows and columns of the output, so it also says how
    they were rounded. Raises ``ValueError`` if the numbers describe no pool.
    """

    kernel: Pair
    stride: Pair
    #: Above and to the left.
    padding: Pair
    size: Pair

    def __post_init__(self) -> None:
        if min(*self.kernel, *self.stride, *self.size) < 1 or min(self.padding) < 0:
            raise ValueError(f"{self!r}: sizes are at least 1, padding at least 0")

    def __str__(self) -> str:
        return f"max pool {self.kernel[0]}x{self.kernel[1]}/{self.stride[0]}"

    def reads(self, rows: int, columns: int) -> bool:
        """Returns True if each window has an element of an image of that size."""
        axes = zip((rows, columns), self.size, self.kernel, self.stride, self.padding, strict=True)
        return all(
            pad < taps and (size - 1) * step - pad < image for image, size, taps, step, pad in axes
        )

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Returns x (N, H, W, C) pooled, by the definition, in NumPy."""
        y = np.full((x.shape[0], *self.size, x.shape[3]), -np.inf, x.dtype)
        for i, j in np.ndindex(self.kernel):
            top, left = (
                [at for at in range(size) if 0 <= at * step - pad + tap < image]
                for size, step, pad, tap, image in zip(
                    self.size, self.stride, self.padding, (i, j), x.shape[1:3], strict=True
                )
            )
            rows, columns = (
                np.array(at, int) * step - pad + tap
                for at, step, pad, tap in zip(
                    (top, left), self.stride, self.padding, (i, j), strict=True
                )
            )
            part = np.ix_(range(x.shape[0]), top, left, range(x.shape[3]))
            y[part] = np.maximum(y[part], x[:, rows][:, :, columns])
        return y

    @classmethod
    def of(cls, fields: Mapping[str, Sequence[int]] | None) -> MaxPool | None:
        """Returns the pool with these fields, as JSON gives them back; None for None."""
        if fields is None:
            return None
        return cls(**{name: (pair[0], pair[1]) for name, pair in fields.items()})
