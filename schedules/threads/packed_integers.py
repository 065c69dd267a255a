"""8-bit integers as packed pairs of fp16, of which a GPU compares two at a time.

A byte under the upper byte of 1024 is, in fp16, 1024 more. Signed bytes are first shifted by 128,
so that their order is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP16
from schedules.threads.packed_bytes import EACH

#: The dtype of an element of a pair.
ELEMENT = FP16.name
#: Two of the least integers, of either dtype.
LEAST = 0x64006400
#: Pairs in which a register of bytes is held.
PAIRS = EACH // 2

_SPLIT = """__forceinline__ __device__ uint pair_of_bytes(uint bytes, uint selector) {
  return __byte_perm(bytes, 0x64646464, selector);
}
"""
_JOIN = """__forceinline__ __device__ uint joined_bytes(uint ab, uint cd) {
  return __byte_perm(ab, cd, 0x6420);
}
"""


def split(bytes: Expr, dtype: str) -> list[Expr]:
    """The pairs of four bytes in a ``uint32``, those of the lowest first. dtype: int8 or uint8."""
    shifted = _shifted(bytes, dtype)
    return [
        T.cuda.func_call(
            "pair_of_bytes", shifted, T.uint32(selector), source_code=_SPLIT, return_type="uint32"
        )
        for selector in (0x4140, 0x4342)
    ]


def join(pairs: Sequence[Expr], dtype: str) -> Expr:
    """The bytes of two pairs as ``uint32``, as they were split."""
    joined = T.cuda.func_call("joined_bytes", *pairs, source_code=_JOIN, return_type="uint32")
    return _shifted(joined, dtype)


def _shifted(bytes: Expr, dtype: str) -> Expr:
    return bytes ^ T.uint32(0x80808080) if dtype == dtypes.INT8.name else bytes
