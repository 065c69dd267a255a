"""What a kernel is made of that is written thread by thread: lanes, their registers, mma.sync.

`schedules.threads.emulator` runs such kernels on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as script
from tvm.tirx.script import builder as T

from intrinsics.mma_sync import LDMATRIX, M16N8K16, MOVMATRIX_TRANSPOSED

WARP = 32
ZERO = tirx.const(0, "float16")
Index = tuple[Any, ...]
#: Where register number i is; what the half i after the first is.
Where = Callable[[Any], Index]
Source = Callable[[Any], Any]


def ptx(name: str, *operands: Any) -> None:
    """Emits one PTX instruction."""
    T.evaluate(script.ptx[name](*operands))


@dataclass(frozen=True)
class Registers:
    """An array in the registers of every thread, or shared by all where `lanes` is None.

    `halves` are the same bits where it has words.
    """

    lanes: GpuLanes | None
    buffer: Any
    halves: Any = None

    def _at(self, index: Index) -> Index:
        return index if self.lanes is None else self.lanes.at(index)

    def __getitem__(self, index: Any) -> Any:
        return self.buffer[self._at(index if isinstance(index, tuple) else (index,))]

    def half(self, *index: Any) -> Any:
        return self.halves[self._at(index)]

    def set(self, value: Any, *index: Any) -> None:
        T.buffer_store(self.buffer, value, list(self._at(index)))

    def set_halves(self, value: Any, *index: Any) -> None:
        T.buffer_store(self.halves, value, list(self._at(index)))


class GpuLanes:
    """Threads, registers, shared memory and instructions of a GPU of sm_80 or later.

    `resident` blocks are to fit on an SM at a time: the compiler keeps registers as few.
    """

    def __init__(self, threads: int, resident: int) -> None:
        self.threads, self.resident = threads, resident
        self.thread: Any = None

    @contextmanager
    def blocks(self, count: int) -> Iterator[Any]:
        """The kernel's grid; inside, its block's number."""
        with (
            T.launch_thread("blockIdx.x", count) as block,
            T.launch_thread("threadIdx.x", self.threads) as thread,
            ExitStack() as bounds,
        ):
            if self.resident:
                bounds.enter_context(
                    T.attr({"tirx.launch_bounds_min_blocks_per_sm": self.resident})
                )
            self.thread = thread
            yield block

    def loop(self, count: int) -> Any:
        """A loop over registers: unrolled, as they have no addresses."""
        return T.unroll(count)

    @contextmanager
    def each(self) -> Iterator[Any]:
        """What every thread does between two steps that they do together; inside, its number."""
        yield self.thread

    def at(self, index: Index) -> Index:
        return index

    def shared(self, words: int) -> Registers:
        """Words that all threads of the block share."""
        buffer = T.alloc_buffer((words,), "uint32", scope="shared.dyn")
        halves = T.decl_buffer((2 * words,), "float16", data=buffer.data, scope="shared.dyn")
        return Registers(None, buffer, halves)

    def registers(self, shape: Index, dtype: str) -> Registers:
        """An array of each thread; of ``"uint32"``, with its halves."""
        buffer = T.alloc_buffer(shape, dtype, scope="local")
        if dtype != "uint32":
            return Registers(self, buffer)
        halves = (*shape[:-1], 2 * shape[-1])
        return Registers(
            self, buffer, T.decl_buffer(halves, "float16", data=buffer.data, scope="local")
        )

    def copy(
        self, target: Registers, at: Any, source: Source, halves: int, inside: Any = None
    ) -> None:
        """`halves` adjacent ones to half `at` of shared memory; zeros where they are not `inside`.

        They arrive by the next `wait`; cp.async moves 4, 8 or 16 bytes.
        """
        if halves == 1:
            value = source(0) if inside is None else tirx.if_then_else(inside, source(0), ZERO)
            target.set_halves(value, at)
            return
        size = 2 * halves
        kind = "cp.async.cg.shared.global" if size == 16 else "cp.async.ca.shared.global"
        count = () if inside is None else (T.Select(inside, T.uint32(size), T.uint32(0)),)
        to, start = T.address_of(target.halves[at]), T.address_of(source(0))
        ptx(kind, to, start, size, *count)

    def leave(self, target: Registers, at: Any, source: Registers, *index: Any) -> None:
        """Four adjacent registers, from word `at` of shared memory on. TVM would put a barrier
        between a read of shared memory and any store to it, which may be elsewhere; not here."""
        words = [source[(*index, i)] for i in range(4)]
        ptx("st.shared.v4.b32", T.address_of(target.buffer[at]), *words)

    def commit(self) -> None:
        ptx("cp.async.commit_group")

    def wait(self, later: int = 0) -> None:
        """Until all copies have arrived, those of all threads, but for the last `later` groups."""
        ptx("cp.async.wait_group", later)
        self.barrier()

    def barrier(self) -> None:
        T.evaluate(T.tvm_storage_sync("shared.dyn"))

    def fence(self) -> None:
        """Keeps the compiler from loading ahead of here, which would take registers."""
        T.evaluate(script.cuda.warp_sync())

    def maximum(self, target: Registers, word: Any, *at: Any) -> None:
        """The larger halves of a register and `word`, in the register; NaN where one is."""
        ptx("max.NaN.f16x2", target[at], target[at], word)

    def shuffle(self, target: Registers, source: Registers, lane: Any, *at: Any) -> None:
        """What `lane` of the warp has in `source`, in the same register of `target`; it was
        written in an earlier `each`."""
        whole = T.uint32(WARP - 1), T.uint32(0xFFFFFFFF)
        ptx("shfl_sync.idx.b32", target[at], source[at], lane.astype("uint32"), *whole)

    def load_matrices(
        self, target: Registers, at: Where, source: Registers, row: Callable[[], Any]
    ) -> None:
        """Four 8 x 8 matrices to the registers ``at(0)`` to ``at(3)``. row: the half of shared
        memory, a multiple of 8, where the row starts that a thread names; of its registers."""
        words = [target[at(i)] for i in range(4)]
        place = script.cuda.cvta_generic_to_shared(T.address_of(source.halves[row()]))
        ptx(LDMATRIX, *words, place)

    def transpose(self, target: Registers, at: Index, source: Registers, of: Index) -> None:
        """The 8 x 8 matrix of one register, turned round, to another: as `load_matrices` has them,
        two adjacent elements of a row in each lane."""
        ptx(MOVMATRIX_TRANSPOSED, target[at], source[of])

    def mma(
        self, sums: Registers, a: Registers, b: Registers, *at: Where, first: bool = False
    ) -> None:
        """sums += a b, or with `first` sums = a b: four, four and two registers, of which number i
        is at ``at[...](i)``."""
        total, rows, columns = (
            [registers[where(i)] for i in range(count)]
            for registers, where, count in zip((sums, a, b), at, (4, 4, 2), strict=True)
        )
        before = [T.float32(0)] * 4 if first else total
        ptx(M16N8K16.ptx, *total, *rows, *columns, *before)
