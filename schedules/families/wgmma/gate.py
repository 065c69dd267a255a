"""The gate of the WGMMA kernel: consumers multiply a stage's pixels by it before they are read.

The instruction reads pixels out of shared memory alone, where the copy engine has put them. So each
warpgroup multiplies its own rows in place, 16 bytes of a row at a time, and then shows them to the
instruction. The factors of a step are loaded while its stage is waited for:

    load     16 bytes of the gate for each 16 bytes of pixels, of the image that the row is of
    apply    product of both, rounded, where the pixels were; a fence and a barrier

Threads take chunks of a row side by side, then rows. Here with 4 chunks a row, 32 rows at a time:

                 chunk 0    chunk 1    chunk 2    chunk 3
    row 0        thread 0   thread 1   thread 2   thread 3
    row 1        thread 4   ...
    ...
    row 32       thread 0   ...                              its second part
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import wgmma
from schedules.conv.signature import GATE
from schedules.families.wgmma.block import WARPGROUP_BARRIER, Block
from schedules.threads import ptx
from schedules.threads.control import unrolled, vectorized, when
from schedules.threads.registers import Registers, Variable, keep


class Gate:
    """Multiplies the rows of a warpgroup, step after step."""

    def __init__(self, block: Block) -> None:
        plan = block.plan
        self.block, self.plan = block, plan
        self.pixels = block.shared.array("pixels")
        #: Elements of a chunk, chunks of a row, rows that the warpgroup takes at a time.
        self.width = wgmma.CHUNK_BYTES // plan.operand.bytes
        self.across = plan.row_bytes // wgmma.CHUNK_BYTES
        self.down = wgmma.WARPGROUP // self.across
        self.parts = plan.gate_registers // (wgmma.CHUNK_BYTES // 4)
        self.chunk = keep("chunk", block.lane % self.across)
        self.row = keep("row", block.lane // self.across)
        #: Which chunk of a pixel's channels the thread has in this step.
        self.part_of_pixel = Variable("part", 0)
        self.factors = Registers.array("factors", (self.parts, self.width), plan.operand.name)

    def load(self, m: Expr, step: Expr) -> None:
        """Loads the factors of a step, for the warpgroup's rows from output pixel m on."""
        w, plan = self.plan.w, self.plan
        self.part_of_pixel.set(step % plan.chunks * self.across + self.chunk)
        with self._inside(), unrolled(self.parts) as part:
            pixel = T.min(m + self.row + part * self.down, plan.m - 1)
            image = keep("image", pixel // (w.p * w.q))
            channel = self.part_of_pixel.value * self.width
            with vectorized(self.width) as e:
                self.factors[part, e] = self.block.operands[GATE][image, 0, 0, channel + e]

    def apply(self, stage: Expr) -> None:
        """Multiplies the warpgroup's rows of a stage, and shows them to the instruction."""
        plan, block = self.plan, self.block
        first = block.group * plan.config.group_rows + self.row
        factors = self.factors.view("uint32")
        with self._inside(), unrolled(self.parts) as part:
            row = keep("row", first + part * self.down)
            at = keep("at", wgmma.swizzled(row, self.chunk, plan.row_bytes)) * self.width
            elements = Registers.array("elements", (self.width,), plan.operand.name)
            with vectorized(self.width) as e:
                elements[e] = self.pixels[stage, row, at + e]
            pairs = elements.view("uint32")
            with unrolled(self.width // 2) as pair:
                ptx.product_of_pairs(pairs[pair], factors[part, pair], plan.operand.name)
            pointer = self.pixels.pointer(stage, row, at)
            ptx.store_shared(pointer, [pairs[pair] for pair in range(self.width // 2)])
        ptx.fence_proxy()
        ptx.warpgroup_sync(WARPGROUP_BARRIER + block.group)

    def _inside(self) -> AbstractContextManager[None]:
        """Only where there are such channels: past the last one pixels are zeros."""
        return when(self.part_of_pixel.value < self.plan.w.c // self.width)
