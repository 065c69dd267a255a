"""The warpgroup instruction of sm_90a: operands in shared memory, accumulators in registers.

``D[m, n] += A[m, k] * B[n, k]`` for m = 64, 32 bytes of k and n a multiple of 8 up to 256, by the
128 threads of a warpgroup. A and B lie in shared memory with k innermost, in rows of 32, 64 or 128
bytes whose 16-byte chunks are *swizzled*: permuted, so that eight rows of one column of chunks lie
in different banks. A 64-bit descriptor tells the hardware where and how.

Sources: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions"
(https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions)
for shapes, fragments and descriptors, "Swizzling modes" there for the permutation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from intrinsics import dtypes
from intrinsics.dtypes import BF16, FP16
from intrinsics.record import TensorIntrinsic

PTX_ISA = (
    "https://docs.nvidia.com/cuda/parallel-thread-execution/"
    "#asynchronous-warpgroup-level-matrix-instructions"
)
#: Rows, and bytes along k, of every one; columns are a multiple of `STEP_N` up to `MAX_N`.
M, K_BYTES = 64, 32
STEP_N, MAX_N = 8, 256
WARPGROUP = 128
CHUNK_BYTES = 16
#: Rows that the permutation repeats after.
SWIZZLE_ROWS = 8
#: Operand types whose instruction is built here.
OPERANDS = (FP16, BF16)

#: Bytes of a row: the descriptor's layout type, and the tensor map's swizzle mode
#: (``CUtensorMapSwizzle``).
LAYOUT_TYPE = {128: 1, 64: 2, 32: 3}
TENSOR_MAP_SWIZZLE = {128: 3, 64: 2, 32: 1}
#: ``CUtensorMapL2promotion``: what is gathered is read 128 bytes at a time.
TENSOR_MAP_PROMOTION = 2

#: The function that encodes a tensor map in im2col mode, as host code names it. TVM's runtime has
#: only tiled ones.
ENCODE_IM2COL = "tvmconv.encode_im2col"


@cache
def get(n: int, operand: str, accumulator: str) -> TensorIntrinsic:
    """Returns the instruction with n columns. Raises ``LookupError`` where there is none."""
    if n % STEP_N or not STEP_N <= n <= MAX_N:
        raise LookupError(f"wgmma has n = {STEP_N}, {2 * STEP_N}, ... {MAX_N}, not {n}")
    if operand not in [one.name for one in OPERANDS]:
        raise LookupError(f"wgmma multiplies {', '.join(one.name for one in OPERANDS)}")
    type_, k = dtypes.get(operand), K_BYTES // dtypes.get(operand).bytes
    ptx = (
        f"wgmma.mma_async.sync.aligned.m{M}n{n}k{k}"
        f".{dtypes.get(accumulator).ptx}.{type_.ptx}.{type_.ptx}"
    )
    return TensorIntrinsic(
        "wgmma", M, n, k, operand, operand, accumulator, 90, PTX_ISA, ptx, WARPGROUP,
        a_scope="shared", b_scope="shared",
    )  # fmt: skip


def descriptor(row_bytes: int) -> int:
    """Returns a matrix descriptor without its address: stride of 8 rows, and layout type.

    The address, in shared memory and divided by 16, is added to it.
    """
    stride = SWIZZLE_ROWS * row_bytes // CHUNK_BYTES
    return LAYOUT_TYPE[row_bytes] << 62 | stride << 32 | 1 << 16


def swizzled(row: Any, chunk: Any, row_bytes: int) -> Any:
    """Returns the chunk of its row in which chunk `chunk` lies: address bits 7 to 9 are
    exclusive-ored into bits 4 to 6, as many as a row has.

    Takes integers, NumPy arrays or TVM expressions.
    """
    return chunk ^ (row * row_bytes // 128) % (row_bytes // CHUNK_BYTES)


def element(thread: Any, register: Any) -> tuple[Any, Any]:
    """Returns (m, n) of the accumulator that a thread of the warpgroup holds in a register."""
    warp, lane = thread // 32, thread % 32
    row = warp * 16 + register // 2 % 2 * 8 + lane // 4
    return row, register // 4 * 8 + lane % 4 * 2 + register % 2
