"""8-bit integers as packed pairs of fp16: compared and limited two at a time, then made bytes.

fp16 has all whole numbers up to 2048. What is larger is rounded, or infinite, on the right side of
every limit of 8 bits. So values are rounded in fp32, and all that comes after, the maxima of a pool
as well, takes half an instruction each. Added to 1536 = 1.5 * 2**10, numbers below 512 have a two's
complement in the lowest bits, as in `packed_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP16
from schedules.threads import ptx

#: The dtype of an element of a pair.
ELEMENT = FP16.name
#: 1.5 * 2**10.
SHIFTS = 1536.0

#: Written in CUDA: TVM would cancel the constants.
_NEAREST = """__forceinline__ __device__ uint nearest_pair(float a, float b) {
  a = (a + 12582912.0f) - 12582912.0f;
  b = (b + 12582912.0f) - 12582912.0f;
  uint pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
  return pair;
}
"""
_JOIN = """__forceinline__ __device__ uint joined_bytes(uint ab, uint cd) {
  return __byte_perm(ab, cd, 0x6420);
}
"""


def nearest(a: Expr, b: Expr) -> Expr:
    """The whole numbers that are nearest to two fp32 numbers, of two the even one, as a pair."""
    return T.cuda.func_call("nearest_pair", a, b, source_code=_NEAREST, return_type="uint32")


def limit(
    pairs: Sequence[Expr],
    dtype: str,
    bounds: tuple[float, float] | None = None,
    zeros: Sequence[Expr] | None = None,
) -> None:
    """Limits whole numbers, in place, to `bounds`, adds `zeros`, and limits them to a dtype.

    pairs: registers. dtype: int8 or uint8. bounds: of `compute.last_bounds`; rounded here. zeros:
    zero points, in pairs.
    """
    limits = np.iinfo(dtypes.get(dtype).numpy)
    low, high = float(limits.min), float(limits.max)
    inner = (-np.inf, np.inf) if bounds is None else (float(np.rint(one)) for one in bounds)
    least, most = inner
    if zeros is None:
        low, high = (min(max(one, low), high) for one in (least, most))
    else:
        _within(pairs, least, most)
        for pair, zero in zip(pairs, zeros, strict=True):
            ptx.add_pairs(pair, zero, ELEMENT)
    _within(pairs, low, high)


def _within(pairs: Sequence[Expr], low: float, high: float) -> None:
    """Limits pairs to numbers that fp16 may lack: past 2048 no result depends on which."""
    for pair in pairs:
        if low > -dtypes.get(ELEMENT).largest:
            ptx.maximum_of_pairs(pair, _twice(low), ELEMENT)
        if high < dtypes.get(ELEMENT).largest:
            ptx.minimum_of_pairs(pair, _twice(high), ELEMENT)


def join(pairs: Sequence[Expr]) -> Expr:
    """The bytes of four limited numbers as ``uint32``, the first in its lowest bits. Changes the
    pairs, which are registers."""
    for pair in pairs:
        ptx.add_pairs(pair, _twice(SHIFTS), ELEMENT)
    return T.cuda.func_call("joined_bytes", *pairs, source_code=_JOIN, return_type="uint32")


def _twice(value: float) -> Expr:
    """A packed pair of one number."""
    largest = dtypes.get(ELEMENT).largest
    pair = np.full(2, np.clip(value, -largest, largest), dtypes.get(ELEMENT).numpy)
    return T.uint32(int(pair.view(np.uint32)[0]))
