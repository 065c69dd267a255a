"""Registers of a thread: bound values, variables and arrays."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import DataType
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.threads.control import Index


def bind(name: str, value: Index) -> Index:
    """Names a value that does not change; a Python number stays one."""
    return value if isinstance(value, int) else IRBuilder.name(name, T.bind(value))


def keep(name: str, value: Expr) -> Expr:
    """Computes a value here and keeps it in a register. Unlike what `bind` names, TVM does not
    simplify it together with its uses, nor compute it again there."""
    return Variable(name, value).value


class Variable:
    """A variable of the thread, of one register and of its first value's dtype; ``int32`` for a
    Python number."""

    def __init__(self, name: str, value: Index) -> None:
        dtype = "int32" if isinstance(value, int) else str(value.ty.dtype)
        self.buffer = IRBuilder.name(name, T.alloc_buffer((1,), dtype, scope="local"))
        self.set(value)

    @property
    def value(self) -> Expr:
        """The variable as it is at this point of the kernel."""
        return self.buffer[0]

    def set(self, value: Index) -> None:
        """Emits an assignment."""
        T.buffer_store(self.buffer, value, [0])


@dataclass(frozen=True)
class Registers:
    """An array of the thread. Registers have no addresses: every index must be a constant once the
    loops are unrolled."""

    buffer: Expr

    @classmethod
    def array(cls, name: str, shape: tuple[int, ...], dtype: str) -> Registers:
        """Declares an array."""
        return cls(IRBuilder.name(name, T.alloc_buffer(shape, dtype, scope="local")))

    def view(self, dtype: str) -> Registers:
        """The same bits as elements of another dtype, along the last axis: 16-bit elements as
        packed pairs (``"uint32"``), or the reverse."""
        buffer = self.buffer
        *outer, last = (int(extent) for extent in buffer.shape)
        last = last * DataType(buffer.dtype).bits // DataType(dtype).bits
        return Registers(T.decl_buffer((*outer, last), dtype, data=buffer.data, scope="local"))

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Expr:
        return self.buffer[index]

    def __setitem__(self, index: Index | tuple[Index, ...], value: Expr) -> None:
        T.buffer_store(self.buffer, value, list(index if isinstance(index, tuple) else (index,)))
