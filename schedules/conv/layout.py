"""Where the elements of an activation lie: a `Layout`, and a `Window` of a larger tensor.

Both take numbers or TVM expressions as indices. Letters as in `schedules.conv.workload`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any


def ceil_div(value: int, step: int) -> int:
    return -(-value // step)


def round_up(value: int, step: int) -> int:
    return ceil_div(value, step) * step


@dataclass(frozen=True)
class Layout:
    """Where element (n, h, w, c) of an activation lies: ``NHWC``, or packed ``NHWC16n16c``.

    The packed axes are (N/n, H, W, C/c, n, c), N and C rounded up. ``NHWC`` is the case n = 1
    and c = C, in four axes. Packed, a 16x16 tile of an implicit GEMM (16 images' same pixel by
    16 channels) is one contiguous block.
    """

    n: int = 1
    #: Channels of a block; 0 stands for all of them.
    c: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.c < 0 or (self.c == 0 and self.n != 1):
            raise ValueError(f"no layout has n={self.n}, c={self.c}")

    @property
    def packed(self) -> bool:
        return self.c != 0

    def __str__(self) -> str:
        return f"NHWC{self.n}n{self.c}c" if self.packed else "NHWC"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout written so. Raises ``ValueError`` for another text."""
        if text == "NHWC":
            return NHWC
        match = re.fullmatch(r"NHWC(\d+)n(\d+)c", text)
        if not match:
            raise ValueError(f"layout {text!r} is neither NHWC nor NHWC<n>n<c>c")
        return cls(int(match[1]), int(match[2]))

    def shape(self, n: int, h: int, w: int, c: int) -> tuple[int, ...]:
        """Shape of the array that holds (n, h, w, c) elements."""
        if not self.packed:
            return (n, h, w, c)
        return (ceil_div(n, self.n), h, w, ceil_div(c, self.c), self.n, self.c)

    def index(self, n: Any, h: Any, w: Any, c: Any) -> tuple[Any, ...]:
        """Where element (n, h, w, c) lies. Takes numbers or TVM expressions."""
        if not self.packed:
            return (n, h, w, c)
        return (n // self.n, h, w, c // self.c, n % self.n, c % self.c)

    def element(self, *index: Any) -> tuple[Any, Any, Any, Any]:
        """The (n, h, w, c) that lies at `index`: the inverse of `index`."""
        if not self.packed:
            n, h, w, c = index
            return n, h, w, c
        n, h, w, c, n_in, c_in = index
        return n * self.n + n_in, h, w, c * self.c + c_in


NHWC = Layout()
PACKED = Layout(16, 16)


@dataclass(frozen=True)
class Window:
    """A part of a larger NHWC tensor: where a convolution writes, if not a tensor of its own.

    Pixel (p, q) goes to row ``row + p * row_step``, column ``column + q * column_step``. Channel
    k goes to position c = ``channel + k``, and with ``shuffle`` to where a channel shuffle of the
    whole tensor moves that: c % (channels / shuffle) * shuffle + c // (channels / shuffle).

    So branches of a Concat write into one tensor, each stride phase of a transposed convolution
    writes its own pixels, and a channel shuffle costs nothing.
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
            raise ValueError(f"{self!r}: a shuffle divides the channels")
        if min(self.row_step, self.column_step) < 1:
            raise ValueError(f"{self!r}: steps are at least 1")

    def pixel(self, p: Any, q: Any) -> tuple[Any, Any]:
        """Where pixel (p, q) lies. Takes numbers or TVM expressions, as all of these."""
        return self.row + p * self.row_step, self.column + q * self.column_step

    def position(self, k: Any) -> Any:
        """Where channel k lies."""
        c = k + self.channel
        if self.shuffle == 1:
            return c
        each = self.channels // self.shuffle
        return c % each * self.shuffle + c // each

    @property
    def adjacent(self) -> int:
        """What divides the place of a run of adjacent channels: 1 where there are none."""
        return math.gcd(self.channels, self.channel) if self.shuffle == 1 else 1
