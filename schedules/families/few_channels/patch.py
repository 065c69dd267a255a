"""The pixels: copied to shared memory as a patch of the input, gathered from there as fragments.

The gather of the implicit GEMM is written nowhere. A thread reads the packs of a fragment at
an address that is the pixel's plus the pack's; the latter is one of `offsets`, a table in registers
that does not change from tile to tile (see the picture of `plan`).
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import X
from schedules.families.few_channels.block import Block
from schedules.families.few_channels.plan import ROWS
from schedules.threads import ptx
from schedules.threads.control import Index, grid, shared_out, unrolled
from schedules.threads.registers import Registers, keep


class Patch:
    """The patches of a block's tiles, one in each stage, and the fragments that are read of them.

    fragments: registers (down, 4), the first operand of an instruction for each of a warp's rows.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.plan, self.w = block, block.plan, block.plan.w
        self.x = block.operands[X]
        self.elements = block.shared.array("patches")
        self.packs = block.shared.array("patches", "uint32")
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
            self._copy((stage, 0, row, vector * plan.vector), source, inside)

    def _copy(self, to: tuple[Index, ...], source: Expr, inside: Expr) -> None:
        """Copies one vector. The least that cp.async moves is four bytes: one element goes through
        a register."""
        if self.plan.vector == 1:
            zero = tirx.const(0, self.plan.operand.name)
            self.elements[to] = tirx.if_then_else(inside, source, zero)
            return
        size = self.plan.vector * self.plan.operand.bytes
        count = T.Select(inside, T.uint32(size), T.uint32(0))
        ptx.cp_async(self.elements.pointer(*to), T.address_of(source), size, count=count)

    def shift(self, stage: Index) -> None:
        """Makes the other copies of a patch, whose packs begin some elements later.

        first copy     (e0, e1)  (e2, e3)  (e4, e5) ...
        second copy    (e1, e2)  (e3, e4)  (e5, e6) ...
        """
        plan = self.plan
        width = plan.vectors * plan.vector // plan.each
        count = plan.patch_rows * width
        with shared_out(count, plan.config.threads, self.block.thread.number) as number:
            row, column = number // width, number % width
            pack = self.packs[stage, 0, row, column]
            following = self.packs[stage, 0, row, column + 1]
            following = tirx.if_then_else(column + 1 < width, following, T.uint32(0))
            if plan.operand.integer:
                pack, following = keep("pack", pack), keep("following", following)
            for copy in range(1, plan.copies):
                bits = 32 * copy // plan.copies
                shifted = (pack >> T.uint32(bits)) | (following << T.uint32(32 - bits))
                if plan.operand.integer:  # by hand: TVM would put a barrier after each
                    to = self.packs.pointer(stage, copy, row, column)
                    ptx.store_shared(to, [keep("shifted", shifted)])
                else:
                    self.packs[stage, copy, row, column] = shifted
        ptx.shared_sync()

    def number_packs(self) -> None:
        """Computes the offsets of the thread's packs of the reduction, in packs from the first of a
        pixel."""
        plan = self.plan
        packs = self.w.r * plan.row_packs
        with unrolled(2 * plan.steps) as i:
            pack = self.block.pack + 4 * i
            at = pack // plan.row_packs * plan.pitch + pack % plan.row_packs
            # The weights past the last pack are zeros.
            self.offsets[i] = T.Select(pack < packs, at, 0)

    def load(self, step: Index, stage: Index) -> None:
        """Gathers the fragments of a step: of pixels `row` and `row` + 8 of each of the warp's
        rows, the packs of the step's lower and of its upper half."""
        plan, block, down = self.plan, self.block, self.plan.config.down
        element = (block.across * ROWS + block.row) * plan.pixel + plan.start
        between = plan.each // plan.copies
        copy: Index = element % plan.each if plan.copies > 1 else 0
        if between > 1:
            copy = copy // between
        with grid(2, down, 2) as (upper, row, eight):
            line = (block.tall * down + row) * self.w.stride[0]
            column = element // plan.each + eight * (8 * plan.pixel // plan.each)
            column = column + self.offsets[2 * step + upper]
            self.fragments[row, upper * 2 + eight] = self.packs[stage, copy, line, column]
