"""A block of the WGMMA kernel: what its producer and its consumers have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.ir import Expr

from schedules.families.wgmma.plan import Plan
from schedules.threads.control import repeat
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Thread
from schedules.threads.pipeline import BarrierPipeline
from schedules.threads.registers import Variable, keep
from schedules.threads.shared_memory import SharedMemory


@dataclass(frozen=True)
class Block:
    """maps: tensor maps of the operands that the copy engine loads or stores, by name."""

    plan: Plan
    operands: Kernel
    maps: dict[str, Expr]
    shared: SharedMemory
    pipeline: BarrierPipeline
    thread: Thread
    #: Number of the thread's warpgroup.
    group: Expr

    @property
    def lane(self) -> Expr:
        """Number of the thread in its warpgroup."""
        return self.thread.in_warpgroup

    def first_tile(self) -> Variable:
        """The number of the block's first tile, in a variable to go on with."""
        return Variable("tile", self.thread.block // self.plan.config.split)

    @contextmanager
    def tiles(self, tile: Variable) -> Iterator[tuple[Expr, Expr]]:
        """A loop over the block's tiles; gives the tile's first row and column."""
        plan, config = self.plan, self.plan.config
        with repeat(tile.value < plan.tiles):
            yield (
                tile.value // plan.tiles_k * config.rows,
                tile.value % plan.tiles_k * config.columns,
            )
            tile.set(tile.value + plan.grid // config.split)

    def first_step(self, rank: Any) -> Any:
        """The step of the reduction where the block of that rank in its cluster begins, and the
        one before it ends."""
        return rank * self.plan.steps // self.plan.config.split

    def channel(self, name: str, k: Expr) -> Expr | None:
        """Channel k of operand bias or slope, loaded; None where the kernel has no such operand."""
        buffer = self.operands.get(name)
        return None if buffer is None else keep(name, buffer[k])
