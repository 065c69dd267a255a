"""What one convolution is: `ConvWorkload`, frozen, hashable, JSON both ways.

The letters, here and everywhere: N batch, H W input rows and columns, C input channels, K output
channels, R S filter rows and columns, P Q output rows and columns.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from schedules.activations import IDENTITY, Activation
from schedules.max_pool import MaxPool

Pair = tuple[int, int]


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


@dataclass(frozen=True)
class Epilogue:
    """``y = activation(conv + bias + residual)`` in fp32, then cast to ``out_dtype``.

    Or, with ``residual_last``, ``activation(conv + bias) + residual``. bias: fp32 (K,). residual:
    fp16, the output's shape, in ``residual_layout``. A "prelu" has its slopes, fp32 (K,). A
    ``pool`` then reads y, and the output is the pool's.
    """

    bias: bool = False
    residual: bool = False
    residual_layout: Layout = NHWC
    activation: Activation = IDENTITY
    out_dtype: str = "float16"
    residual_last: bool = False
    pool: MaxPool | None = None

    def __str__(self) -> str:
        parts = ["bias"] * self.bias + ["residual"] * (self.residual and not self.residual_last)
        parts += [str(self.activation)] * (self.activation.kind != "none")
        parts += ["residual"] * (self.residual and self.residual_last)
        parts += [] if self.pool is None else [str(self.pool)]
        return " + ".join(parts) or "none"


@dataclass(frozen=True)
class ConvWorkload:
    """One convolution. ``padding`` is (top, left, bottom, right), negative where the image is
    cropped; operands are fp16. With a ``window`` the output is a part of a larger NHWC tensor.

    A matrix product of (M, C) and (C, K) is the case n = M of one pixel and a 1x1 filter.

    Raises ``ValueError`` where the numbers describe no convolution.
    """

    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    in_layout: Layout = NHWC
    out_layout: Layout = NHWC
    accumulator_dtype: str = "float32"
    epilogue: Epilogue = field(default_factory=Epilogue)
    window: Window | None = None

    def __post_init__(self) -> None:
        sizes = (self.n, self.h, self.w, self.c, self.k, self.r, self.s, self.groups)
        if min(*sizes, *self.stride, *self.dilation) < 1:
            raise ValueError(f"{self!r}: sizes are at least 1")
        if self.c % self.groups or self.k % self.groups:
            raise ValueError(f"{self!r}: channels divide into groups")
        if self.p < 1 or self.q < 1:
            raise ValueError(f"{self!r}: the filter is larger than the padded image")
        if self.window is not None:
            self._check_window(self.window)
        pool = self.epilogue.pool
        if pool is not None and (not pool.reads(self.p, self.q) or self.window is not None):
            raise ValueError(f"{self!r}: a window of the pool is empty, or the output has one")

    def _check_window(self, window: Window) -> None:
        last = (*window.pixel(self.p - 1, self.q - 1), window.channel + self.k - 1)
        first = (window.row, window.column, window.channel)
        sizes = (window.rows, window.columns, window.channels)
        if min(first) < 0 or any(at >= size for at, size in zip(last, sizes, strict=True)):
            raise ValueError(f"{self!r}: the output does not fit its window")
        if self.out_layout.packed:
            raise ValueError(f"{self!r}: a window is a part of an NHWC tensor")

    @cached_property
    def p(self) -> int:
        return self._out(self.h, self.r, self.stride[0], self.dilation[0], 0)

    @cached_property
    def q(self) -> int:
        return self._out(self.w, self.s, self.stride[1], self.dilation[1], 1)

    def _out(self, size: int, taps: int, stride: int, dilation: int, axis: int) -> int:
        span = size + self.padding[axis] + self.padding[axis + 2] - dilation * (taps - 1) - 1
        return span // stride + 1 if span >= 0 else 0

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.in_layout.shape(self.n, self.h, self.w, self.c)

    @property
    def out_pixels(self) -> Pair:
        """Rows and columns of the output: P and Q, or of the pool."""
        return (self.p, self.q) if self.epilogue.pool is None else self.epilogue.pool.size

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of what is computed; `buffer_shape` of what it is written to."""
        return self.out_layout.shape(self.n, *self.out_pixels, self.k)

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        if self.window is None:
            return self.out_shape
        return (self.n, self.window.rows, self.window.columns, self.window.channels)

    @property
    def residual_shape(self) -> tuple[int, ...]:
        """As many pixels as the tensor that is written to, but the convolution's own channels."""
        at = self.window
        rows, columns = (self.p, self.q) if at is None else (at.rows, at.columns)
        return self.epilogue.residual_layout.shape(self.n, rows, columns, self.k)

    @property
    def group_c(self) -> int:
        return self.c // self.groups

    @property
    def group_k(self) -> int:
        return self.k // self.groups

    @property
    def k_stored(self) -> int:
        """Output channels that the output has room for: K, or whole blocks of a packed layout."""
        return round_up(self.k, self.out_layout.c or 1)

    @property
    def depthwise(self) -> bool:
        return self.groups == self.c > 1 and self.k % self.c == 0

    @property
    def useful_macs(self) -> int:
        """Multiply-adds that the convolution's definition asks for, padding taps included."""
        return self.n * self.p * self.q * self.k * self.r * self.s * self.c // self.groups

    def __str__(self) -> str:
        text = f"{self.n}x{self.h}x{self.w}x{self.c} -> {self.k}, {self.r}x{self.s}"
        text += f"/{self.stride[0]}" if self.stride[0] == self.stride[1] != 1 else ""
        text += f"/{self.stride}" if self.stride[0] != self.stride[1] else ""
        text += f", dilation {self.dilation}" if self.dilation != (1, 1) else ""
        return text + (f", {self.groups} groups" if self.groups != 1 else "")

    def to_json(self) -> str:
        def plain(value: Any) -> Any:
            return str(value) if isinstance(value, Layout) else dataclasses.asdict(value)

        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        epilogue = dataclasses.asdict(self.epilogue)
        epilogue["residual_layout"] = str(self.epilogue.residual_layout)
        return json.dumps({**fields, "epilogue": epilogue}, default=plain, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ConvWorkload:
        fields = json.loads(text)
        epilogue = fields.pop("epilogue")
        epilogue["residual_layout"] = Layout.parse(epilogue["residual_layout"])
        activation = epilogue["activation"]
        epilogue["activation"] = Activation(activation["kind"], tuple(activation["parameters"]))
        epilogue["pool"] = MaxPool.of(epilogue.get("pool"))
        fields["window"] = None if fields["window"] is None else Window(**fields["window"])
        for name in ("in_layout", "out_layout"):
            fields[name] = Layout.parse(fields[name])
        for name in ("stride", "padding", "dilation"):
            fields[name] = tuple(fields[name])
        return cls(**fields, epilogue=Epilogue(**epilogue))
