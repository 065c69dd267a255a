"""A block of the WGMMA kernel: what its producer and its consumers have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm.ir import Expr

from schedules.conv.signature import CHANNEL, channel_operands
from schedules.families.wgmma.plan import Plan
from schedules.threads.barrier_pipeline import BarrierPipeline
from schedules.threads.control import Index, repeat, vectorized
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Launch, Thread
from schedules.threads.registers import Registers, Variable, keep
from schedules.threads.shared_memory import SharedMemory

#: The first of the barriers by which the threads of one warpgroup wait for each other.
WARPGROUP_BARRIER = 1


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

    def tiles(self) -> Tiles:
        """The tiles of the block, from its first one on."""
        return Tiles(self)

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

    def adjacent_channels(self, quad: Expr) -> dict[str, Registers]:
        """Channels 4 quad to 4 quad + 3 of each of `channel_operands`, loaded, by name."""
        found = {}
        for name in channel_operands(self.plan.w):
            found[name] = Registers.array(name, (4,), CHANNEL)
            with vectorized(4) as e:
                found[name][e] = self.operands[name][quad * 4 + e]
        return found


class Tiles:
    """The tiles of a block, one after another; a variable of the thread counts them."""

    def __init__(self, block: Block) -> None:
        self._plan = block.plan
        self._stride = block.launch.blocks // block.plan.config.split
        self._tile = Variable("tile", block.thread.block // block.plan.config.split)

    @contextmanager
    def each(self) -> Iterator[tuple[Expr, Expr]]:
        """A loop over the tiles; gives the place of the one in turn."""
        with repeat(self.exists()):
            yield self.place()
            self._tile.set(self._number(1))

    def exists(self, ahead: Index = 0) -> Expr:
        """True where a tile comes so many after the one in turn."""
        return self._number(ahead) < self._plan.tiles

    def place(self, ahead: Index = 0) -> tuple[Expr, Expr]:
        """First row and first column of that tile."""
        number, config = self._number(ahead), self._plan.config
        across = self._plan.tiles_k
        return number // across * config.rows, number % across * config.columns

    def _number(self, ahead: Index) -> Expr:
        return self._tile.value + ahead * self._stride
