"""Tensor maps: how the copy engine sees a tensor. The host encodes them, before the launch.

CUDA Driver API, "Tensor Map Object Management".
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T


def tensor_map(name: str) -> Expr:
    """A tensor map, to be encoded by one of the functions below if it is used."""
    return IRBuilder.name(
        name, T.bind(T.tvm_stack_alloca("tensormap", 1), T.handle("tensormap").ty)
    )


@dataclass(frozen=True)
class Matrix:
    """A row-major matrix, of which a copy takes a box.

    sizes: (columns, rows). row_bytes: from one row to the next. box: (columns, rows) of a copy.
    swizzle: ``CUtensorMapSwizzle`` of a row of the box in shared memory. promotion:
    ``CUtensorMapL2promotion``.
    """

    sizes: tuple[int, int]
    row_bytes: int
    box: tuple[int, int]
    swizzle: int
    promotion: int = 0

    def encode(self, target: Expr, buffer: Expr) -> None:
        """Encodes the map of a buffer, by ``cuTensorMapEncodeTiled``."""
        layout = (*self.sizes, self.row_bytes, *self.box, 1, 1, 0, self.swizzle, self.promotion, 0)
        name = "runtime.cuTensorMapEncodeTiled"
        T.evaluate(T.call_packed(name, target, str(buffer.dtype), 2, buffer.data, *layout))
