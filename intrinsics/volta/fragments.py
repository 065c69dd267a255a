"""WMMA fragments on Volta: the lane and register of each element of a 16 x 16 tile.

A warp's 32 lanes are eight *threadgroups* of four: lane ``4 * threadgroup + thread``. Threadgroups
``o`` and ``o + 4``, the lower and the upper, are *octet* ``o``, which computes one 8 x 8 block of
the result and needs nothing of the other octets. So an element of A or B is held twice, once for
each octet that needs it.

Sources: Raihan, Goli, Aamodt, Modeling Deep Learning Accelerator Enabled GPUs (ISPASS 2019,
arXiv 1811.08309), figure 7 and table II: threadgroups, octets, and the segments of A and B that
each loads from either layout; PTX ISA, "Matrix Fragments for mma.m8n8k4 with .f16 floating point
type": the order within a threadgroup, with fp16 and fp32 accumulators.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intrinsics.errors import TvmconvError

Array = NDArray[Any]
Index = NDArray[np.intp]

TILE = 16
LANES = 32
THREADS = 4
LAYOUTS = ("row", "col")
#: PTX ISA, wmma.load: a tile begins at a multiple of 32 bytes; the stride of its rows (or columns)
#: is a multiple of 16 bytes.
START_BYTES, STRIDE_BYTES = 32, 16


class FragmentError(TvmconvError, ValueError):
    """Raised for memory, registers, strides or layouts that WMMA cannot load or store."""


@dataclass(frozen=True)
class Octet:
    """Eight lanes that compute an 8 x 8 block; ``number`` is 0 to 3."""

    number: int

    @property
    def threadgroups(self) -> tuple[int, int]:
        """Numbers of the lower and the upper threadgroup."""
        return self.number, self.number + 4

    @property
    def lanes(self) -> tuple[int, ...]:
        """Its eight lanes, the lower threadgroup's first."""
        return tuple(THREADS * group + t for group in self.threadgroups for t in range(THREADS))

    @property
    def row(self) -> int:
        """First of its eight rows of A and of the accumulator."""
        return self.number % 2 * 8

    @property
    def column(self) -> int:
        """First of its eight columns of B and of the accumulator."""
        return self.number // 2 * 8


OCTETS = tuple(Octet(number) for number in range(4))


def threadgroup(lane: Any) -> Any:
    """Returns the threadgroup, 0 to 7, of a lane or an array of lanes."""
    return lane // THREADS


def thread(lane: Any) -> Any:
    """Returns a lane's number in its threadgroup, 0 to 3."""
    return lane % THREADS


def octet(lane: Any) -> Any:
    """Returns the octet, 0 to 3, of a lane or an array of lanes."""
    return threadgroup(lane) % 4


def is_upper(lane: Any) -> Any:
    """Returns 1 in the upper threadgroup of an octet, 0 in the lower."""
    return threadgroup(lane) // 4


def first_row(lane: Any) -> Any:
    """Returns the first of the four rows of A and of the accumulator that a threadgroup holds."""
    return octet(lane) % 2 * 8 + is_upper(lane) * 4


def first_column(lane: Any) -> Any:
    """Returns the first of the four columns of B that the lane's threadgroup holds."""
    return octet(lane) // 2 * 8 + is_upper(lane) * 4


@dataclass(frozen=True)
class Operand:
    """A (m, k), B (k, n) or the accumulator (m, n), all 16 x 16.

    ``copies`` is the number of lanes that hold each element.
    """

    name: str
    dtype: str
    copies: int

    @property
    def elements(self) -> int:
        """Elements of each lane, numbered from 0, the low half of a register first."""
        return TILE * TILE * self.copies // LANES

    @property
    def registers(self) -> int:
        """32-bit registers of each lane."""
        return self.elements * np.dtype(self.dtype).itemsize // 4

    @property
    def per_register(self) -> int:
        """Elements in a register."""
        return self.elements // self.registers


A = Operand("A", "float16", copies=2)
B = Operand("B", "float16", copies=2)
ACCUMULATOR_F32 = Operand("C", "float32", copies=1)
ACCUMULATOR_F16 = Operand("C", "float16", copies=1)


@functools.cache
def held(operand: Operand, layout: str) -> tuple[Index, Index]:
    """Returns row and column of the elements of each lane: two arrays (lane, element).

    layout: of the matrix in memory, ``"row"`` or ``"col"``. A and B lie in registers as they are
    loaded, four neighbours in memory side by side. An accumulator lies the same way for both.
    """
    _check_layout(layout)
    lane = np.arange(LANES)[:, None]
    i = np.arange(operand.elements)[None, :]
    t = thread(lane)
    if operand.dtype == "float32":
        row = first_row(lane) + (t & 1) + (i & 2)
        column = octet(lane) // 2 * 8 + (t & 2) + (i & 4) + (i & 1)
    elif operand is ACCUMULATOR_F16:
        row = first_row(lane) + t
        column = octet(lane) // 2 * 8 + i
    else:
        # Four elements, one set: a lane holds them along k, or across k with k the thread's number.
        along_k = (layout == "row") == (operand is A)
        k = i if along_k else i // 4 * 4 + t
        other = t if along_k else i % 4
        if operand is A:
            row, column = first_row(lane) + other, k
        else:
            row, column = k, first_column(lane) + other
    rows, columns = np.broadcast_arrays(row, column)
    return rows, columns


@dataclass(frozen=True)
class Holders:
    """Arrays (row, column, copy) of lane, register and half of each element of a tile.

    Registers are numbered within the fragment; copies are in the order of their lanes.
    """

    lane: Index
    register: Index
    half: Index


@functools.cache
def holders(operand: Operand, layout: str) -> Holders:
    """Returns the inverse of `held`."""
    row, column = held(operand, layout)
    # A stable sort of (lane, element) pairs, which are in the order of their lanes.
    order = np.argsort((row * TILE + column).ravel(), kind="stable")
    at = order.reshape(TILE, TILE, operand.copies)
    lane, element = at // operand.elements, at % operand.elements
    return Holders(lane, element // operand.per_register, element % operand.per_register)


def load(
    operand: Operand,
    memory: Array,
    leading_dimension: int,
    layout: str = "row",
    start: ArrayLike = 0,
) -> Array:
    """Loads as ``wmma.load`` does. Returns registers (*start.shape, 32 lanes, n), uint32.

    memory: one-dimensional, of the operand's dtype. leading_dimension: elements from one row
    (``layout="row"``) or column (``"col"``) to the next. start: index of each tile's first element;
    its axes are those of the tiles.

    The tiles' axes are innermost in memory, whatever the shape says, because all later steps work
    on many tiles at once. Raises `FragmentError` for an access that the hardware does not support.
    """
    starts = _check_access(operand, memory, leading_dimension, layout, start)
    offset = _offsets(operand, leading_dimension, layout)
    bits = memory.view(f"u{memory.itemsize}")
    words = bits[np.add.outer(offset, starts)].astype(np.uint32, copy=False)
    packed = words[:, 0] if operand.per_register == 1 else words[:, 0] | words[:, 1] << 16
    return np.moveaxis(packed, (0, 1), (-1, -2))


def store(
    operand: Operand,
    registers: Array,
    memory: Array,
    leading_dimension: int,
    layout: str = "row",
    start: ArrayLike = 0,
) -> None:
    """Writes accumulators into ``memory`` as ``wmma.store`` does; arguments as in `load`.

    Raises `FragmentError` as `load` does, and for A and B, which no instruction stores.
    """
    if operand.copies > 1:
        raise FragmentError(f"{operand.name} is not stored", hint="only accumulators are")
    starts = _check_access(operand, memory, leading_dimension, layout, start)
    expected = (*starts.shape, LANES, operand.registers)
    if registers.shape != expected or registers.dtype != np.uint32:
        raise FragmentError(
            f"registers are {registers.dtype}{registers.shape}, not uint32{expected}",
            note="tiles as in `start`, then lanes, then registers",
        )
    offset = _offsets(operand, leading_dimension, layout)
    bits = memory.view(f"u{memory.itemsize}")
    words = np.moveaxis(registers, (-1, -2), (0, 1))
    for half in range(operand.per_register):
        part = (words >> (16 * half)).astype(bits.dtype)
        bits[np.add.outer(offset[:, half], starts)] = part


def _offsets(operand: Operand, leading_dimension: int, layout: str) -> Index:
    """Returns each element's offset from its tile's first: (register, half, lane)."""
    row, column = held(operand, layout)
    outer, inner = (row, column) if layout == "row" else (column, row)
    offset = outer * leading_dimension + inner
    return offset.T.reshape(operand.registers, operand.per_register, LANES)


def _check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise FragmentError(f"no layout {layout!r}", hint=f"one of {LAYOUTS}")


def _check_access(
    operand: Operand, memory: Array, leading_dimension: int, layout: str, start: ArrayLike
) -> Index:
    """Returns the starts as integers. Raises `FragmentError`."""
    _check_layout(layout)
    if memory.ndim != 1 or memory.dtype != np.dtype(operand.dtype) or not memory.flags.c_contiguous:
        raise FragmentError(
            f"memory is {memory.dtype}{memory.shape}, not one-dimensional {operand.dtype}",
            note="and contiguous",
            hint="a contiguous matrix is `matrix.reshape(-1)`",
        )
    starts = np.asarray(start)
    if starts.dtype.kind not in "iu":
        raise FragmentError(f"start is {starts.dtype}, not integers: it counts elements")
    stride, alignment = (n // memory.itemsize for n in (STRIDE_BYTES, START_BYTES))
    if leading_dimension < TILE or leading_dimension % stride:
        raise FragmentError(
            f"the leading dimension {leading_dimension} is not a multiple of {stride} from {TILE}",
            note=f"the stride of {operand.dtype} rows is a multiple of {STRIDE_BYTES} bytes",
        )
    last = (TILE - 1) * leading_dimension + TILE
    outside = (starts < 0) | (starts + last > memory.size)
    if np.any(outside):
        at = int(starts[outside].flat[0])
        raise FragmentError(
            f"a tile at {at} needs elements {at} to {at + last - 1} of {memory.size}"
        )
    if np.any(starts % alignment):
        at = int(starts[starts % alignment != 0].flat[0])
        raise FragmentError(
            f"a tile begins at element {at}, not a multiple of {alignment}",
            note=f"tiles are aligned to {START_BYTES} bytes",
        )
    return starts.astype(np.intp)
