"""Products of 8-bit integers, four in an instruction, and their sums back to 8-bit integers.

A sum starts at `START`, the bits of 1.5 * 2**23. So long as it stays below 2**22 in magnitude, its
bits are those of an fp32 number, 1.5 * 2**23 plus the sum: an addition makes it fp32, where an
instruction that converts would run at half or an eighth of the rate. Back to bytes, a product of
fp32 with an addition can limit its result to 0 ... 1 at no cost (`limited`), one product rounds
that to an integer (`whole`), and two instructions make four of them bytes
(`packed_bytes.saturated`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP32
from schedules.threads.packed_bytes import EACH

#: The bits of 1.5 * 2**23, and the magnitude below which sums from there on can be read.
START, MOST = 0x4B400000, 1 << 22
#: The selector that selects zeros.
NOTHING = 0x4444

#: By the dtype of the first operand; the second is of int8. "dp4a" of the PTX ISA.
_DOT = {
    dtype: f"""__forceinline__ __device__ int dot_of_{dtype}(uint a, uint b, int total) {{
  int sum;
  asm("dp4a.{kind}.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(total));
  return sum;
}}
"""
    for dtype, kind in ((dtypes.INT8.name, "s32"), (dtypes.UINT8.name, "u32"))
}
_PERMUTE = """__forceinline__ __device__ uint permuted_bytes(uint a, uint b, uint selector) {
  return __byte_perm(a, b, selector);
}
"""
_REAL = """__forceinline__ __device__ float sum_as_float(int sum) {
  return __uint_as_float((uint)sum) - 12582912.0f;
}
"""
#: "fma" of the PTX ISA.
_LIMITED = """__forceinline__ __device__ float limited(float a, float b, float c) {
  float limited;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(limited) : "f"(a), "f"(b), "f"(c));
  return limited;
}
"""
#: The smallest numbers of fp32 are whole multiples of 2**-149, and their bits are the multiple.
#: "mul" of the PTX ISA, which keeps them.
_WHOLE = """__forceinline__ __device__ int whole_number(float part, int range) {
  float whole, factor = __int_as_float(range);
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(whole) : "f"(part), "f"(factor));
  return __float_as_int(whole);
}
"""


def dot(a: Expr, b: Expr, total: Expr, dtype: str) -> Expr:
    """Four products and their sum with `total`, ``int32``; "dp4a". a, b: ``uint32``, of four bytes
    each. dtype: int8 or uint8, of those of a; those of b are int8."""
    return T.cuda.func_call(
        f"dot_of_{dtype}", a, b, total, source_code=_DOT[dtype], return_type="int32"
    )


def permuted(a: Expr, b: Expr, *numbers: int) -> Expr:
    """Four of the eight bytes of two registers, by their numbers; "prmt"."""
    assert len(numbers) == EACH
    return _permuted(a, b, T.uint32(sum(number << 4 * i for i, number in enumerate(numbers))))


def selected(bytes: Expr, selector: Expr) -> Expr:
    """A register whose byte i is that of `bytes` whose number is in bits 4 i and the next of the
    selector, ``uint32``, or zero where `NOTHING` has its bits there; "prmt"."""
    return _permuted(bytes, T.uint32(0), selector)


def _permuted(a: Expr, b: Expr, selector: Expr) -> Expr:
    return T.cuda.func_call(
        "permuted_bytes", a, b, selector, source_code=_PERMUTE, return_type="uint32"
    )


def pair(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """The bytes of two registers in turns: of the lower halves, and of the upper."""
    return permuted(a, b, 0, 4, 1, 5), permuted(a, b, 2, 6, 3, 7)


def transposed(low: Sequence[Expr], high: Sequence[Expr]) -> list[Expr]:
    """Register i has byte i of each of four registers: of the first two and of the last two, each
    as `pair` gives them."""
    return [
        permuted(low[i // 2], high[i // 2], *(2 * (i % 2) + one for one in (0, 1, 4, 5)))
        for i in range(EACH)
    ]


def real(sum: Expr) -> Expr:
    """A sum that started at `START`, in fp32, exactly."""
    return T.cuda.func_call("sum_as_float", sum, source_code=_REAL, return_type=FP32.name)


def limited(a: Expr, b: Expr, c: Expr) -> Expr:
    """``min(max(a * b + c, 0), 1)`` in fp32, rounded once; "fma"."""
    return T.cuda.func_call("limited", a, b, c, source_code=_LIMITED, return_type=FP32.name)


def whole(part: Expr, range: int) -> Expr:
    """``round(part * range)`` as ``int32``, ties to even. part: fp32, from 0 to 1. range: at most
    2**22."""
    return T.cuda.func_call("whole_number", part, range, source_code=_WHOLE, return_type="int32")
