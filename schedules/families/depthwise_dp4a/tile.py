"""The tile of a thread: which pixels and channels, and where they lie in memory.

All indices are in quads of four adjacent channels, which of 8-bit integers are words.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr

from schedules.families.depthwise_dp4a.plan import QUAD, Plan
from schedules.threads.control import Index
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Thread
from schedules.threads.registers import keep


@dataclass(frozen=True)
class Tile:
    """The context that the steps of the kernel share.

    n: the image. p, q: the first output row and column. word: the first of its words of channels.
    """

    plan: Plan
    operands: Kernel
    n: Expr
    p: Expr
    q: Expr
    word: Expr

    @classmethod
    def of(cls, plan: Plan, operands: Kernel, thread: Thread) -> Tile:
        """The tile of a thread. Adjacent threads take adjacent channels, then columns."""
        down, across, along = plan.tiles
        number = keep("number", thread.block * plan.config.threads + thread.number)
        tile = keep("tile", number // along)
        above = keep("above", tile // across)
        return cls(
            plan,
            operands,
            keep("n", above // down),
            keep("p", above % down * plan.config.rows),
            keep("q", tile % across * plan.config.columns),
            keep("word", number % along * plan.config.words),
        )

    @property
    def exists(self) -> Expr:
        """False for the threads past the last tile."""
        return self.n < self.plan.w.n

    def input_at(self) -> Expr:
        """Index of the tile's first input pixel, which may lie in the padding."""
        w = self.plan.w
        top, left = w.padding[:2]
        row, column = self.p * w.stride[0] - top, self.q * w.stride[1] - left
        return ((self.n * w.h + row) * w.w + column) * (w.c // QUAD) + self.word

    def output_at(self, row: Index, column: Index) -> Expr:
        """Index in y of a pixel of the tile."""
        w = self.plan.w
        _, rows, columns, channels = w.buffer_shape
        p, q = self._pixel(row, column)
        first = 0 if w.window is None else w.window.channel // QUAD
        return ((self.n * rows + p) * columns + q) * (channels // QUAD) + (self.word + first)

    def residual_at(self, row: Index, column: Index) -> Expr:
        """Index in the residual of a pixel of the tile."""
        _, rows, columns, _ = self.plan.w.residual_shape
        p, q = self._pixel(row, column)
        return ((self.n * rows + p) * columns + q) * (self.plan.w.k // QUAD) + self.word

    def _pixel(self, row: Index, column: Index) -> tuple[Expr, Expr]:
        window, p, q = self.plan.w.window, self.p + row, self.q + column
        return (p, q) if window is None else window.pixel(p, q)
