"""A block of the kernel of few channels: its tiles, and the place of a thread in a tile."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

from schedules.families.few_channels.plan import GROUP, POOL_STEP, ROWS, Plan, PooledPlan
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.control import Index
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Thread
from schedules.threads.shared_memory import SharedMemory


@dataclass(frozen=True)
class Block:
    """The context that the steps of the kernel share: its operands, its thread, shared memory.

    A warp computes 16 pixels of each of `down` rows, and one part of the channels. In a fragment
    of mma.sync a thread has `row` and `row` + 8 of the pixels, and of each step of the reduction
    the packs `pack` and `pack` + 4.
    """

    plan: Plan
    operands: Kernel
    thread: Thread
    shared: SharedMemory
    pipeline: AsyncCopyPipeline

    # ---------------------------------------------------------------- the thread

    @property
    def across(self) -> Expr:
        """Number of the warp among those side by side."""
        return self.thread.warp % self.plan.config.across

    @property
    def part(self) -> Expr:
        """The part of the output channels that the warp computes."""
        return self.thread.warp // self.plan.config.across % self.plan.config.parts

    @property
    def tall(self) -> Expr:
        """Number of the warp among those above each other."""
        return self.thread.warp // (self.plan.config.across * self.plan.config.parts)

    @property
    def row(self) -> Expr:
        """Row of the thread in a fragment: a pixel."""
        return self.thread.lane // 4

    @property
    def pack(self) -> Expr:
        """Pack of the thread in a fragment."""
        return self.thread.lane % 4

    def group(self, group: Index) -> Expr:
        """Number of a group of the warp's among all groups of output channels."""
        return self.part * self.plan.part_groups + group

    def channel(self, group: Index) -> Expr:
        """The first of the eight channels that the thread has of a group of its warp's."""
        return self.group(group) * GROUP + self.pack * 8

    # ---------------------------------------------------------------- the tiles

    def tile(self, turn: Index) -> Expr:
        """Number of the tile that the block computes in a turn."""
        plan, block = self.plan, self.thread.block
        if isinstance(plan, PooledPlan):
            # The tile above the block's own comes first. Above the very first is none.
            return tirx.max(block * plan.share + turn - 1, 0)
        return block + turn * plan.blocks

    def goes_on(self, turn: Expr, following: Expr) -> Expr:
        """True where the block computes another tile, `following`, after its turn."""
        exists = following < self.plan.total
        if isinstance(self.plan, PooledPlan):
            return tirx.all(turn < self.plan.share, exists)
        return exists

    def at(self, tile: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, and output row and column before the pool, at which a tile begins."""
        plan = self.plan
        _, down, across = plan.tiles
        if isinstance(plan, PooledPlan):
            # Tiles follow each other downwards.
            strip, row = tile // down, tile % down
            column = (strip % across * plan.columns - plan.skipped) * POOL_STEP
            return strip // across, row * plan.config.rows + plan.first_row, column
        return (
            tile // (down * across),
            tile // across % down * plan.config.rows,
            tile % across * (plan.config.across * ROWS),
        )
