"""Four 8-bit integers in a register: made of fp32 numbers, and read as such.

Two instructions round four numbers to integers, to even, saturate and pack them, from sm_89 on;
before, one more for each number converts it, at an eighth of the rate of fp32 additions. A zero
point is added between rounding and saturation. So with one a number is rounded by an addition: of
1.5 * 2**23 all numbers below 2**22 come out rounded to an integer, which stands in the lowest bits
as a two's complement. Larger numbers come out in order, and saturate as they should.

The rates: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions".
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP32

#: Integers that a register holds.
EACH = 4

#: "cvt" of the PTX ISA, to the nearest integer.
_NEAREST = """__forceinline__ __device__ int nearest_integer(float value) {
  int nearest;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(nearest) : "f"(value));
  return nearest;
}
"""
#: Twice the bits of 1.5 * 2**23 are taken away again: those of the number and of the zero point.
_SHIFTED = """__forceinline__ __device__ int nearest_plus_zero(float value, float zero) {
  uint shifted = __float_as_uint(fmaxf(value, -4194304.0f) + 12582912.0f);
  return (int)(shifted + __float_as_uint(zero + 12582912.0f) - 0x96800000u);
}
"""
#: By dtype. "cvt.pack" of the PTX ISA, whose first operand goes to the upper of two bytes.
_SATURATED = {
    dtype: f"""__forceinline__ __device__ uint saturated_{dtype}(int a, int b, int c, int d) {{
  uint cd, abcd;
  asm("cvt.pack.sat.{kind}.s32.b32 %0, %1, %2, %3;" : "=r"(cd) : "r"(d), "r"(c), "r"(0));
  asm("cvt.pack.sat.{kind}.s32.b32 %0, %1, %2, %3;" : "=r"(abcd) : "r"(b), "r"(a), "r"(cd));
  return abcd;
}}
"""
    for dtype, kind in ((dtypes.INT8.name, "s8"), (dtypes.UINT8.name, "u8"))
}
#: By signedness: a byte, plus 128 if it is signed, in the lowest bits of 2**23.
_UNPACK = {
    False: """__forceinline__ __device__ float unsigned_byte(uint bytes, int number) {
  return __uint_as_float(__byte_perm(bytes, 0x4b000000, 0x7440 | number)) - 8388608.0f;
}
""",
    True: """__forceinline__ __device__ float signed_byte(uint bytes, int number) {
  bytes ^= 0x80808080;
  return __uint_as_float(__byte_perm(bytes, 0x4b000000, 0x7440 | number)) - 8388736.0f;
}
""",
}


def pack(values: Sequence[Expr], dtype: str, zeros: Sequence[Expr] | None = None) -> Expr:
    """``saturate(round(value) + zero)`` of `EACH` fp32 numbers, ties to even, as ``uint32``, the
    first in its lowest bits.

    dtype: int8 or uint8, to which they saturate. zeros: small whole numbers in fp32; 0 by default.
    """
    return saturated(
        [_nearest(value) for value in values]
        if zeros is None
        else [_shifted(*one) for one in zip(values, zeros, strict=True)],
        dtype,
    )


def saturated(values: Sequence[Expr], dtype: str) -> Expr:
    """`EACH` ``int32`` numbers limited to int8 or uint8, as ``uint32``, the first in its lowest
    bits."""
    assert len(values) == EACH
    return T.cuda.func_call(
        f"saturated_{dtype}", *values, source_code=_SATURATED[dtype], return_type="uint32"
    )


def unpack(bytes: Expr, number: int, dtype: str) -> Expr:
    """The fp32 value of one of the integers in a ``uint32``; dtype: int8 or uint8."""
    signed = dtype == dtypes.INT8.name
    return T.cuda.func_call(
        "signed_byte" if signed else "unsigned_byte",
        bytes,
        number,
        source_code=_UNPACK[signed],
        return_type=FP32.name,
    )


def _nearest(value: Expr) -> Expr:
    return T.cuda.func_call("nearest_integer", value, source_code=_NEAREST, return_type="int32")


def _shifted(value: Expr, zero: Expr) -> Expr:
    return T.cuda.func_call(
        "nearest_plus_zero", value, zero, source_code=_SHIFTED, return_type="int32"
    )
