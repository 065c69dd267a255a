"""mma.sync on registers: which lane holds which element, and the instruction, over many tiles.

Registers of a warp are uint32 arrays (..., 32, n): lanes, then the n registers of one operand. Two
16-bit elements share a register, the one of even column in its low half (`half` 0). The layouts
are those of the PTX ISA for m16n8k16 and m16n8k8
(https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-fragment-mma-16816-float,
and #warp-level-matrix-fragment-mma-1688), the same for fp16 and bf16. `intrinsics.mma_sync` has
them from lane to element; here they are from element to lane.

bfloat16 has no dtype in NumPy: a bfloat16 matrix is a float32 one whose low 16 bits are zero.

An m16n8k16 is one ``HMMA.16816``. On Ampere it adds up as two ``HMMA.1688``, of the lower k and
then of the upper (Xie et al., https://arxiv.org/abs/2511.10909;
`intrinsics.numerics.arithmetic.A100` has blocks of 8); on Hopper all 16 products are one sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.numerics.arithmetic import Numerics, fused
from intrinsics.record import WARP_SIZE, TensorIntrinsic

Array = NDArray[Any]


def a_place(m: Any, k: Any) -> tuple[Any, Any, Any]:
    """(lane, register, half) of A[m, k]; integers or arrays."""
    return m % 8 * 4 + k % 8 // 2, m // 8 + k // 8 * 2, k % 2


def b_place(k: Any, n: Any) -> tuple[Any, Any, Any]:
    """(lane, register, half) of B[k, n]."""
    return n * 4 + k % 8 // 2, k // 8, k % 2


def c_place(m: Any, n: Any) -> tuple[Any, Any, Any]:
    """(lane, register, half) of an fp16 C[m, n] or D[m, n]. An fp32 one has a register for each:
    number 2 * register + half."""
    return m % 8 * 4 + n // 2, m // 8, n % 2


PLACES = {"a": a_place, "b": b_place, "c": c_place}


def shape(operand: str, instruction: TensorIntrinsic) -> tuple[int, int]:
    """Rows and columns of "a", "b" or "c" (also that of D)."""
    m, n, k = instruction.m, instruction.n, instruction.k
    return {"a": (m, k), "b": (k, n), "c": (m, n)}[operand]


def dtype(operand: str, instruction: TensorIntrinsic) -> str:
    return instruction.accumulator_dtype if operand == "c" else instruction.operand_dtype


def registers(operand: str, instruction: TensorIntrinsic) -> int:
    """How many 32-bit registers each lane has of an operand."""
    rows, columns = shape(operand, instruction)
    halves = 2 if dtype(operand, instruction) == "float32" else 1
    return rows * columns * halves // (2 * WARP_SIZE)


def pack(matrix: Array, operand: str, instruction: TensorIntrinsic) -> Array:
    """Registers (..., 32, n) that hold matrices (..., rows, columns).

    Raises ``ValueError`` for another shape or dtype, or float32 that holds no bfloat16.
    """
    kind = dtype(operand, instruction)
    wanted = np.dtype("float32" if kind == "bfloat16" else kind)
    if matrix.shape[-2:] != shape(operand, instruction) or matrix.dtype != wanted:
        raise ValueError(
            f"{operand} of {instruction.name} is {wanted}{shape(operand, instruction)}, "
            f"not {matrix.dtype}{matrix.shape}"
        )
    bits = np.ascontiguousarray(matrix).view(f"u{wanted.itemsize}")
    if kind == "bfloat16":
        if np.any(bits & 0xFFFF):
            raise ValueError(f"{operand} holds values that are no bfloat16")
        bits = (bits >> 16).astype(np.uint16)
    held = np.empty((*matrix.shape[:-2], *_held(operand, instruction)), dtype=bits.dtype)
    held[_index(operand, instruction)] = bits
    if kind == "float32":
        return held.reshape(*held.shape[:-2], -1)
    low, high = held[..., 0].astype(np.uint32), held[..., 1].astype(np.uint32)
    return low | high << 16


def unpack(registers: Array, operand: str, instruction: TensorIntrinsic) -> Array:
    """The matrices (..., rows, columns) that registers (..., 32, n) hold; see `pack`."""
    _check(registers, operand, instruction)
    kind = dtype(operand, instruction)
    if kind == "float32":
        held = registers.reshape(*registers.shape[:-1], -1, 2)
    else:
        held = np.stack([registers & 0xFFFF, registers >> 16], axis=-1)
    bits = held[_index(operand, instruction)]
    if kind == "bfloat16":
        bits = bits << 16
    return bits.astype(np.uint16).view(np.float16) if kind == "float16" else bits.view(np.float32)


def mma(a: Array, b: Array, c: Array, instruction: TensorIntrinsic, numerics: Numerics) -> Array:
    """The registers of ``D = A @ B + C`` (..., 32, n of c), from those of A, B and C.

    Leading axes are tiles and are equal in all three. Raises ``ValueError`` for register arrays
    that are not the instruction's.
    """
    parts = zip("abc", (a, b, c), strict=True)
    left, right, total = (unpack(held, operand, instruction) for operand, held in parts)
    tiles = total.shape[:-2]
    if left.shape[:-2] != tiles or right.shape[:-2] != tiles:
        raise ValueError(f"tiles {left.shape[:-2]}, {right.shape[:-2]} and {tiles} are not equal")
    # Tiles last: NumPy's innermost loop then goes over them, and not over eight columns.
    rows = np.moveaxis(left.reshape(-1, *left.shape[-2:]), 0, 1)[:, None]
    columns = np.moveaxis(right.reshape(-1, *right.shape[-2:]), (0, 1, 2), (1, 2, 0))[None]
    totals = np.moveaxis(total.reshape(-1, *total.shape[-2:]), 0, -1)
    result = np.moveaxis(fused(rows, columns, totals, numerics), -1, 0)
    return pack(result.reshape(total.shape), "c", instruction)


def _held(operand: str, instruction: TensorIntrinsic) -> tuple[int, int, int]:
    rows, columns = shape(operand, instruction)
    return WARP_SIZE, rows * columns // (2 * WARP_SIZE), 2


def _index(operand: str, instruction: TensorIntrinsic) -> tuple[Any, ...]:
    lane, register, half = PLACES[operand](*np.indices(shape(operand, instruction)))
    return ..., lane, register, half


def _check(held: Array, operand: str, instruction: TensorIntrinsic) -> None:
    wanted = (WARP_SIZE, registers(operand, instruction))
    if held.shape[-2:] != wanted or held.dtype != np.uint32:
        raise ValueError(
            f"registers of {operand} of {instruction.name} are uint32 (..., {wanted[0]}, "
            f"{wanted[1]}), not {held.dtype}{held.shape}"
        )
