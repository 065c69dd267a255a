"""im2col tensor maps, by which the TMA copies a convolution's input; TVM can't make them.

The host code of WGMMA kernels calls `encode_im2col` by name.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import tvm_ffi

from intrinsics.wgmma import ENCODE_IM2COL, TENSOR_MAP_PROMOTION
from tvmconv.errors import TargetError

#: ``CUtensorMapDataType`` by the bytes of an element: unsigned bytes, fp16.
DATA_TYPES = {1: 0, 2: 6}


@cache
def _encode() -> Any:
    """The driver's cuTensorMapEncodeIm2col. Raises `TargetError` if the driver is older."""
    driver = ctypes.CDLL("libcuda.so.1")
    try:
        return driver.cuTensorMapEncodeIm2col
    except AttributeError:
        raise TargetError(
            "this driver has no cuTensorMapEncodeIm2col",
            hint="install one for CUDA 12 or later, or build for sm_90 instead of sm_90a",
        ) from None


@tvm_ffi.register_global_func(ENCODE_IM2COL)
def encode_im2col(tensor_map: Any, data: Any, *numbers: int) -> None:
    """Writes the map of the NHWC tensor at `data` to where `tensor_map` points.

    numbers: as `schedules.threads.tensor_map.Im2col` lists them. Raises `TargetError` where the
    driver refuses them.
    """
    sizes, strides, lower, upper = numbers[:4], numbers[4:7], numbers[7:9], numbers[9:11]
    channels, pixels, step_w, step_h, swizzle, element = numbers[11:]
    status = _encode()(
        _pointer(tensor_map),
        DATA_TYPES[element],
        len(sizes),
        _pointer(data),
        (ctypes.c_uint64 * 4)(*sizes),
        (ctypes.c_uint64 * 3)(*strides),
        (ctypes.c_int * 2)(*lower),
        (ctypes.c_int * 2)(*upper),
        ctypes.c_uint32(channels),
        ctypes.c_uint32(pixels),
        (ctypes.c_uint32 * 4)(1, step_w, step_h, 1),
        0,  # not interleaved
        swizzle,
        TENSOR_MAP_PROMOTION,
        0,  # zeros in the padding
    )
    if status:
        raise TargetError(
            f"the CUDA driver makes no tensor map of {numbers}", note=f"CUresult {status}"
        )


def _pointer(handle: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(getattr(handle, "value", handle))
