"""A convolution and what its kernel computes besides: the data that the rules fill in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    residual_last: bool = False
    activation: Activation = IDENTITY
    slope: NDArray[Any] | None = None
    #: `absorb_pool`; never one where there is a residual.
    pool: MaxPool | None = None
    #: A depthwise convolution that the same kernel computes first: x is its input, `x_shape` the
    #: shape of its output.
    prologue: Region | None = None

    @property
    def transposed(self) -> bool:
        """True for a transposed convolution."""
        return self.op == "relax.nn.conv2d_transpose"

    @property
    def k(self) -> int:
        """Output channels."""
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0]

    @property
    def linear(self) -> bool:
        """True if it has neither a residual nor an activation so far."""
        return self.residual is None and self.activation.kind == "none"
