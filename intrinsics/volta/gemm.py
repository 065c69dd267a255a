"""A matrix product of any size through the simulated instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.volta.fragments import TILE, A, B, FragmentError, load, store
from intrinsics.volta.hmma import PROGRAM_F32, Fused, Program, wmma

Array = NDArray[Any]

#: Tiles of the result that are computed at once: some 20 MB of registers and temporaries.
TILES_AT_ONCE = 1024


def matmul(a: Array, b: Array, c: Array, fused: Fused, program: Program = PROGRAM_F32) -> Array:
    """Returns ``a @ b + c``: a float16 (m, k), b float16 (k, n), c and the result (m, n).

    c and the result have the dtype of the program's accumulators. Sizes are padded with zeros to
    multiples of 16, as kernels do. One warp computes each tile of the result, k ascending. Raises
    `FragmentError` for other shapes or dtypes.
    """
    _check(a, b, c, program)
    (m, k), n = a.shape, b.shape[1]
    tiles_m, tiles_n, tiles_k = (-(-size // TILE) for size in (m, n, k))
    wide_k, wide_n = tiles_k * TILE, tiles_n * TILE
    a_memory, a_stride = _in_memory(a, tiles_m * TILE, wide_k, program.a_layout)
    b_memory, b_stride = _in_memory(b, wide_k, wide_n, program.b_layout)
    memory, stride = _in_memory(c, tiles_m * TILE, wide_n, "row")
    accumulator = program.form.accumulator
    for first in range(0, tiles_m * tiles_n, TILES_AT_ONCE):
        tiles = np.arange(first, min(first + TILES_AT_ONCE, tiles_m * tiles_n))
        i, j = tiles // tiles_n * TILE, tiles % tiles_n * TILE
        start = i * stride + j
        total = load(accumulator, memory, stride, "row", start)
        for at in range(0, wide_k, TILE):
            starts_a = _start(i, at, a_stride, program.a_layout)
            starts_b = _start(at, j, b_stride, program.b_layout)
            registers_a = load(A, a_memory, a_stride, program.a_layout, starts_a)
            registers_b = load(B, b_memory, b_stride, program.b_layout, starts_b)
            total = wmma(program, registers_a, registers_b, total, fused)
        store(accumulator, total, memory, stride, "row", start)
    return memory.reshape(tiles_m * TILE, wide_n)[:m, :n].copy()


def _in_memory(matrix: Array, rows: int, columns: int, layout: str) -> tuple[Array, int]:
    """Returns a flat copy padded with zeros, and its leading dimension."""
    filled = np.zeros((rows, columns), matrix.dtype)
    filled[: matrix.shape[0], : matrix.shape[1]] = matrix
    if layout == "row":
        return filled.reshape(-1), columns
    return np.ascontiguousarray(filled.T).reshape(-1), rows


def _start(row: Any, column: Any, stride: int, layout: str) -> Any:
    outer, inner = (row, column) if layout == "row" else (column, row)
    return outer * stride + inner


def _check(a: Array, b: Array, c: Array, program: Program) -> None:
    dtype = program.form.accumulator.dtype
    dtypes = [array.dtype.name for array in (a, b, c)]
    shapes = [array.shape for array in (a, b, c)]
    fits = all(array.ndim == 2 for array in (a, b, c)) and (
        a.shape[1] == b.shape[0] and c.shape == (a.shape[0], b.shape[1])
    )
    if not fits or dtypes != ["float16", "float16", dtype]:
        raise FragmentError(
            f"cannot multiply {dtypes[0]}{shapes[0]} and {dtypes[1]}{shapes[1]} "
            f"and add {dtypes[2]}{shapes[2]}",
            hint=f"float16 (m, k) and (k, n), {dtype} (m, n)",
        )
