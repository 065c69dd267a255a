"""mma.sync in NumPy, on registers of many tiles: packs, unpacks and multiplies matrices.

Registers of a warp are uint32 arrays (..., 32, n): lanes, then the n registers of one operand, in
the order of `intrinsics.mma_sync.Fragment`.

An m16n8k16 is one ``HMMA.16816``. On Ampere it adds up as two ``HMMA.1688``, first the lower half
of k, then the upper (Xie et al., https://arxiv.org/abs/2511.10909), so the A100 of
`intrinsics.numerics` has blocks of 8. On Hopper all 16 products are one block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from intrinsics.mma_sync import Fragment
from intrinsics.numerics.arithmetic import Numerics, fused
from intrinsics.record import WARP_SIZE, TensorIntrinsic

Array = NDArray[Any]


def pack(matrix: Array, operand: str, instruction: TensorIntrinsic) -> Array:
    """Returns the registers (..., 32, n) that hold matrices (..., rows, columns).

    operand: "a", "b" or "c". Raises ``ValueError`` if shape or dtype is not the operand's.
    """
    fragment = Fragment.of(operand, instruction)
    wanted, shape = dtypes.get(fragment.dtype).numpy, (fragment.rows, fragment.columns)
    if matrix.shape[-2:] != shape or matrix.dtype != wanted:
        raise ValueError(
            f"{operand} of {instruction.name} is {wanted}{shape}, not {matrix.dtype}{matrix.shape}"
        )
    held = np.empty((*matrix.shape[:-2], WARP_SIZE, fragment.elements), matrix.dtype)
    held[(..., *fragment.places())] = matrix
    return held.view(np.uint32)


def unpack(registers: Array, operand: str, instruction: TensorIntrinsic) -> Array:
    """Returns the matrices (..., rows, columns) that registers (..., 32, n) hold.

    Raises ``ValueError`` if the shape or dtype is not the operand's.
    """
    fragment = Fragment.of(operand, instruction)
    wanted = (WARP_SIZE, fragment.registers)
    if registers.shape[-2:] != wanted or registers.dtype != np.uint32:
        raise ValueError(
            f"registers of {operand} of {instruction.name} are uint32 (..., {wanted[0]}, "
            f"{wanted[1]}), not {registers.dtype}{registers.shape}"
        )
    held = np.ascontiguousarray(registers).view(dtypes.get(fragment.dtype).numpy)
    return np.asarray(held[(..., *fragment.places())])


def mma(a: Array, b: Array, c: Array, instruction: TensorIntrinsic, numerics: Numerics) -> Array:
    """Returns the registers of ``D = A @ B + C`` (..., 32, n of c), from those of the operands.

    Leading axes are tiles, equal in all three. Raises ``ValueError`` if an operand is not the
    instruction's or the tiles differ.
    """
    parts = zip("abc", (a, b, c), strict=True)
    left, right, total = (unpack(held, operand, instruction) for operand, held in parts)
    tiles = total.shape[:-2]
    if left.shape[:-2] != tiles or right.shape[:-2] != tiles:
        raise ValueError(f"tiles {left.shape[:-2]}, {right.shape[:-2]} and {tiles} are not equal")
    # Tiles last, so that NumPy's innermost loop runs over them and not over eight columns.
    rows = np.moveaxis(left.reshape(-1, *left.shape[-2:]), 0, 1)[:, None]
    columns = np.moveaxis(right.reshape(-1, *right.shape[-2:]), (0, 1, 2), (1, 2, 0))[None]
    totals = np.moveaxis(total.reshape(-1, *total.shape[-2:]), 0, -1)
    result = np.moveaxis(fused(rows, columns, totals, numerics), -1, 0)
    return pack(result.reshape(total.shape), "c", instruction)
