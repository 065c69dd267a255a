"""The warpgroup instruction of sm_90a: operands in shared memory, sums in registers.

``D[m, n] += A[m, k] * B[n, k]`` for m = 64, k = 16 and n a multiple of 8 up to 256, by the 128
threads of a warpgroup. A and B lie in shared memory with k innermost, in rows of 32, 64 or 128
bytes whose 16-byte chunks are *swizzled*: permuted, so that eight rows of one column of chunks lie
in different banks. A 64-bit descriptor tells the hardware where and how.

Sources: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions"
(https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions)
for shapes, fragments and descriptors, "Swizzling modes" there for the permutation.
"""

from __future__ import annotations

from typing import Any

M, K = 64, 16
MAX_N = 256
WARPGROUP = 128
CHUNK_BYTES = 16
#: Rows that the permutation repeats after.
SWIZZLE_ROWS = 8

#: Bytes of a row: the descriptor's layout type, and the tensor map's swizzle mode
#: (``CUtensorMapSwizzle``).
LAYOUT_TYPE = {128: 1, 64: 2, 32: 3}
TENSOR_MAP_SWIZZLE = {128: 3, 64: 2, 32: 1}
#: ``CUtensorMapL2promotion``: what is gathered is read 128 bytes at a time.
TENSOR_MAP_PROMOTION = 2

#: The function that encodes a tensor map in im2col mode, as host code names it. TVM's runtime has
#: only tiled ones.
ENCODE_IM2COL = "tvmconv.encode_im2col"


def instruction(n: int) -> str:
    """The PTX of one with fp16 operands and fp32 sums. Raises ``ValueError`` for a size there is
    none of."""
    if n % 8 or not 8 <= n <= MAX_N:
        raise ValueError(f"wgmma has n = 8, 16, ... {MAX_N}, not {n}")
    return f"wgmma.mma_async.sync.aligned.m{M}n{n}k{K}.f32.f16.f16"


def descriptor(row_bytes: int) -> int:
    """A matrix descriptor but for its address: stride between groups of 8 rows, and layout type.

    The address, in shared memory and divided by 16, is added to it.
    """
    stride = SWIZZLE_ROWS * row_bytes // CHUNK_BYTES
    return LAYOUT_TYPE[row_bytes] << 62 | stride << 32 | 1 << 16


def swizzled(row: Any, chunk: Any, row_bytes: int) -> Any:
    """Which chunk of its row holds chunk `chunk`: address bits 7 to 9 are exclusive-ored into bits
    4 to 6, as many as a row has. Takes integers, NumPy arrays or TVM expressions."""
    return chunk ^ (row * row_bytes // 128) % (row_bytes // CHUNK_BYTES)


def element(thread: Any, register: Any) -> tuple[Any, Any]:
    """(m, n) of the sum that a thread of the warpgroup holds in its register of that number."""
    warp, lane = thread // 32, thread % 32
    row = warp * 16 + register // 2 % 2 * 8 + lane // 4
    return row, register // 4 * 8 + lane % 4 * 2 + register % 2
