"""TVM's tensor intrinsics for a record: the instruction on CUDA, its emulation on LLVM.

A tensor intrinsic is a pair: a *description*, the plain loops that `tensorize` looks for, and an
*implementation* that replaces them. Both targets share the description, so loops that can be
tensorized for one can be for the other. An instruction needs five: fill, load (one for A, one for
B), mma and store.

A description and its two implementations declare the same tiles; only their bodies differ. `_fill`,
`_copy` and `_mma` declare the tiles; `_description`, `_instruction` and `_emulation` give the
bodies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from intrinsics import dtypes, vnni
from intrinsics.record import TensorIntrinsic

#: Alignment of every tile, in bytes: WMMA loads need pointers aligned to 32 bytes.
ALIGN = 32
#: Rows of the accumulator that the emulation adds to in turn, to hide the latency of an add.
ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class LoweredIntrinsic:
    """The registered names of one instruction, for `tvm.s_tir.Schedule.tensorize`."""

    fill: str
    load_a: str
    load_b: str
    mma: str
    store: str


@functools.cache
def lower(intrinsic: TensorIntrinsic, kind: str, shared_scope: str) -> LoweredIntrinsic:
    """Registers the instruction with TVM and returns its names. Repeated calls are free.

    kind: ``"cuda"``, ``"llvm"``, or ``"vnni"`` for llvm on a CPU that has it, where what VNNI does
    not multiply is as for llvm. shared_scope: ``"shared"`` or ``"shared.dyn"``, the scope that
    operands are loaded from and the accumulator is stored to. Raises ``KeyError`` for another kind.
    """
    if kind == "vnni" and not vnni.multiplies(intrinsic):
        return lower(intrinsic, "llvm", shared_scope)
    m, n, k = intrinsic.m, intrinsic.n, intrinsic.k
    a = _Tile(m, k, intrinsic.a_dtype, intrinsic.a_scope)
    b = _Tile(k, n, intrinsic.b_dtype, intrinsic.b_scope)
    c = _Tile(m, n, intrinsic.accumulator_dtype, intrinsic.accumulator_scope)
    shared_a, shared_b, shared_c = (replace(tile, scope=shared_scope) for tile in (a, b, c))
    says = _description(intrinsic)
    does = _IMPLEMENTATIONS[kind](intrinsic)
    forms: dict[str, tuple[Any, ...]] = {
        "fill": (_fill, says.fill, does.fill, (c,)),
        "load_a": (_copy, says.load_a, does.load_a, (shared_a, a)),
        "load_b": (_copy, says.load_b, does.load_b, (shared_b, b)),
        "mma": (_mma, says.mma, does.mma, (a, b, c)),
        "store": (_copy, says.store, does.store, (c, shared_c)),
    }
    names = {}
    for form, (declare, description, implementation, tiles) in forms.items():
        names[form] = f"tvmconv.{kind}.{intrinsic.name}.{shared_scope}.{form}"
        parts = (replace(tile, part=True) for tile in tiles)
        desc, impl = declare(description, *tiles), declare(implementation, *parts)
        # override: two threads may register the same instruction.
        TensorIntrin.register(names[form], desc, impl, override=True)
    return LoweredIntrinsic(**names)


# ---------------------------------------------------------------- shared: the tiles


@dataclass(frozen=True)
class _Tile:
    """A row-major tile in one scope. A `part` is cut from a buffer that may be wider."""

    rows: int
    columns: int
    dtype: str
    scope: str
    part: bool = False

    def match(self, handle: Any) -> Any:
        return T.match_buffer(
            handle,
            (self.rows, self.columns),
            self.dtype,
            align=ALIGN,
            offset_factor=self.columns,
            scope=self.scope,
            strides=[T.int32(), T.int32()] if self.part else None,
        )

    def all_of(self, buffer: Any) -> Any:
        return buffer[0 : self.rows, 0 : self.columns]


@dataclass(frozen=True)
class _Bodies:
    """The body of each form: functions that TVMScript's parser runs on the tiles."""

    fill: Callable[[Any], None]
    load_a: Callable[[Any, Any], None]
    load_b: Callable[[Any, Any], None]
    mma: Callable[[Any, Any, Any], None]
    store: Callable[[Any, Any], None]


def _fill(body: Callable[[Any], None], tile: _Tile) -> Any:
    @T.prim_func(s_tir=True)
    def function(c: T.handle) -> None:
        C = tile.match(c)
        with T.sblock("root"):
            T.reads()
            T.writes(tile.all_of(C))
            body(C)

    return function


def _copy(body: Callable[[Any, Any], None], source: _Tile, destination: _Tile) -> Any:
    @T.prim_func(s_tir=True)
    def function(s: T.handle, d: T.handle) -> None:
        S = source.match(s)
        D = destination.match(d)
        with T.sblock("root"):
            T.reads(source.all_of(S))
            T.writes(destination.all_of(D))
            body(S, D)

    return function


def _mma(body: Callable[[Any, Any, Any], None], tile_a: _Tile, tile_b: _Tile, tile_c: _Tile) -> Any:
    @T.prim_func(s_tir=True)
    def function(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = tile_a.match(a)
        B = tile_b.match(b)
        C = tile_c.match(c)
        with T.sblock("root"):
            T.reads(tile_c.all_of(C), tile_a.all_of(A), tile_b.all_of(B))
            T.writes(tile_c.all_of(C))
            body(A, B, C)

    return function


# ---------------------------------------------------------------- descriptions


def _description(intrinsic: TensorIntrinsic) -> _Bodies:
    m, n, k = intrinsic.m, intrinsic.n, intrinsic.k
    zero = T.cast(0, intrinsic.accumulator_dtype)

    def widen(value: Any) -> Any:
        same = intrinsic.a_dtype == intrinsic.accumulator_dtype
        return value if same else T.cast(value, intrinsic.accumulator_dtype)

    @T.inline
    def fill(C: Any) -> None:
        for i, j in T.grid(m, n):
            with T.sblock("fill"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = zero

    @T.inline
    def copy(S: Any, D: Any) -> None:
        for i, j in T.grid(D.shape[0], D.shape[1]):
            with T.sblock("copy"):
                vi, vj = T.axis.remap("SS", [i, j])
                D[vi, vj] = S[vi, vj]

    @T.inline
    def mma(A: Any, B: Any, C: Any) -> None:
        for i, j, l in T.grid(m, n, k):
            with T.sblock("mma"):
                vi, vj, vl = T.axis.remap("SSR", [i, j, l])
                C[vi, vj] = C[vi, vj] + widen(A[vi, vl]) * widen(B[vl, vj])

    return _Bodies(fill, copy, copy, mma, copy)


# ---------------------------------------------------------------- CUDA: the instruction


def _instruction(intrinsic: TensorIntrinsic) -> _Bodies:
    """Each form as the call that TVM's CUDA code generator writes as ``nvcuda::wmma``."""
    m, n, k = intrinsic.m, intrinsic.n, intrinsic.k
    zero = T.int32(0) if dtypes.get(intrinsic.accumulator_dtype).integer else T.float32(0)

    def number(tile: Any) -> Any:
        """Returns the index of fragment `tile` in the array of fragments it was cut from."""
        (rows, columns), stride = tile.shape, tile.strides[0]
        row, column = tile.elem_offset // stride // rows, tile.elem_offset % stride // columns
        return row * (stride // columns) + column

    def fill(C: Any) -> None:
        T.evaluate(T.tvm_fill_fragment(C.data, m, n, k, number(C), zero, dtype="void"))

    def load(S: Any, D: Any) -> None:
        pointer, stride = S.access_ptr("r", ptr_type=S.dtype), S.strides[0]
        T.evaluate(
            T.tvm_load_matrix_sync(
                D.data, m, n, k, number(D), pointer, stride, "row_major", dtype="void"
            )
        )

    def mma(A: Any, B: Any, C: Any) -> None:
        a, b, c = (A.data, number(A)), (B.data, number(B)), (C.data, number(C))
        T.evaluate(T.tvm_mma_sync(*c, *a, *b, *c, dtype="void"))

    def store(S: Any, D: Any) -> None:
        pointer, stride = D.access_ptr("w", ptr_type=D.dtype), D.strides[0]
        T.evaluate(
            T.tvm_store_matrix_sync(
                S.data, m, n, k, number(S), pointer, stride, "row_major", dtype="void"
            )
        )

    return _Bodies(fill, load, load, mma, store)


# ---------------------------------------------------------------- LLVM: the emulation


def _emulation(intrinsic: TensorIntrinsic) -> _Bodies:
    """Each form as plain vectorised loops; a fragment is an ordinary row-major tile.

    The loops of `mma` are unrolled so that LLVM keeps a row of the accumulator in a vector
    register while k ascends, as `emulate.mma` does.
    """
    m, n, k = intrinsic.m, intrinsic.n, intrinsic.k
    zero, wide = T.cast(0, intrinsic.accumulator_dtype), intrinsic.wide_dtype

    @T.inline
    def fill(C: Any) -> None:
        for i in T.unroll(m):
            for j in T.vectorized(n):
                C[i, j] = zero

    @T.inline
    def copy(S: Any, D: Any) -> None:
        for i in T.unroll(D.shape[0]):
            for j in T.vectorized(D.shape[1]):
                D[i, j] = S[i, j]

    @T.inline
    def mma(A: Any, B: Any, C: Any) -> None:
        # Widen the operands once, so that each multiply-add broadcasts one wide number.
        wide_a = T.alloc_buffer((m, k), wide)
        wide_b = T.alloc_buffer((k, n), wide)
        total = T.alloc_buffer((ROWS_AT_ONCE, n), wide)
        for i in T.unroll(m):
            for l in T.vectorized(k):
                wide_a[i, l] = T.cast(A[i, l], wide)
        for l in T.unroll(k):
            for j in T.vectorized(n):
                wide_b[l, j] = T.cast(B[l, j], wide)
        for io in T.unroll(m // ROWS_AT_ONCE):
            for ii in T.unroll(ROWS_AT_ONCE):
                for j in T.vectorized(n):
                    total[ii, j] = T.cast(C[io * ROWS_AT_ONCE + ii, j], wide)
            for l in T.unroll(k):
                for ii in T.unroll(ROWS_AT_ONCE):
                    for j in T.vectorized(n):
                        total[ii, j] = (
                            total[ii, j] + wide_a[io * ROWS_AT_ONCE + ii, l] * wide_b[l, j]
                        )
            for ii in T.unroll(ROWS_AT_ONCE):
                for j in T.vectorized(n):
                    C[io * ROWS_AT_ONCE + ii, j] = T.cast(total[ii, j], C.dtype)

    return _Bodies(fill, copy, copy, mma, copy)


def _emulation_by_vnni(intrinsic: TensorIntrinsic) -> _Bodies:
    """`_emulation`, with VPDPBUSD for products and with fragments as it reads them."""
    return replace(
        _emulation(intrinsic),
        load_a=functools.partial(vnni.load_a, intrinsic),
        load_b=functools.partial(vnni.load_b, intrinsic),
        mma=functools.partial(vnni.mma, intrinsic),
    )


_IMPLEMENTATIONS = {"cuda": _instruction, "llvm": _emulation, "vnni": _emulation_by_vnni}
