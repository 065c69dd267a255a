"""One convolution as data: `ConvWorkload`, frozen, hashable, to JSON and back.

The letters, here and everywhere: N batch, H W input rows and columns, C input channels, K output
channels, R S filter rows and columns, P Q output rows and columns.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from intrinsics import dtypes
from schedules.conv.activations import IDENTITY, Activation
from schedules.conv.layout import NHWC as NHWC
from schedules.conv.layout import PACKED as PACKED
from schedules.conv.layout import Layout as Layout
from schedules.conv.layout import Window as Window
from schedules.conv.layout import ceil_div as ceil_div
from schedules.conv.layout import round_up as round_up
from schedules.conv.max_pool import MaxPool
from schedules.conv.precision import Precision

Pair = tuple[int, int]


@dataclass(frozen=True)
class Epilogue:
    """``y = activation(conv + bias + residual)`` in fp32, then cast to the result's dtype.

    With ``residual_last`` it is ``activation(conv + bias) + residual``. bias: fp32 (K,). residual:
    the output's shape, in ``residual_layout``. A "prelu" has slopes, fp32 (K,). If there is a
    ``pool`` it reads y, and the output is the pool's.
    """

    bias: bool = False
    residual: bool = False
    residual_layout: Layout = NHWC
    activation: Activation = IDENTITY
    residual_last: bool = False
    pool: MaxPool | None = None

    def __str__(self) -> str:
        parts = ["bias"] * self.bias + ["residual"] * (self.residual and not self.residual_last)
        parts += [str(self.activation)] * (self.activation != IDENTITY)
        parts += ["residual"] * (self.residual and self.residual_last)
        parts += [] if self.pool is None else [str(self.pool)]
        return " + ".join(parts) or "none"


@dataclass(frozen=True)
class ConvWorkload:
    """One convolution.

    ``padding`` is (top, left, bottom, right), negative where the image is cropped. With a
    ``window`` the output is a part of a larger NHWC tensor. A matrix product of (M, C) and (C, K)
    is the case n = M of one pixel and a 1x1 filter.

    With a ``prologue``, a depthwise convolution, the same kernel computes that first: x is the
    prologue's input, and this convolution reads the prologue's result.

    With a ``gate``, x is multiplied by one number for each image and channel, (N, 1, 1, C) in x's
    dtype, and rounded to that dtype, before it is convolved.

    Raises ``ValueError`` if the numbers describe no convolution.
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
    precision: Precision = field(default_factory=Precision)
    epilogue: Epilogue = field(default_factory=Epilogue)
    window: Window | None = None
    prologue: ConvWorkload | None = None
    gate: bool = False

    def __post_init__(self) -> None:
        sizes = (self.n, self.h, self.w, self.c, self.k, self.r, self.s, self.groups)
        if min(*sizes, *self.stride, *self.dilation) < 1:
            raise ValueError(f"{self!r}: sizes are at least 1")
        if self.c % self.groups or self.k % self.groups:
            raise ValueError(f"{self!r}: groups have to divide the channels")
        if self.p < 1 or self.q < 1:
            raise ValueError(f"{self!r}: the filter is larger than the padded image")
        if self.window is not None:
            self._check_window(self.window)
        if self.precision.sums and (self.epilogue != Epilogue() or self.precision.scales):
            raise ValueError(f"{self!r}: sums of integers have no epilogue")
        pool = self.epilogue.pool
        if pool is not None and (not pool.reads(self.p, self.q) or self.window is not None):
            raise ValueError(f"{self!r}: an empty window of the pool, or a pool in a window")
        if self.prologue is not None:
            self._check_prologue(self.prologue)
        if self.gate and (self.groups != 1 or self.in_layout.packed or self.prologue is not None):
            raise ValueError(f"{self!r}: a gate is of an NHWC tensor that one group reads")
        if self.gate and dtypes.get(self.precision.x).integer:
            raise ValueError(f"{self!r}: a gate multiplies floats")

    def _check_prologue(self, first: ConvWorkload) -> None:
        given = (first.n, first.p, first.q, first.k)
        read = (self.n, self.h, self.w, self.c)
        if given != read or first.precision.result != self.precision.x:
            raise ValueError(f"{self!r}: the prologue's output is not the convolution's input")
        if not first.depthwise or first.k != first.c or first.epilogue.residual:
            raise ValueError(f"{self!r}: a prologue is depthwise, without multiplier or residual")
        more = first.window or first.prologue or first.epilogue.pool
        if first.out_layout != self.in_layout or more:
            raise ValueError(f"{self!r}: the prologue has another layout, a window or a pool")

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
        """Output rows."""
        return self._out(self.h, self.r, self.stride[0], self.dilation[0], 0)

    @cached_property
    def q(self) -> int:
        """Output columns."""
        return self._out(self.w, self.s, self.stride[1], self.dilation[1], 1)

    def _out(self, size: int, taps: int, stride: int, dilation: int, axis: int) -> int:
        span = size + self.padding[axis] + self.padding[axis + 2] - dilation * (taps - 1) - 1
        return span // stride + 1 if span >= 0 else 0

    @property
    def apart(self) -> tuple[ConvWorkload, ...]:
        """The same as separate convolutions: the prologue, if any, then this one without it."""
        return (self,) if self.prologue is None else (self.prologue, replace(self, prologue=None))

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of x, in its layout."""
        if self.prologue is not None:
            return self.prologue.in_shape
        return self.in_layout.shape(self.n, self.h, self.w, self.c)

    @property
    def gate_shape(self) -> tuple[int, ...]:
        """Shape of the gate, if there is one."""
        return (self.n, 1, 1, self.c)

    @property
    def out_pixels(self) -> Pair:
        """Rows and columns of the output: P and Q, or the pool's."""
        return (self.p, self.q) if self.epilogue.pool is None else self.epilogue.pool.size

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the computed output, in its layout; see `buffer_shape`."""
        return self.out_layout.shape(self.n, *self.out_pixels, self.k)

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """Shape of the tensor that is written: of the window's, if there is a window."""
        if self.window is None:
            return self.out_shape
        return (self.n, self.window.rows, self.window.columns, self.window.channels)

    @property
    def residual_shape(self) -> tuple[int, ...]:
        """Shape of the residual: the pixels of the written tensor, and K channels."""
        at = self.window
        rows, columns = (self.p, self.q) if at is None else (at.rows, at.columns)
        return self.epilogue.residual_layout.shape(self.n, rows, columns, self.k)

    @property
    def group_c(self) -> int:
        """Input channels of each group."""
        return self.c // self.groups

    @property
    def group_k(self) -> int:
        """Output channels of each group."""
        return self.k // self.groups

    @property
    def k_stored(self) -> int:
        """Channels that are stored: K, rounded up to whole blocks of a packed layout."""
        return round_up(self.k, self.out_layout.c or 1)

    @property
    def depthwise(self) -> bool:
        """True if each group has one input channel."""
        return self.groups == self.c > 1 and self.k % self.c == 0

    @property
    def useful_macs(self) -> int:
        """Multiply-adds by the definition of the convolution, padding taps included."""
        if self.prologue is not None:
            return sum(one.useful_macs for one in self.apart)
        return self.n * self.p * self.q * self.k * self.r * self.s * self.c // self.groups

    def __str__(self) -> str:
        if self.prologue is not None:
            return f"{self.prologue}, then -> {self.k}, {self.r}x{self.s}"
        text = f"{self.n}x{self.h}x{self.w}x{self.c} -> {self.k}, {self.r}x{self.s}"
        text += f"/{self.stride[0]}" if self.stride[0] == self.stride[1] != 1 else ""
        text += f"/{self.stride}" if self.stride[0] != self.stride[1] else ""
        text += f", dilation {self.dilation}" if self.dilation != (1, 1) else ""
        text += f", {self.groups} groups" if self.groups != 1 else ""
        return text + (", gated" if self.gate else "")

    def to_json(self) -> str:
        """Returns the workload as JSON text."""
        return json.dumps(self._plain(), sort_keys=True)

    def _plain(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["epilogue"] = dataclasses.asdict(self.epilogue)
        fields["epilogue"]["residual_layout"] = str(self.epilogue.residual_layout)
        fields["epilogue"]["activation"] = self.epilogue.activation.to_json()
        fields["window"] = None if self.window is None else dataclasses.asdict(self.window)
        fields["precision"] = self.precision.to_json()
        # Left out if there is none, as in records from before prologues and gates.
        prologue = fields.pop("prologue")
        if prologue is not None:
            fields["prologue"] = prologue._plain()
        if not fields["gate"]:
            del fields["gate"]
        for name in ("in_layout", "out_layout"):
            fields[name] = str(fields[name])
        return fields

    @classmethod
    def from_json(cls, text: str) -> ConvWorkload:
        """Returns the workload of JSON text, also of an older one. Raises ``ValueError``."""
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> ConvWorkload:
        epilogue = fields.pop("epilogue")
        # Records from before precisions have fp16 operands.
        accumulator = fields.pop("accumulator_dtype", Precision.accumulator)
        result = epilogue.pop("out_dtype", Precision.result)
        given = fields.get("precision")
        fields["precision"] = (
            Precision(accumulator=accumulator, result=result)
            if given is None
            else Precision.from_json(given)
        )
        epilogue["residual_layout"] = Layout.parse(epilogue["residual_layout"])
        epilogue["activation"] = Activation.from_json(epilogue["activation"])
        epilogue["pool"] = MaxPool.of(epilogue.get("pool"))
        fields["window"] = None if fields["window"] is None else Window(**fields["window"])
        if "prologue" in fields:
            fields["prologue"] = cls._of(fields["prologue"])
        for name in ("in_layout", "out_layout"):
            fields[name] = Layout.parse(fields[name])
        for name in ("stride", "padding", "dilation"):
            fields[name] = tuple(fields[name])
        return cls(**fields, epilogue=Epilogue(**epilogue))
