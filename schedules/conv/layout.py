"""The position of elements in memory: a `Layout`, and a `Window` of a larger tensor.

Indices are numbers or TVM expressions. Letters as in `schedules.conv.workload`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any


def ceil_div(value: int, step: int) -> int:
    """Returns value / step, rounded up."""
    return -(-value // step)


def round_up(value: int, step: int) -> int:
    """Returns the least multiple of ``step`` that is not below ``value``."""
    return ceil_div(value, step) * step


@dataclass(frozen=True)
class Layout:
    """The layout of an activation: ``NHWC``, or packed ``NHWC16n16c``.

    The packed axes are (N/n, H, W, C/c, n, c), N and C rounded up. ``NHWC`` is the case n = 1 and c
    = C, in four axes. Packed, a 16x16 tile of an implicit GEMM (the same pixel of 16 images by 16
    channels) is one contiguous block. Raises ``ValueError`` for impossible n and c.
    """

    n: int = 1
    #: Channels of a block; 0 for all.
    c: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.c < 0 or (self.c == 0 and self.n != 1):
            raise ValueError(f"not a layout: n={self.n}, c={self.c}")

    @property
    def packed(self) -> bool:
        """True if images and channels are in blocks."""
        return self.c != 0

    def __str__(self) -> str:
        return f"NHWC{self.n}n{self.c}c" if self.packed else "NHWC"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Returns the layout of that name. Raises ``ValueError`` for other text."""
        if text == "NHWC":
            return NHWC
        match = re.fullmatch(r"NHWC(\d+)n(\d+)c", text)
        if not match:
            raise ValueError(f"layout {text!r} is neither NHWC nor NHWC<n>n<c>c")
        return cls(int(match[1]), int(match[2]))

    def shape(self, n: int, h: int, w: int, c: int) -> tuple[int, ...]:
        """Returns the shape of the array that holds (n, h, w, c) elements."""
        if not self.packed:
            return (n, h, w, c)
        return (ceil_div(n, self.n), h, w, ceil_div(c, self.c), self.n, self.c)

    def index(self, n: Any, h: Any, w: Any, c: Any) -> tuple[Any, ...]:
        """Returns the index of element (n, h, w, c) in the array."""
        if not self.packed:
            return (n, h, w, c)
        return (n // self.n, h, w, c // self.c, n % self.n, c % self.c)

    def element(self, *index: Any) -> tuple[Any, Any, Any, Any]:
        """Returns the (n, h, w, c) at `index`; the inverse of `index`."""
        if not self.packed:
            n, h, w, c = index
            return n, h, w, c
        n, h, w, c, n_in, c_in = index
        return n * self.n + n_in, h, w, c * self.c + c_in


NHWC = Layout()
PACKED = Layout(16, 16)


@dataclass(frozen=True)
class Window:
    """The part of a larger NHWC tensor that a convolution writes.

    Pixel (p, q) goes to row ``row + p * row_step``, column ``column + q * column_step``. Channel
    k goes to position c = ``channel + k``. With ``shuffle``, a channel shuffle of the whole tensor
    then moves c to c % (channels / shuffle) * shuffle + c // (channels / shuffle).

    So branches of a Concat write into one tensor, each stride phase of a transposed convolution
    writes its own pixels, and a channel shuffle costs nothing. Raises ``ValueError`` for a shuffle
    that does not divide the channels and for steps below 1.
    """

    rows: int
    columns: int
    channels: int
    row: int = 0
    column: int = 0
    channel: int = 0
    row_step: int = 1
    column_step: int = 1
    shuffle: int = 1

    def __post_init__(self) -> None:
        if self.shuffle < 1 or self.channels % self.shuffle:
            raise ValueError(f"{self!r}: the shuffle has to divide the channels")
        if min(self.row_step, self.column_step) < 1:
            raise ValueError(f"{self!r}: steps are at least 1")

    def pixel(self, p: Any, q: Any) -> tuple[Any, Any]:
        """Returns row and column of pixel (p, q) in the larger tensor."""
        return self.row + p * self.row_step, self.column + q * self.column_step

    def position(self, k: Any) -> Any:
        """Returns the channel of the larger tensor that channel k goes to."""
        c = k + self.channel
        if self.shuffle == 1:
            return c
        each = self.channels // self.shuffle
        return c % each * self.shuffle + c // each

    @property
    def adjacent(self) -> int:
        """A number that divides the start of each run of adjacent channels; 1 after a shuffle."""
        return math.gcd(self.channels, self.channel) if self.shuffle == 1 else 1
