"""A block's shared memory inside of a kernel: the parts of a `SharedLayout`, addressed by name."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import DataType
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.threads.control import Index
from schedules.threads.shared_layout import SharedLayout

SCOPE = "shared.dyn"


@dataclass(frozen=True)
class SharedArray:
    """One part of shared memory as an array of its elements."""

    buffer: Expr

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Expr:
        return self.buffer[index]

    def __setitem__(self, index: Index | tuple[Index, ...], value: Expr) -> None:
        T.buffer_store(self.buffer, value, list(index if isinstance(index, tuple) else (index,)))

    def pointer(self, *index: Index) -> Expr:
        """The address of an element, as a generic pointer."""
        return T.address_of(self.buffer[index])


class SharedMemory:
    """Shared memory of the block, of `layout.bytes` bytes.

    name: of the variable in CUDA; kernels that use the same name in one module must give it the
    same dtype. dtype: of the elements in which it is allocated.
    """

    def __init__(self, layout: SharedLayout, name: str = "shared", dtype: str = "uint8") -> None:
        self.layout = layout
        size = -(-layout.bytes * 8 // DataType(dtype).bits)
        buffer = IRBuilder.name(name, T.alloc_buffer((size,), dtype, scope=SCOPE))
        self._data = buffer.data
        # Seen through other buffers only: TVM keeps no more of this one than it sees used.
        self._bytes = T.decl_buffer((layout.bytes,), "uint8", data=self._data, scope=SCOPE)

    @property
    def address(self) -> Expr:
        """The 32-bit address of its first byte in the shared window."""
        return T.cuda.cvta_generic_to_shared(self._data)

    def pointer(self, part: str, *index: Index) -> Expr:
        """The generic pointer to the sub-array of a part with these first indices."""
        return self.pointer_to(self.layout[part].at(*index))

    def pointer_to(self, byte: Index) -> Expr:
        """The generic pointer to a byte of all shared memory, as `SharedLayout` numbers them."""
        return T.address_of(self._bytes[byte])

    def array(self, part: str, dtype: str = "") -> SharedArray:
        """A part as an array of its shape. With `dtype`, the same bytes as elements of another
        size, along the last axis: 16-bit elements as packed pairs (``"uint32"``)."""
        placed = self.layout[part]
        dtype = dtype or placed.part.dtype
        size = DataType(dtype).bits // 8
        axes = len(placed.part.shape)
        shape = (*placed.part.shape[:-1], placed.part.stride(axes - 1) // size)
        # Other parts may lie between the stages of a part.
        strides = [placed.stride(axis) // size for axis in range(1, axes)] + [1]
        buffer = T.decl_buffer(
            shape,
            dtype,
            data=self._data,
            strides=strides if placed.outer else None,
            elem_offset=placed.offset // size or None,
            scope=SCOPE,
        )
        return SharedArray(IRBuilder.name(part, buffer))
