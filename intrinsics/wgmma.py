"""The warpgroup instruction of sm_90a: operands in shared memory, accumulators in registers.

``D[m, n] += A[m, k] * B[n, k]``, by the 128 threads of a warpgroup: m is 64, k is 32 bytes, n a
multiple of 8 up to 256; of integers, of 16 from 32 on. A and B lie in shared memory with k
innermost, in rows of 32, 64 or 128 bytes. The 16-byte chunks of a row are *swizzled*: permuted, so
that the same column of eight rows lies in different banks. A 64-bit descriptor gives the address
and the layout to the hardware.

Sources: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions"
(https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions)
for shapes, fragments and descriptors, and "Swizzling modes" there for the permutation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from intrinsics import dtypes
from intrinsics.dtypes import BF16, FP16, INT8, INT32, UINT8
from intrinsics.record import TensorIntrinsic

PTX_ISA = (
    "https://docs.nvidia.com/cuda/parallel-thread-execution/"
    "#asynchronous-warpgroup-level-matrix-instructions"
)
#: Rows, and bytes along k, of every instruction; n is a multiple of `STEP_N` up to `MAX_N`.
M, K_BYTES = 64, 32
STEP_N, MAX_N = 8, 256
WARPGROUP = 128
CHUNK_BYTES = 16
#: Rows after which the permutation repeats.
SWIZZLE_ROWS = 8
#: Operand types that the instructions here multiply: of A; that of B is the same, or INT8.
OPERANDS = (FP16, BF16, INT8, UINT8)
#: n of integers: multiples of `STEP_N` up to the first, then of `INTEGER_STEP_N`.
INTEGER_FINE_N, INTEGER_STEP_N = 32, 16
#: Columns that are ordered anew by `adjacent_row`.
ADJACENT = 16

#: By bytes of a row: the descriptor's layout type, and the tensor map's swizzle mode
#: (``CUtensorMapSwizzle``).
LAYOUT_TYPE = {128: 1, 64: 2, 32: 3}
TENSOR_MAP_SWIZZLE = {128: 3, 64: 2, 32: 1, 16: 0}
#: ``CUtensorMapL2promotion``: L2 reads 128 bytes at a time.
TENSOR_MAP_PROMOTION = 2

#: Name by which host code calls the function that encodes a tensor map in im2col mode. TVM's own
#: encodes only tiled ones.
ENCODE_IM2COL = "tvmconv.encode_im2col"


@cache
def get(n: int, operand: str, accumulator: str) -> TensorIntrinsic:
    """Returns the instruction with n columns. operand: dtype of A; integers are multiplied by INT8.

    Raises ``LookupError`` for other n, operands or accumulators.
    """
    if operand not in [one.name for one in OPERANDS]:
        raise LookupError(f"wgmma multiplies {', '.join(one.name for one in OPERANDS)}")
    a = dtypes.get(operand)
    b = INT8 if a.integer else a
    if a.integer and accumulator != INT32.name:
        raise LookupError(f"wgmma adds products of {operand} up in {INT32.name}, not {accumulator}")
    step = INTEGER_STEP_N if a.integer and n > INTEGER_FINE_N else STEP_N
    if n % step or not STEP_N <= n <= MAX_N:
        raise LookupError(f"wgmma has n = {step}, {2 * step}, ... {MAX_N}, not {n}")
    k = K_BYTES // a.bytes
    types = f"{dtypes.get(accumulator).ptx}.{a.ptx}.{b.ptx}"
    ptx = f"wgmma.mma_async.sync.aligned.m{M}n{n}k{k}.{types}"
    return TensorIntrinsic(
        "wgmma", M, n, k, operand, b.name, accumulator, 90, PTX_ISA, ptx, WARPGROUP,
        a_scope="shared", b_scope="shared",
    )  # fmt: skip


def descriptor(row_bytes: int) -> int:
    """Returns a 64-bit matrix descriptor without its address: stride and layout type.

    The kernel adds the address in shared memory, divided by 16.
    """
    stride = SWIZZLE_ROWS * row_bytes // CHUNK_BYTES
    return LAYOUT_TYPE[row_bytes] << 62 | stride << 32 | 1 << 16


def swizzled(row: Any, chunk: Any, row_bytes: int) -> Any:
    """Returns the position in row `row` at which chunk `chunk` is stored.

    Address bits 7 to 9 are exclusive-ored into bits 4 to 6, as many as a row of ``row_bytes`` has.
    Takes integers, NumPy arrays or TVM expressions.
    """
    return chunk ^ (row * row_bytes // 128) % (row_bytes // CHUNK_BYTES)


def element(thread: Any, register: Any) -> tuple[Any, Any]:
    """Returns (m, n) of the accumulator that a thread of the warpgroup holds in a register."""
    warp, lane = thread // 32, thread % 32
    row = warp * 16 + register // 2 % 2 * 8 + lane // 4
    return row, register // 4 * 8 + lane % 4 * 2 + register % 2


def adjacent_row(column: Any) -> Any:
    """Returns the row of B, of `ADJACENT`, in which the weights of a column of the output lie where
    threads are to hold adjacent columns.

    A thread holds of 16 columns of accumulators numbers 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, where t
    is its lane modulo 4. With the rows of B in this order they are columns 4 t to 4 t + 3.
    """
    return column % 4 // 2 * 8 + column // 4 * 2 + column % 2


def adjacent_element(thread: Any, register: Any) -> tuple[Any, Any]:
    """Returns what `element` does, where rows of B are ordered by `adjacent_row`."""
    row, _ = element(thread, register)
    column = register // 4 % 2 * 2 + register % 2
    return row, register // 8 * ADJACENT + thread % 4 * 4 + column
