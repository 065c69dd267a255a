"""A convolution and what its kernel computes besides: the data that the rules fill in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from schedules.conv.activations import IDENTITY, Activation
from schedules.conv.max_pool import MaxPool


@dataclass(frozen=True)
class Region:
    """A convolution and the operators absorbed into it.

    x (N, H, W, C), of a matrix product (M, 1, 1, C). weight (K, C/groups, R, S), or transposed
    (C, K/groups, R, S); bias and slope (K,); all with scales folded in. Padding (top, left,
    bottom, right).
    """

    #: Name of the ONNX node, and operator in Relax.
    name: str
    op: str
    x: relax.Expr
    x_shape: tuple[int, int, int, int]
    #: A power of two by which x is multiplied where it is converted to what is multiplied.
    x_scale: float = field(default=1.0, kw_only=True)
    #: The last absorbed variable, which the kernel computes.
    output: relax.Var
    weight: NDArray[Any]
    #: Rows and columns of the output.
    pixels: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: NDArray[Any] | None = None
    residual: relax.Var | None = None
    #: Multiplies a residual of whole numbers; their zero point is a part of the bias.
    residual_scale: float = 1.0
    residual_last: bool = False
    activation: Activation = IDENTITY
    slope: NDArray[Any] | None = None
    #: Of a quantised convolution, (K,): weight and x are whole numbers, and this times the sum of
    #: (x - x_zero) * weight is the real sum.
    scale: NDArray[np.float64] | None = None
    x_zero: int = 0
    #: Powers of two, (K,), by which the kernel multiplies its sums, as weights were scaled the
    #: other way to suit fp16.
    sum_scale: NDArray[np.float64] | None = None
    #: Whether the result, or the residual, is kept in fp32, as fp16 does not hold it.
    wide: bool = False
    wide_residual: bool = False
    #: What was done to keep the range of fp16, in words.
    kept: tuple[str, ...] = ()
    #: Whether the kernel multiplies 8-bit numbers, or the same numbers as floats.
    integers: bool = False
    #: Why not, where x and weight are whole numbers.
    floats_because: str = ""
    #: Dtype of a quantised result, round(value * result_scale) + result_zero, each (K,); int32 for
    #: the sums of whole numbers themselves.
    result: str = ""
    result_scale: NDArray[np.float64] | None = None
    result_zero: NDArray[np.float64] | None = None
    #: The same without the quantisation of its result.
    unquantised: Region | None = None
    #: `absorb_pool`; never one where there is a residual.
    pool: MaxPool | None = None
    #: A depthwise convolution that the same kernel computes first: x is its input, `x_shape` the
    #: shape of its output.
    prologue: Region | None = None
    #: What x is multiplied by before it is convolved, (N, 1, 1, C).
    gate: relax.Var | None = None

    @property
    def reads(self) -> tuple[relax.Var, ...]:
        """The tensors that its kernels read, constants left out: x, the gate, the residual."""
        found = (self.x, self.gate, self.residual)
        return tuple(one for one in found if isinstance(one, relax.Var))

    @property
    def transposed(self) -> bool:
        """True for a transposed convolution."""
        return self.op == "relax.nn.conv2d_transpose"

    @property
    def k(self) -> int:
        """Output channels."""
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0]

    @property
    def adds_bias(self) -> bool:
        """True if the kernel adds a bias: one of the model, or one that x's zero point makes."""
        return self.bias is not None or bool(self.integers and self.x_zero)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Padding that x gets before the kernel reads it: kernels pad integers with 0, which is a
        real 0 only where the zero point is 0."""
        if not (self.integers and self.x_zero):
            return (0, 0, 0, 0)
        top, left, bottom, right = (max(pad, 0) for pad in self.padding)
        return top, left, bottom, right

    @property
    def reads_floats(self) -> bool:
        """True if whole numbers are converted to floats for it to read."""
        return (self.scale is not None and not self.integers) or self.x_scale != 1

    @property
    def linear(self) -> bool:
        """True if it has no residual, no activation and no quantised result so far."""
        return self.residual is None and self.activation.kind == "none" and not self.result

    def noted(self, what: str) -> Region:
        """Returns the region with one thing more in `kept`."""
        return replace(self, kept=(*self.kept, what))
