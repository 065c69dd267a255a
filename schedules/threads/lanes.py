"""A kernel written thread by thread, for cuda by `schedules.threads.gpu_lanes` and here for llvm.

For llvm every `each` is a loop over all threads of the block, every register an array with an
element for each of them, and an instruction is its definition, element by element. So a kernel that
is right on a CPU reads, holds and writes the right elements on a GPU as well; what has no
counterpart is waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from schedules.threads.gpu_lanes import WARP, ZERO, GpuLanes, Index, Registers, Source, Where


class CpuLanes(GpuLanes):
    """The same for llvm, a loop over the threads in every step."""

    @contextmanager
    def blocks(self, count: int) -> Iterator[Any]:
        with T.parallel(count) as block:
            yield block

    def loop(self, count: int) -> Any:
        return T.serial(count)

    @contextmanager
    def each(self) -> Iterator[Any]:
        with T.serial(self.threads) as thread:
            self.thread = thread
            yield thread
        self.thread = None

    def at(self, index: Index) -> Index:
        return (self.thread, *index)

    def shared(self, words: int) -> Registers:
        buffer = T.alloc_buffer((words,), "uint32")
        halves = T.decl_buffer((2 * words,), "float16", data=buffer.data)
        return Registers(None, buffer, halves)

    def registers(self, shape: Index, dtype: str) -> Registers:
        shape = (self.threads, *shape)
        buffer = T.alloc_buffer(shape, dtype)
        if dtype != "uint32":
            return Registers(self, buffer)
        halves = (*shape[:-1], 2 * shape[-1])
        return Registers(self, buffer, T.decl_buffer(halves, "float16", data=buffer.data))

    def copy(
        self, target: Registers, at: Any, source: Source, halves: int, inside: Any = None
    ) -> None:
        with T.serial(halves) as i:
            value = source(i) if inside is None else tirx.if_then_else(inside, source(i), ZERO)
            target.set_halves(value, at + i)

    def leave(self, target: Registers, at: Any, source: Registers, *index: Any) -> None:
        for i in range(4):
            target.set(source[(*index, i)], at + i)

    def commit(self) -> None:
        """Copies are done when they are asked for."""

    def wait(self, later: int = 0) -> None:
        """As `commit`."""

    def barrier(self) -> None:
        """One step ends before the next begins."""

    def fence(self) -> None:
        """As `barrier`."""

    def maximum(self, target: Registers, word: Any, *at: Any) -> None:
        *outer, number = at
        for part in range(2):
            half = T.reinterpret("float16", (word >> T.uint32(16 * part)).astype("uint16"))
            index = (*outer, number * 2 + part)
            mine = target.half(*index)
            larger = T.Select(tirx.any(mine > half, mine != mine), mine, half)
            target.set_halves(larger, *index)

    def shuffle(self, target: Registers, source: Registers, lane: Any, *at: Any) -> None:
        target.set(source.buffer[(self.thread // WARP * WARP + lane, *at)], *at)

    def load_matrices(
        self, target: Registers, at: Where, source: Registers, row: Callable[[], Any]
    ) -> None:
        with T.serial(self.threads // WARP) as warp, T.serial(WARP) as lane, T.serial(4) as i:
            self.thread = warp * WARP + i * 8 + lane // 4  # who names the row
            word = source.buffer[row() // 2 + lane % 4]
            T.buffer_store(target.buffer, word, [warp * WARP + lane, *at(i)])
        self.thread = None

    def transpose(self, target: Registers, at: Index, source: Registers, of: Index) -> None:
        *first, to = at
        *outer, word = of
        with T.serial(self.threads // WARP) as warp, T.serial(WARP) as lane, T.serial(2) as i:
            row, column = lane % 4 * 2 + i, lane // 4
            holder = warp * WARP + row * 4 + column // 2
            value = source.halves[(holder, *outer, word * 2 + column % 2)]
            T.buffer_store(target.halves, value, [warp * WARP + lane, *first, to * 2 + i])

    def mma(
        self, sums: Registers, a: Registers, b: Registers, *at: Where, first: bool = False
    ) -> None:
        of_sums, of_a, of_b = at

        def half(registers: Registers, lane: Any, index: Index, part: Any) -> Any:
            *outer, word = index
            return registers.halves[(lane, *outer, word * 2 + part)].astype("float32")

        with (
            T.serial(self.threads // WARP) as warp,
            T.grid(16, 8) as (row, column),
            T.serial(16) as k,
        ):
            start = warp * WARP
            lane, number = row % 8 * 4 + column // 2, row // 8 * 2 + column % 2
            index = (start + lane, *of_sums(number))
            left = half(a, start + row % 8 * 4 + k % 8 // 2, of_a(row // 8 + k // 8 * 2), k % 2)
            right = half(b, start + column * 4 + k % 8 // 2, of_b(k // 8), k % 2)
            before = sums.buffer[index]
            if first:
                before = T.Select(k == 0, T.float32(0), before)
            T.buffer_store(sums.buffer, before + left * right, list(index))


def lanes(kind: str, threads: int, resident: int) -> GpuLanes:
    """Of target kind ``"cuda"`` or ``"llvm"``, for blocks of so many threads, of which so many are
    to fit on an SM at a time."""
    return (GpuLanes if kind == "cuda" else CpuLanes)(threads, resident)
