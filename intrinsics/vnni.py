"""The emulation of 8-bit products on CPUs with VNNI, whose VPDPBUSD does 16 x 4 of them at once.

    D[n] = C[n] + sum over j < 4 of A[j] * B[n, j]      A unsigned, B signed, the sum in 32 bits

(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). A fragment of B is
therefore kept as (k/4, n, 4) instead of (k, n). A fragment of A with signed numbers is kept with
128 added, which flips the sign bit, and `mma` subtracts what that adds to the sums:

    sum over k of a * b = sum over k of (a + 128) * b - sum over k of 128 * b

All of it wraps modulo 2**32, so that sums are exact wherever they fit 32 bits.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from intrinsics.dtypes import INT8
from intrinsics.record import TensorIntrinsic

#: Products that are added into one 32-bit lane, and lanes of the widest vector.
DEPTH, LANES = 4, 16
#: Added to signed numbers: -128 becomes 0.
BIAS = 128


def multiplies(intrinsic: TensorIntrinsic) -> bool:
    """Returns True if VPDPBUSD computes its products: of signed weights."""
    return intrinsic.b_dtype == INT8.name


def load_a(intrinsic: TensorIntrinsic, source: Any, destination: Any) -> None:
    """Copies a tile (m, k) of A, signed numbers with `BIAS` added."""
    rows, columns = intrinsic.shape("a")
    for row in range(rows):
        value = _load(source, row, columns)
        if intrinsic.a_dtype == INT8.name:
            value = tirx.bitwise_xor(value, T.broadcast(T.int8(-BIAS), columns))
        _store(destination, row, columns, value)


def load_b(intrinsic: TensorIntrinsic, source: Any, destination: Any) -> None:
    """Copies a tile (k, n) of B as (k/4, n, 4), of which each row of the fragment has a part."""
    rows, columns = intrinsic.shape("b")
    order = [row * columns + column for column in range(columns) for row in range(DEPTH)]
    for first in range(0, rows, DEPTH):
        taken = [_load(source, first + row, columns) for row in range(DEPTH)]
        for part in range(DEPTH):
            picked = order[part * columns : (part + 1) * columns]
            _store(destination, first + part, columns, tirx.Shuffle(taken, picked))


def mma(intrinsic: TensorIntrinsic, a: Any, b: Any, c: Any) -> None:
    """Adds the products of two fragments to the accumulators (m, n), some columns at a time."""
    lanes = min(LANES, intrinsic.n)
    for column in range(0, intrinsic.n, lanes):
        weights = [
            T.bind(_weights(intrinsic, b, step, column, lanes))
            for step in range(intrinsic.k // DEPTH)
        ]
        added = T.broadcast(T.int32(0), lanes)
        if intrinsic.a_dtype == INT8.name:
            bias = T.broadcast(T.int8(-BIAS), DEPTH * lanes)
            for weight in weights:
                added = _dot(lanes, added, bias, weight)
            added = T.bind(added)
        for row in range(intrinsic.m):
            total = c.vload([row, column], f"int32x{lanes}") - added
            for step, weight in enumerate(weights):
                total = _dot(lanes, total, _four(a, row, step * DEPTH, lanes), weight)
            T.buffer_store(c, total, [row, T.ramp(column, 1, lanes)])


def _load(tile: Any, row: int, columns: int) -> Any:
    return tile.vload([row, 0], f"{tile.dtype}x{columns}")


def _store(tile: Any, row: int, columns: int, value: Any) -> None:
    T.buffer_store(tile, value, [row, T.ramp(0, 1, columns)])


def _four(a: Any, row: int, column: int, lanes: int) -> Any:
    """Returns four adjacent numbers of a row of A, repeated in each lane."""
    four = tirx.reinterpret("int32", a.vload([row, column], f"{a.dtype}x{DEPTH}"))
    return tirx.reinterpret(f"int8x{DEPTH * lanes}", T.broadcast(four, lanes))


def _weights(intrinsic: TensorIntrinsic, b: Any, step: int, column: int, lanes: int) -> Any:
    """Returns (lanes, 4) numbers of B, of `lanes` columns, from as many rows of the fragment."""
    columns = intrinsic.n
    rows = DEPTH * lanes // columns
    first = step * DEPTH + DEPTH * column // columns
    parts = [_load(b, first + row, columns) for row in range(rows)]
    return tirx.Shuffle(parts, list(range(DEPTH * lanes)))


def _dot(lanes: int, total: Any, a: Any, b: Any) -> Any:
    """Returns VPDPBUSD of vectors int32 (lanes,), unsigned bytes (lanes, 4) and signed ones."""
    number = llvm_lookup_intrinsic_id(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}")
    return T.call_llvm_pure_intrin(number, total, a, b, dtype=f"int32x{lanes}")
