"""Four 8-bit integers in a register: made of fp32 numbers, and read as such.

Conversions of a GPU between integers and fp32 run on the unit of transcendental functions, at an
eighth of the rate of fp32 additions. (From 32-bit integers to fp32 sm_90 has a faster one.) Here
they are additions: of 1.5 * 2**23 all numbers below 2**22 come out rounded to an integer, to even,
which stands in the lowest bits as a two's complement.

The rates: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions".
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP32

#: 1.5 * 2**23. Its lowest 22 bits are zeros.
ROUNDS = 12582912.0
#: Integers that a register holds.
EACH = 4

_PACK = """__forceinline__ __device__ uint packed_bytes(float a, float b, float c, float d) {
  uint ab = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0040);
  uint cd = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0040);
  return __byte_perm(ab, cd, 0x5410);
}
"""
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


def rounded(value: Expr, zero: Expr | None) -> Expr:
    """An fp32 number whose lowest bits are ``round(value) + zero``, ties to even.

    value: fp32, below 2**22 in magnitude. zero: fp32, a small whole number.
    """
    shifted = value + T.float32(ROUNDS)
    return shifted if zero is None else shifted + zero


def pack(values: Sequence[Expr]) -> Expr:
    """The lowest bytes of `EACH` fp32 numbers as ``uint32``, the first in its lowest bits."""
    assert len(values) == EACH
    return T.cuda.func_call("packed_bytes", *values, source_code=_PACK, return_type="uint32")


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
