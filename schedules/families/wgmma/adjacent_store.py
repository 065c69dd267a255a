"""The epilogue of the WGMMA kernel with integers, through the copy engine as `tensor_store` has it.

Weights are packed so that a lane holds four adjacent columns of 16 (`wgmma.adjacent_row`). So it
loads bias and scales as vectors, and writes its part of a row of a piece by itself, without
stmatrix, which moves elements of 16 bits. Of 16 columns, t is the lane modulo 4:

    accumulators     0  1  4  5            2  3  6  7
    hold             row l // 4            the row 8 below
                     columns 4 t to 4 t + 3
    bytes of y       one register, or two of 16-bit results

Eight rows of 16 bytes, each in another place of its swizzled row, meet every bank once.
"""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import wgmma
from schedules.conv.signature import RESIDUAL
from schedules.expressions.compute import finished
from schedules.expressions.packed_results import packed_results
from schedules.families.wgmma.tensor_store import TensorStore
from schedules.threads import packed_bytes
from schedules.threads.control import unrolled
from schedules.threads.registers import Registers, keep

#: Adjacent columns of a lane; rows from its first to its second one.
QUAD, BELOW = 4, 8


class AdjacentStore(TensorStore):
    """Stores tiles whose lanes hold adjacent columns."""

    def _finish(self, accumulators: Registers, first: Expr, pair: Expr, column: Expr) -> None:
        plan, w = self.plan, self.plan.w
        quad = column // QUAD + self.block.lane % 4
        if w.k % self.config.columns:
            quad = T.min(quad, w.k // QUAD - 1)
        channels = self.block.adjacent_channels(keep("quad", quad))
        pieces = self.block.shared.array("pieces", "uint32")
        row, word = self._place(pair)
        words = plan.stored.bytes
        with unrolled(2) as low:
            at = (self.block.group, self.buffer.value, row + low * BELOW)
            held = Registers.array("held", (words,), "uint32")
            if self.has_residual:
                for i in range(words):
                    held[i] = pieces[(*at, word + i)]
            totals = [accumulators[first + e // 2 * 4 + low * 2 + e % 2] for e in range(QUAD)]
            given = [{name: own[e] for name, own in channels.items()} for e in range(QUAD)]
            if self.has_residual:
                for e in range(QUAD):
                    given[e][RESIDUAL] = self._residual(held, e)
            self._pack(held, totals, given)
            for i in range(words):
                pieces[(*at, word + i)] = held[i]

    def _residual(self, held: Registers, e: int) -> Expr:
        added = self.plan.added
        if added.bytes > 1:
            return held.view(added.name)[e]
        return keep("residual", packed_bytes.unpack(held[0], e, added.name))

    def _pack(self, held: Registers, totals: list[Expr], given: list[dict[str, Expr]]) -> None:
        """The results of adjacent columns to packed registers."""
        w = self.plan.w
        if not self.plan.stored.integer:
            elements = held.view(w.precision.result)
            both = zip(totals, given, strict=True)
            done = [keep("done", finished(w, *one)) for one in both]
            for e in range(QUAD):
                elements[e] = done[e]
            return
        held[0] = packed_results(w, totals, given)

    def _place(self, pair: Expr) -> tuple[Expr, Expr]:
        """Row of a piece and its 32-bit word, where a lane's columns of 16 begin."""
        size = self.plan.stored.bytes
        lane = self.block.lane
        row = keep("row", lane // 32 * 16 + lane % 32 // 4)
        byte = lane % 4 * (QUAD * size)
        chunk = pair * size + byte // wgmma.CHUNK_BYTES
        chunk = wgmma.swizzled(row, chunk, self.plan.piece * size)
        words = wgmma.CHUNK_BYTES // 4
        return row, keep("word", chunk * words + byte % wgmma.CHUNK_BYTES // 4)
