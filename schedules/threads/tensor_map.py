"""Tensor maps: how the copy engine sees a tensor. The host encodes them, before the launch.

CUDA Driver API, "Tensor Map Object Management".
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import INT8, UINT8
from intrinsics.wgmma import ENCODE_IM2COL


def tensor_map(name: str) -> Expr:
    """A tensor map, to be encoded by one of the functions below if it is used."""
    variable = IRBuilder.name(name, T.handle("tensormap"))
    return T.bind(T.tvm_stack_alloca("tensormap", 1), var=variable)


@dataclass(frozen=True)
class Matrix:
    """A row-major matrix, of which a copy takes a box.

    sizes: (columns, rows). row_bytes: from one row to the next. box: (columns, rows) of a copy.
    swizzle: ``CUtensorMapSwizzle`` of a row of the box in shared memory. promotion:
    ``CUtensorMapL2promotion``.
    """

    sizes: tuple[int, int]
    row_bytes: int
    box: tuple[int, int]
    swizzle: int
    promotion: int = 0

    def encode(self, target: Expr, buffer: Expr) -> None:
        """Encodes the map of a buffer, by ``cuTensorMapEncodeTiled``."""
        layout = (*self.sizes, self.row_bytes, *self.box, 1, 1, 0, self.swizzle, self.promotion, 0)
        name = "runtime.cuTensorMapEncodeTiled"
        dtype = str(buffer.dtype)
        # There are maps of unsigned bytes only.
        copied = UINT8.name if dtype == INT8.name else dtype
        T.evaluate(T.call_packed(name, target, copied, 2, buffer.data, *layout))


@dataclass(frozen=True)
class Im2col:
    """An NHWC tensor, of which a copy takes pixels in the order of a convolution's outputs.

    sizes: (C, W, H, N). strides: in bytes, from one W, H and N to the next. lower, upper: corners
    (W, H) of the box that the first pixels stay in, the lower one relative to the image's first
    pixel, the upper one to its last. channels, pixels: of a copy. steps: (W, H) from pixel to
    pixel. swizzle: ``CUtensorMapSwizzle`` of a pixel's channels in shared memory.
    """

    sizes: tuple[int, int, int, int]
    strides: tuple[int, int, int]
    lower: tuple[int, int]
    upper: tuple[int, int]
    channels: int
    pixels: int
    steps: tuple[int, int]
    swizzle: int

    def encode(self, target: Expr, buffer: Expr) -> None:
        """Encodes the map of a buffer, by ``cuTensorMapEncodeIm2col``."""
        copy = (self.channels, self.pixels, *self.steps, self.swizzle)
        element = dtypes.get(str(buffer.dtype)).bytes
        layout = (*self.sizes, *self.strides, *self.lower, *self.upper, *copy, element)
        T.evaluate(T.call_packed(ENCODE_IM2COL, target, buffer.data, *layout))
