"""A kernel from its operands to the TIR function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import Operand
from schedules.threads.launch import Launch, Thread


class Kernel:
    """Emits one function::

        with Kernel(signature) as kernel, kernel.launch(Launch(blocks, threads)) as thread:
            ...                          # what one thread does
        return kernel.function

    What is emitted before the launch runs on the host. The operands do not overlap in memory.
    `plans_barriers`: TVM puts a block barrier wherever accesses to shared memory seem to need one,
    beside those that are written. A kernel whose warps do different things must be without.
    """

    def __init__(self, operands: Iterable[Operand], plans_barriers: bool = False) -> None:
        self._operands = list(operands)
        self._plans_barriers = plans_barriers
        self._scopes = ExitStack()
        self._buffers: dict[str, Expr] = {}

    def __enter__(self) -> Self:
        self._builder = self._scopes.enter_context(IRBuilder())
        # TVM has two lowerings; only the one of scheduled functions (s_tir) plans barriers.
        self._scopes.enter_context(T.prim_func(s_tir=self._plans_barriers))
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        for one in self._operands:
            buffer = T.buffer(one.shape, one.dtype, buffer_name=one.name)
            self._buffers[one.name] = T.arg(one.name, buffer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scopes.__exit__(kind, error, trace)
        if error is None:
            self._function = self._builder.get()

    @property
    def function(self) -> tirx.PrimFunc:
        """The function, after the ``with`` statement."""
        return self._function

    def __contains__(self, name: str) -> bool:
        return name in self._buffers

    def __getitem__(self, name: str) -> Expr:
        """The buffer of an operand. Raises ``KeyError`` where the kernel has no such operand."""
        return self._buffers[name]

    def get(self, name: str) -> Expr | None:
        """The buffer of an operand, None where the kernel has no such operand."""
        return self._buffers.get(name)

    def flat(self, name: str) -> Expr:
        """An operand as one row of elements."""
        size = math.prod(int(extent) for extent in self._buffers[name].shape)
        return self.elements(name, (size,))

    def words(self, name: str, shape: tuple[int, ...], dtype: str = "uint32") -> Expr:
        """An operand of 8 or 16-bit elements as larger ones, of this shape."""
        data = self._buffers[name].data
        return IRBuilder.name(name, T.decl_buffer(shape, dtype, data=data))

    def elements(self, name: str, shape: tuple[int, ...]) -> Expr:
        """An operand as an array of another shape."""
        buffer = self._buffers[name]
        return IRBuilder.name(name, T.decl_buffer(shape, buffer.dtype, data=buffer.data))

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[Thread]:
        """Begins what runs on the GPU, until the end of the function; gives the thread."""
        with ExitStack() as scopes:
            enter = scopes.enter_context
            rank: Expr | int = 0
            if self._plans_barriers:
                block = enter(T.launch_thread("blockIdx.x", launch.blocks))
                if launch.cluster > 1:
                    rank = enter(T.launch_thread("clusterCtaIdx.x", launch.cluster))
                number = enter(T.launch_thread("threadIdx.x", launch.threads))
            else:
                T.device_entry()
                block = IRBuilder.name("block", T.cta_id([launch.blocks]))
                if launch.cluster:
                    rank = IRBuilder.name("rank", T.cta_id_in_cluster([launch.cluster]))
                number = IRBuilder.name("thread", T.thread_id([launch.threads]))
            if launch.resident:
                enter(T.attr({"tirx.launch_bounds_min_blocks_per_sm": launch.resident}))
            yield Thread(number, block, rank)
