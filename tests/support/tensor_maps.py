"""The copy engine's tensor maps, as a kernel's host code asks for them, for `hopper_on_cpu.h`."""

from __future__ import annotations

import ctypes
import re

from tests.support.kernels import Array

#: `ENCODE_IM2COL` and TVM's own, as `wgmma_kernel.im2col` and `matrix` list what they take.
IM2COL, TILED = "tvmconv.encode_im2col", "runtime.cuTensorMapEncodeTiled"
CALL = rf'T\.call_packed\("({IM2COL}|{TILED})", (\w+), (?:"float16", 2, )?(\w+)\.data, ([-\d, ]+)\)'


class Map(ctypes.Structure):
    """As `Map` there."""

    _fields_ = (
        ("im2col", ctypes.c_bool),
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


def maps(script: str, arrays: dict[str, Array]) -> dict[str, Map]:
    """By its name, each that the function whose text is `script` makes of these arrays."""
    found = {}
    for encode, name, array, numbers in re.findall(CALL, script):
        values = [int(number) for number in numbers.split(",")]
        make = _im2col if encode == IM2COL else _tiled
        found[name] = make(arrays[array], values)
    return found


def _im2col(array: Array, numbers: list[int]) -> Map:
    sizes, strides, lower, upper = numbers[:4], numbers[4:7], numbers[7:9], numbers[9:11]
    channels, pixels, *steps, swizzle = numbers[11:]
    # "cuTensorMapEncodeIm2col" in the documentation of the driver, for tensors of rank 4.
    assert all(-128 <= corner <= 127 for corner in lower + upper)
    assert 1 <= channels <= 256
    assert 1 <= pixels <= 1024
    return _map(array, True, sizes, strides, lower, upper, channels, pixels, steps, swizzle)


def _tiled(array: Array, numbers: list[int]) -> Map:
    sizes, strides, (channels, pixels), steps = (
        numbers[:2],
        numbers[2:3],
        numbers[3:5],
        numbers[5:7],
    )
    interleave, swizzle, _, filled_with_nan = numbers[7:]
    # "cuTensorMapEncodeTiled"; and what is not written out here.
    assert 1 <= channels <= 256
    assert 1 <= pixels <= 256
    assert (steps, interleave, filled_with_nan) == ([1, 1], 0, 0)
    none = [0, 0]
    return _map(array, False, [*sizes, 1, 1], strides, none, none, channels, pixels, steps, swizzle)


def _map(
    array: Array,
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
    assert array.dtype == "float16"
    assert array.ctypes.data % 16 == 0
    assert all(0 < stride < 1 << 40 and stride % 16 == 0 for stride in strides)
    assert all(1 <= step <= 8 for step in steps)
    assert all(1 <= size <= 1 << 32 for size in sizes)
    row_bytes = 16 << swizzle  # CUtensorMapSwizzle: none, 32, 64 and 128 bytes
    assert 2 * channels % 16 == 0
    assert not swizzle or 2 * channels <= row_bytes
    return Map(
        im2col,
        array.ctypes.data,
        tuple(sizes),
        (2, *strides),
        tuple(lower),
        tuple(upper),
        channels,
        pixels,
        tuple(steps),
        row_bytes,
    )
