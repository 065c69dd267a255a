"""Control flow of a thread: conditions and loops, as context managers that emit TIR.

A Python ``if`` or ``for`` decides while the kernel is written; these decide while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeAlias

from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

#: An index or a count: known while the kernel is written, or only while it runs.
Index: TypeAlias = int | Expr


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Runs what is emitted inside where the condition holds."""
    with T.If(condition), T.Then():
        yield


@contextmanager
def either(condition: Expr) -> Iterator[tuple[AbstractContextManager, AbstractContextManager]]:
    """Two branches to enter in turn: the one where the condition holds, and the other."""
    with T.If(condition):
        yield T.Then(), T.Else()


def repeat(condition: Expr) -> AbstractContextManager[None]:
    """Repeats what is emitted inside while the condition holds."""
    return T.While(condition)


@contextmanager
def serial(count: Index, name: str = "i") -> Iterator[Expr]:
    """A loop; gives its index."""
    with T.serial(count) as i:
        yield IRBuilder.name(name, i)


@contextmanager
def unrolled(count: int, name: str = "i") -> Iterator[Expr]:
    """An unrolled loop; gives its index, by which `Registers` may be indexed."""
    with T.unroll(count) as i:
        yield IRBuilder.name(name, i)


@contextmanager
def vectorized(count: int, name: str = "v") -> Iterator[Expr]:
    """A loop whose loads and stores become one vector access each; gives its index."""
    with T.vectorized(count) as i:
        yield IRBuilder.name(name, i)


@contextmanager
def grid(*counts: int) -> Iterator[tuple[Expr, ...]]:
    """Nested unrolled loops, the last innermost; gives their indices."""
    with ExitStack() as loops:
        yield tuple(loops.enter_context(unrolled(count)) for count in counts)


@contextmanager
def shared_out(count: int, threads: int, thread: Expr) -> Iterator[Expr]:
    """An unrolled loop over the numbers below `count`, shared out among the threads of the block,
    of which this one is number `thread`; gives its numbers."""
    with unrolled(-(-count // threads)) as turn:
        number = turn * threads + thread
        with when(number < count):
            yield number
