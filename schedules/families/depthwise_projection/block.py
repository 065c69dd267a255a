"""A block of the kernel of a depthwise convolution and its projection: its tile, and the place of a
thread in it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr

from schedules.families.depthwise_projection.config import ACROSS
from schedules.families.depthwise_projection.plan import Plan
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Thread
from schedules.threads.shared_memory import SharedMemory


@dataclass(frozen=True)
class Block:
    """The context that the steps of the kernel share: its operands, its thread, shared memory."""

    plan: Plan
    operands: Kernel
    thread: Thread
    shared: SharedMemory

    # ---------------------------------------------------------------- the thread

    @property
    def lane(self) -> Expr:
        """Number of the thread in its warp."""
        return self.thread.lane

    @property
    def row(self) -> Expr:
        """Row of the thread in a fragment of mma.sync."""
        return self.lane // 4

    @property
    def pair(self) -> Expr:
        """Packed pair of the thread in a row of a fragment."""
        return self.lane % 4

    @property
    def tile(self) -> Expr:
        """Number of the warp's tile among those of the block."""
        return self.thread.warp % self.plan.config.tiles

    @property
    def deep(self) -> Expr:
        """Number of the warp among those that share a tile."""
        return self.thread.warp // self.plan.config.tiles

    @property
    def down(self) -> Expr:
        """First output row of the warp's tile, in the block's."""
        return self.tile // self.plan.config.across * self.plan.config.rows

    @property
    def across(self) -> Expr:
        """First output column of the warp's tile, in the block's."""
        return self.tile % self.plan.config.across * ACROSS

    def step(self, turn: Expr) -> Expr:
        """The step of a chunk that the warp computes in a turn."""
        return turn * self.plan.config.deep + self.deep

    # ---------------------------------------------------------------- the block

    @property
    def part(self) -> Expr:
        """Number of the block's part of the output channels."""
        return self.thread.block % self.plan.config.parts

    def at(self) -> tuple[Expr, Expr, Expr]:
        """Image, output row and output column at which the block's tile begins."""
        plan, tile = self.plan, self.thread.block // self.plan.config.parts
        _, down, across = plan.tiles
        return (
            tile // (down * across),
            tile // across % down * plan.tile[0],
            tile % across * plan.tile[1],
        )

    def position(self, column: Expr) -> Expr:
        """Position in shared memory of a column of the patch (see the picture of `plan`)."""
        stride = self.plan.prologue.stride[1]
        return column % stride * self.plan.phase + column // stride
