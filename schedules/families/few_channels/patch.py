"""The pixels: copied to shared memory as a patch of the input, gathered from there as fragments.

The gather of the implicit GEMM is written nowhere. A thread reads the packed pairs of a fragment at
an address that is the pixel's plus the pair's; the latter is one of `offsets`, a table in registers
that does not change from tile to tile (see the picture of `plan`).
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import X
from schedules.conv.workload import ceil_div
from schedules.families.few_channels.block import Block
from schedules.families.few_channels.plan import PAIR, ROWS, WORD
from schedules.threads import packed_integers, ptx
from schedules.threads.control import Index, grid, shared_out, unrolled
from schedules.threads.registers import Registers, keep
from schedules.threads.shared_memory import SharedArray


class Patch:
    """The patches of a block's tiles, one in each stage, and the fragments that are read of them.

    fragments: registers (down, 4), the first operand of an instruction for each of a warp's rows.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.plan, self.w = block, block.plan, block.plan.w
        self.x = block.operands[X]
        self.elements = block.shared.array("patches")
        self.bytes = block.shared.array("bytes") if self.plan.widens else None
        self.pairs = block.shared.array("patches", "uint32")
        self.offsets = Registers.array("offsets", (2 * self.plan.steps,), "int32")
        self.fragments = Registers.array("pixels", (self.plan.config.down, 4), "uint32")

    def copy(self, tile: Expr, stage: Index) -> None:
        """Starts the copies of the rows that a tile reads, as they lie in memory, and zeros where
        x is padded."""
        plan, w = self.plan, self.w
        n, p, q = self.block.at(tile)
        count = plan.patch_rows * plan.vectors
        with shared_out(count, plan.config.threads, self.block.thread.number) as number:
            row, vector = number // plan.vectors, number % plan.vectors
            h = p * w.stride[0] - w.padding[0] + row
            element = q * plan.pixel + plan.first_element + vector * plan.vector
            inside = tirx.all(h >= 0, h < w.h, element >= 0, element < w.w * w.c)
            source = self.x[n, h, element // w.c, element % w.c]
            column = vector * plan.vector
            if self.bytes is None:
                self._copy(self.elements, (stage, 0, row, column), source, inside)
            else:
                self._copy(self.bytes, (stage, row, column), source, inside)

    def _copy(
        self, patches: SharedArray, to: tuple[Index, ...], source: Expr, inside: Expr
    ) -> None:
        """Copies one vector. The least that cp.async moves is four bytes: one element goes through
        a register."""
        x = self.plan.x
        if self.plan.vector == 1:
            patches[to] = tirx.if_then_else(inside, source, tirx.const(0, x.name))
            return
        size = self.plan.vector * x.bytes
        count = T.Select(inside, T.uint32(size), T.uint32(0))
        ptx.cp_async(patches.pointer(*to), T.address_of(source), size, count=count)

    def widen(self, stage: Index) -> None:
        """Makes the elements of a patch, of the bytes that have arrived: four at a time."""
        plan, x = self.plan, self.plan.x
        words = self.block.shared.array("bytes", "uint32")
        pairs = Registers.array("widened", (WORD // PAIR,), "uint32")
        width = ceil_div(plan.vectors * plan.vector, WORD)
        count = plan.patch_rows * width
        with shared_out(count, plan.config.threads, self.block.thread.number) as number:
            row, column = number // width, number % width
            both = [pairs[i] for i in range(WORD // PAIR)]
            word = keep("word", words[stage, row, column])
            for i in range(WORD // PAIR):
                pairs[i] = packed_integers.biased(word, i, x.name)
            packed_integers.unbias(both, x.name)
            # Stored by hand: a barrier follows, and TVM would add another.
            ptx.store_shared(self.pairs.pointer(0, 0, row, column * len(both)), both)
        ptx.shared_sync()

    def shift(self, stage: Index) -> None:
        """Makes the second copy of a patch, whose pairs begin one element later.

        first copy     (e0, e1)  (e2, e3)  (e4, e5) ...
        second copy    (e1, e2)  (e3, e4)  (e5, e6) ...
        """
        plan = self.plan
        width = plan.vectors * plan.vector // PAIR
        count = plan.patch_rows * width
        with shared_out(count, plan.config.threads, self.block.thread.number) as number:
            row, column = number // width, number % width
            pair = self.pairs[stage, 0, row, column]
            following = self.pairs[stage, 0, row, column + 1]
            following = tirx.if_then_else(column + 1 < width, following, T.uint32(0))
            shifted = (pair >> T.uint32(16)) | (following << T.uint32(16))
            self.pairs[stage, 1, row, column] = shifted
        ptx.shared_sync()

    def number_pairs(self) -> None:
        """Computes the offsets of the thread's pairs of the reduction, in pairs from the first of a
        pixel."""
        plan = self.plan
        pairs = self.w.r * plan.row_pairs
        with unrolled(2 * plan.steps) as i:
            pair = self.block.pair + 4 * i
            at = pair // plan.row_pairs * plan.pitch + pair % plan.row_pairs
            # The weights past the last pair are zeros.
            self.offsets[i] = T.Select(pair < pairs, at, 0)

    def load(self, step: Index, stage: Index) -> None:
        """Gathers the fragments of a step: of pixels `row` and `row` + 8 of each of the warp's
        rows, the pairs of the step's lower and of its upper half."""
        plan, block, down = self.plan, self.block, self.plan.config.down
        element = (block.across * ROWS + block.row) * plan.pixel + plan.start
        copy = element % 2 if plan.copies == 2 else 0
        with grid(2, down, 2) as (upper, row, eight):
            line = (block.tall * down + row) * self.w.stride[0]
            column = element // PAIR + eight * (8 // PAIR) * plan.pixel
            column = column + self.offsets[2 * step + upper]
            self.fragments[row, upper * 2 + eight] = self.pairs[stage, copy, line, column]
