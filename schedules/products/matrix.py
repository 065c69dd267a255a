"""One matrix of a view's batch in a kernel: copied tile by tile to shared memory, and from there to
registers.

A tile lies in shared memory as the matrix lies in memory: the axis along which neighbours are
adjacent is the inner one of the part. A fragment is 16 x 16 elements, four matrices of ldmatrix:

                        second 0-7   8-15
    first 0-7           matrix 0     2        of a: first is m, second is k
    first 8-15          matrix 1     3        of b: first is k, second is n; 0 and 1 are one
                                              operand of mma.sync, 2 and 3 the next
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.conv.layout import round_up
from schedules.products.view import View
from schedules.threads import ptx
from schedules.threads.control import Index, shared_out, when
from schedules.threads.registers import bind, keep
from schedules.threads.shared_layout import Part
from schedules.threads.shared_memory import SharedMemory

#: Rows and columns of a fragment.
FRAGMENT = 16
#: Elements after each row of a part, so that rows below each other lie in different banks: rows
#: are then an odd number of 16 bytes apart.
PAD = 8
#: Elements that one cp.async moves, the widest first.
WIDTHS = (8, 4, 2)


@dataclass(frozen=True)
class Matrix:
    """The last two axes of a view, and how a tile of so many rows and columns of it is copied.

    name: of the operand, and of the part of shared memory. dtype: of its elements, of 16 bits.
    tile: extents of a tile along both axes, multiples of `FRAGMENT`.
    """

    name: str
    dtype: str
    view: View
    tile: tuple[int, int]

    @property
    def inner(self) -> int:
        """The axis along which a tile is contiguous in shared memory: 0 or 1."""
        return 0 if self.view.strides[-1] != 1 and self.view.strides[-2] == 1 else 1

    @property
    def extents(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        rows, columns = self.view.shape[-2:]
        return rows, columns

    @cached_property
    def width(self) -> int:
        """Elements of one copy; 1 where elements are moved by themselves, through registers."""
        adjacent = self.view.strides[-2:][self.inner] == 1
        for width in WIDTHS:
            whole = self.extents[self.inner] % width == 0
            if adjacent and whole and self.view.alignment % width == 0:
                return width
        return 1

    @property
    def part(self) -> Part:
        """A tile in shared memory."""
        rows, columns = self.tile[1 - self.inner], self.tile[self.inner]
        return Part(self.name, self.dtype, (rows, columns + PAD))


class Tiles:
    """Tiles of one matrix of the batch: from memory to stages of shared memory, and to registers.

    source: the operand as one row of elements. batch: the index of the matrix. number, threads: of
    the thread, and of the block.
    """

    def __init__(
        self,
        matrix: Matrix,
        source: Expr,
        batch: Sequence[Index],
        shared: SharedMemory,
        number: Expr,
        threads: int,
    ) -> None:
        self.matrix, self.source, self.shared = matrix, source, shared
        self.number, self.threads = number, threads
        self.first = bind(f"{matrix.name}_first", matrix.view.at((*batch, 0, 0)))
        self.placed = shared.layout[matrix.name]
        lane, size = number % 32, dtypes.get(matrix.dtype).bytes
        group, row = lane // 8, lane % 8
        # The row of the part that the lane names, and where in it.
        along, across = (group // 2, group % 2) if matrix.inner == 0 else (group % 2, group // 2)
        self.row_bytes = self.placed.stride(len(self.placed.part.shape) - 1)
        at = (along * 8 + row) * self.row_bytes + across * 8 * size + self.placed.offset
        self.address = keep(f"{matrix.name}_address", shared.address + T.cast(at, "uint32"))

    def copy(self, stage: Index | None, first: Index, second: Index) -> None:
        """Begins to copy the tile that begins at this row and column; zeros past the end."""
        matrix, inner = self.matrix, self.matrix.inner
        begin, tile, extents = (first, second), matrix.tile, matrix.extents
        outer, width = 1 - inner, matrix.width
        chunks = tile[inner] // width
        rows = tile[outer]
        part = self.shared.array(matrix.name)
        with shared_out(rows * chunks, self.threads, self.number) as chunk:
            row, column = chunk // chunks, chunk % chunks * width
            at: list[Index] = [0, 0]
            at[outer], at[inner] = begin[outer] + row, begin[inner] + column
            outside = [at[axis] >= extents[axis] for axis in (0, 1) if self._ends_within(axis)]
            skip = tirx.any(*outside) if outside else None
            strides = matrix.view.strides[-2:]
            place = self.first + at[0] * strides[0] + at[1] * strides[1]
            to = (row, column) if stage is None else (stage, row, column)
            if width > 1:
                address, source = part.pointer(*to), T.address_of(self.source[place])
                ptx.cp_async(address, source, width * dtypes.get(matrix.dtype).bytes, skip=skip)
            elif skip is None:
                part[to] = self.source[place]
            else:
                part[to] = tirx.const(0, matrix.dtype)
                with when(tirx.Not(skip)):
                    part[to] = self.source[place]

    def _ends_within(self, axis: int) -> bool:
        """True where the matrix ends within a tile along an axis."""
        return self.matrix.extents[axis] % self.matrix.tile[axis] > 0

    def step(self, axis: int) -> int:
        """Bytes in shared memory from one element to the next along an axis of the matrix."""
        element = dtypes.get(self.matrix.dtype).bytes
        return element if axis == self.matrix.inner else self.row_bytes

    def load(
        self, registers: Sequence[Expr], stage: Index, first: int, second: int, reduced: int
    ) -> None:
        """Loads the fragment at this row and column of the tile in a stage. reduced: the axis that
        the product sums over, along which a register holds two elements."""
        bytes = sum(place * self.step(axis) for axis, place in enumerate((first, second)))
        address = ptx.offset(self.address + stage, bytes)
        ptx.ldmatrix(registers, address, transposed=self.matrix.inner != reduced)


def whole_fragments(extent: int) -> int:
    """Returns an extent, rounded up to fragments."""
    return round_up(extent, FRAGMENT)
