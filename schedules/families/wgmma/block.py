"""A block of the WGMMA kernel: what its producer and its consumers have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm.ir import Expr

from schedules.conv.signature import channel_operands
from schedules.families.wgmma.plan import Plan
from schedules.threads.barrier_pipeline import BarrierPipeline
from schedules.threads.control import Index, repeat
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Launch, Thread
from schedules.threads.registers import Variable, keep
from schedules.threads.shared_memory import SharedMemory


@dataclass(frozen=True)
class Block:
    """maps: tensor maps of the operands that the copy engine loads or stores, by name. group:
    number of the thread's warpgroup."""

    plan: Plan
    launch: Launch
    operands: Kernel
    maps: dict[str, Expr]
    shared: SharedMemory
    pipeline: BarrierPipeline
    thread: Thread
    group: Expr

    @property
    def lane(self) -> Expr:
        """Number of the thread in its warpgroup."""
        return self.thread.in_warpgroup

    @contextmanager
    def tiles(self) -> Iterator[tuple[Expr, Expr]]:
        """A loop over the block's tiles; gives the tile's first row and column."""
        plan, config = self.plan, self.plan.config
        tile = Variable("tile", self.thread.block // config.split)
        with repeat(tile.value < plan.tiles):
            yield (
                tile.value // plan.tiles_k * config.rows,
                tile.value % plan.tiles_k * config.columns,
            )
            tile.set(tile.value + self.launch.blocks // config.split)

    def first_step(self) -> Expr:
        """The step of the reduction with which the block begins."""
        return keep("first", self._first_step(self.thread.rank))

    def steps(self, first: Expr) -> Expr:
        """Returns the number of steps from the block's first one to the next rank's."""
        return self._first_step(self.thread.rank + 1) - first

    def _first_step(self, rank: Index) -> Expr:
        return rank * self.plan.steps // self.plan.config.split

    def channels(self, k: Expr) -> dict[str, Expr]:
        """Channel k of each of `channel_operands`, loaded, by name."""
        return {name: keep(name, self.operands[name][k]) for name in channel_operands(self.plan.w)}
