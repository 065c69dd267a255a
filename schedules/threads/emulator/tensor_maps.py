"""The copy engine's tensor maps, encoded for `hopper.h` as a kernel's host code asks."""

from __future__ import annotations

import ctypes
from typing import Any

from numpy.typing import NDArray

from schedules.errors import KernelFault

#: The functions that encode a map: ours and TVM's own. `im2col` and `matrix` of
#: `schedules.families.wgmma.kernel` list their arguments.
IM2COL, TILED = "tvmconv.encode_im2col", "runtime.cuTensorMapEncodeTiled"


class Map(ctypes.Structure):
    """The `TensorMap` of `hopper.h`."""

    _fields_ = (
        ("im2col", ctypes.c_bool),
        ("element_bytes", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("sizes", ctypes.c_int * 4),
        ("strides", ctypes.c_int64 * 4),
        ("lower", ctypes.c_int * 2),
        ("upper", ctypes.c_int * 2),
        ("channels", ctypes.c_int),
        ("pixels", ctypes.c_int),
        ("steps", ctypes.c_int * 2),
        ("swizzle", ctypes.c_int),
    )


def encode(function: str, array: NDArray[Any], numbers: list[int]) -> Map:
    """Returns the map that `function`, `IM2COL` or `TILED`, encodes with these arguments.

    Raises `KernelFault` for arguments that the driver refuses.
    """
    return (_im2col if function == IM2COL else _tiled)(array, numbers)


def _im2col(array: NDArray[Any], numbers: list[int]) -> Map:
    sizes, strides, lower, upper = numbers[:4], numbers[4:7], numbers[7:9], numbers[9:11]
    channels, pixels, *steps, swizzle, element = numbers[11:]
    _require(element == array.itemsize, "the size of an element")
    # "cuTensorMapEncodeIm2col" in the documentation of the driver, for tensors of rank 4.
    _require(all(-128 <= corner <= 127 for corner in lower + upper), "a corner of the box")
    _require(1 <= channels <= 256 and 1 <= pixels <= 1024, "the size of the box")
    return _map(array, True, sizes, strides, lower, upper, channels, pixels, steps, swizzle)


def _tiled(array: NDArray[Any], numbers: list[int]) -> Map:
    sizes, strides, (channels, pixels), steps = (
        numbers[:2],
        numbers[2:3],
        numbers[3:5],
        numbers[5:7],
    )
    interleave, swizzle, _, filled_with_nan = numbers[7:]
    # "cuTensorMapEncodeTiled"; then the modes that are not emulated.
    _require(1 <= channels <= 256 and 1 <= pixels <= 256, "the size of the box")
    _require((steps, interleave, filled_with_nan) == ([1, 1], 0, 0), "a step or a fill")
    none = [0, 0]
    return _map(array, False, [*sizes, 1, 1], strides, none, none, channels, pixels, steps, swizzle)


def _map(
    array: NDArray[Any],
    im2col: bool,
    sizes: list[int],
    strides: list[int],
    lower: list[int],
    upper: list[int],
    channels: int,
    pixels: int,
    steps: list[int],
    swizzle: int,
) -> Map:
    _require(array.ctypes.data % 16 == 0, "the alignment of the tensor")
    _require(all(0 < s < 1 << 40 and s % 16 == 0 for s in strides), "a stride of the tensor")
    _require(all(1 <= step <= 8 for step in steps), "a step")
    _require(all(1 <= size <= 1 << 32 for size in sizes), "a size of the tensor")
    row_bytes = 16 << swizzle  # CUtensorMapSwizzle: none, 32, 64 and 128 bytes
    inner = array.itemsize * channels
    _require(inner % 16 == 0 and (not swizzle or inner <= row_bytes), "the box's row")
    return Map(
        im2col,
        array.itemsize,
        array.ctypes.data,
        tuple(sizes),
        (array.itemsize, *strides),
        tuple(lower),
        tuple(upper),
        channels,
        pixels,
        tuple(steps),
        row_bytes,
    )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise KernelFault(f"a tensor map cannot be encoded: {what} is not allowed")
