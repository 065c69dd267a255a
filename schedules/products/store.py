"""Accumulators of mma.sync to the result, wherever its elements lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.products.view import View
from schedules.threads.control import Index, when
from schedules.threads.registers import Registers, bind


def store(
    y: Expr,
    view: View,
    place: tuple[Sequence[Index], Index, Index],
    pair: Registers,
    value: Callable[[int], Expr],
    ends_within: tuple[bool, bool],
) -> None:
    """Stores two elements of a row that are next to each other, if they exist.

    y: the result as one row of elements. place: the index of the matrix; row and column of the
    first. pair: registers for both, of the result's dtype. value: gives each in fp32, called where
    it exists. ends_within: whether rows and columns may be past the end.
    """
    batch, row, column = place
    m, n = view.shape[-2:]
    dtype = str(y.dtype)
    vector = view.strides[-1] == 1 and view.alignment % 2 == 0 and n % 2 == 0
    inside = [row < m] * ends_within[0] + [column < n] * ends_within[1]

    def both() -> None:
        at = bind("at", view.at((*batch, row, column)))
        for i in range(2):
            pair[i] = value(i).astype(dtype)
        with T.vectorized(2) as lane:
            T.buffer_store(y, pair[lane], [at + lane])

    def each() -> None:
        for i in range(2):
            with when(tirx.all(column + i < n)):
                T.buffer_store(y, value(i).astype(dtype), [view.at((*batch, row, column + i))])

    emit = both if vector else each
    if inside:
        with when(tirx.all(*inside)):
            emit()
    else:
        emit()


def unravelled(number: Index, shape: Sequence[int]) -> list[Index]:
    """Returns the index of so many axes, of which the last one counts fastest."""
    found: list[Index] = []
    for extent in reversed(shape):
        found.insert(0, 0 if extent == 1 else number % extent)
        number = number // extent
    return found
