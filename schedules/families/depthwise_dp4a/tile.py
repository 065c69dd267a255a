"""The tile of a thread: which pixels and channels, and where they lie in memory.

All indices are in groups of as many adjacent channels as a thread has.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

from schedules.families.depthwise_dp4a.plan import Plan
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Thread
from schedules.threads.registers import keep


@dataclass(frozen=True)
class Tile:
    """The context that the steps of the kernel share.

    n: the image. p, q: the first output row and column. group: of channels.
    """

    plan: Plan
    operands: Kernel
    n: Expr
    p: Expr
    q: Expr
    group: Expr

    @classmethod
    def of(cls, plan: Plan, operands: Kernel, thread: Thread) -> Tile:
        """The tile of a thread. Adjacent threads take adjacent channels, then columns."""
        # Nothing here is negative, which TVM can't see: its // would take care of that.
        down, across, along = plan.tiles
        number = keep("number", thread.block * plan.config.threads + thread.number)
        tile = keep("tile", tirx.truncdiv(number, along))
        above = keep("above", tirx.truncdiv(tile, across))
        return cls(
            plan,
            operands,
            keep("n", tirx.truncdiv(above, down)),
            keep("p", tirx.truncmod(above, down) * plan.config.rows),
            keep("q", tirx.truncmod(tile, across) * plan.config.columns),
            keep("group", tirx.truncmod(number, along)),
        )

    @property
    def exists(self) -> Expr:
        """False for the threads past the last tile."""
        return self.n < self.plan.w.n

    @property
    def groups(self) -> int:
        """Groups of channels of a pixel."""
        return self.plan.tiles[2]

    @property
    def written_groups(self) -> int:
        """The same of the tensor that is written."""
        return self.plan.w.buffer_shape[3] // self.plan.channels

    def input_at(self) -> Expr:
        """Index of the tile's first input pixel, which may lie in the padding."""
        w = self.plan.w
        top, left = w.padding[:2]
        row, column = self.p * w.stride[0] - top, self.q * w.stride[1] - left
        return ((self.n * w.h + row) * w.w + column) * self.groups + self.group

    def output_at(self) -> Expr:
        """Index in y of the tile's first pixel."""
        window, size = self.plan.w.window, self.plan.channels
        first = 0 if window is None else window.channel // size
        return self._written() * self.written_groups + (self.group + first)

    def residual_at(self) -> Expr:
        """Index in the residual of the tile's first pixel."""
        return self._written() * self.groups + self.group

    def _written(self) -> Expr:
        """Number of the tile's first pixel in the tensor that is written."""
        w = self.plan.w
        _, rows, columns, _ = w.buffer_shape
        p, q = (self.p, self.q) if w.window is None else w.window.pixel(self.p, self.q)
        return (self.n * rows + p) * columns + q

    def pixels_to(self, row: int, column: int) -> int:
        """Pixels from the tile's first one to another, in the tensor that is written."""
        w = self.plan.w
        window, columns = w.window, w.buffer_shape[2]
        steps = (1, 1) if window is None else (window.row_step, window.column_step)
        return row * steps[0] * columns + column * steps[1]
