"""The pass that moves vectors of 8-bit integers as 32-bit numbers.

Before:   tile[...16] = if inside: x[...16] else: 0            int8 or uint8; or 8 of them
After:    tile[...4] = if inside: x[...4] else: 0.0            the same memory, as float32
Requires: vectorised loops. It comes before TVM's pass that makes copies asynchronous.
Formula:  4 adjacent elements of 8 bits from 4 * i on are element i of 32 bits.

TVM makes a conditional copy asynchronous only if what it fills in is a floating-point zero, and its
CUDA form of a vector of 8 or 16 equal integers of 8 bits does not compile.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, sym, tirx

from intrinsics import dtypes
from intrinsics.dtypes import FP32, INT8, UINT8

IF_THEN_ELSE = "prim.if_then_else"
#: Bytes of a word, and sizes of vectors that are moved as words.
WORD, VECTORS = dtypes.FP32.bytes, (8, 16)


def copy_bytes_as_words() -> tvm.transform.Pass:
    """Returns the pass."""
    return tirx.transform.prim_func_pass(_rewritten, opt_level=0, name="copy_bytes_as_words")


def _rewritten(function: tirx.PrimFunc, *_: Any) -> tirx.PrimFunc:
    body = tvm_ffi.structural_map(function.body, [(tirx.BufferStore, _rewrite)], order="post")
    return function.with_body(body)


def _rewrite(store: tirx.BufferStore) -> tirx.Stmt:
    call = store.value
    if not (isinstance(call, ir.Call) and call.op.same_as(ir.Op.get(IF_THEN_ELSE))):
        return store
    inside, value, other = call.args
    size = _zeros(other)
    if size not in VECTORS or not isinstance(value, ir.TensorLoad):
        return store
    if not (_adjacent(store.indices) and _adjacent(value.indices)):
        return store
    tile, source = _words(store.buffer), _words(value.source)
    zeros = tirx.Broadcast(tirx.const(0.0, FP32.name), size // WORD)
    moved = tirx.if_then_else(inside, tirx.BufferLoad(source, [_word(value.indices[0])]), zeros)
    return tirx.SeqStmt(
        [
            tirx.DeclBuffer(tile, data=store.buffer.data),
            tirx.DeclBuffer(source, data=value.source.data),
            tirx.BufferStore(tile, moved, [_word(store.indices[0])]),
        ]
    )


def _zeros(value: Any) -> int:
    """Returns the length of a vector of integer zeros of 8 bits; 0 for another value."""
    if not (isinstance(value, tirx.Broadcast) and isinstance(value.value, tirx.IntImm)):
        return 0
    known = str(value.value.ty) in (INT8.name, UINT8.name) and int(value.value) == 0
    return int(value.lanes) if known else 0


def _adjacent(indices: Any) -> bool:
    """Returns True for the indices of adjacent elements of a flat buffer."""
    return len(indices) == 1 and isinstance(indices[0], tirx.Ramp) and int(indices[0].stride) == 1


def _words(buffer: Any) -> tirx.Buffer:
    """Returns a buffer of the same memory in 32-bit numbers."""
    size = tirx.floordiv(buffer.shape[0], WORD)
    name = f"{buffer.name}_words"
    return tirx.decl_buffer((size,), FP32.name, name, data=buffer.data, scope=buffer.scope())


def _word(index: tirx.Ramp) -> tirx.Ramp:
    first = sym.Analyzer().simplify(tirx.floordiv(index.base, WORD))
    return tirx.Ramp(first, 1, int(index.lanes) // WORD)
