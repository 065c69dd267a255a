"""The knobs of the WGMMA kernel, and the registers that a thread has with them."""

from __future__ import annotations

from dataclasses import dataclass

from intrinsics import wgmma
from schedules.machine.gpus import HOPPER, SCHEDULERS
from schedules.threads.launch import WARP

#: Registers that a producer's thread keeps, and the most that a consumer's can have.
PRODUCER_REGISTERS, MOST_REGISTERS = 24, 240
#: Registers of a consumer's thread beside its accumulators: addresses, counters, one piece of the
#: epilogue.
OTHER_REGISTERS = 56


@dataclass(frozen=True)
class WgmmaConfig:
    """A block computes a tile of (`rows`, `columns`) outputs: `warpgroups` consumers of
    `fragments` x 64 rows each, and one producer that keeps `stages` steps in flight."""

    warpgroups: int = 2
    fragments: int = 1
    columns: int = 128
    stages: int = 4
    #: Blocks of a cluster that share the reduction of one tile.
    split: int = 1
    #: Blocks that a multiprocessor holds at once.
    resident: int = 1
    #: Buffers of a consumer, in which pieces of its tile leave. With two the residual is loaded
    #: into them as a tile begins; with more, ahead of that.
    buffers: int = 2

    @property
    def rows(self) -> int:
        """Rows of a block's tile: output pixels."""
        return self.warpgroups * self.group_rows

    @property
    def group_rows(self) -> int:
        """Rows of a consumer warpgroup's part of the tile."""
        return self.fragments * wgmma.M

    @property
    def producers(self) -> int:
        """Threads of the producer, of which one works: a warp, or a warpgroup if it has to give
        registers away, which only whole warpgroups can."""
        return wgmma.WARPGROUP if self.exchanges_registers else WARP

    @property
    def threads(self) -> int:
        """Threads of a block: the consumers' and the producer's."""
        return self.warpgroups * wgmma.WARPGROUP + self.producers

    @property
    def accumulators(self) -> int:
        """Accumulators of a consumer thread, one register each."""
        return self.fragments * self.columns // 2

    @property
    def exchanges_registers(self) -> bool:
        """True where an even share of the registers is too little for a consumer."""
        return self.accumulators + OTHER_REGISTERS > self._share(WARP)

    @property
    def share(self) -> int:
        """Registers that each thread of a block starts with."""
        return self._share(self.producers)

    def _share(self, producers: int) -> int:
        # Each scheduler has a fourth of the registers, and its own warps.
        warps = self.resident * (self.warpgroups * wgmma.WARPGROUP + producers) // WARP
        share = HOPPER.registers // SCHEDULERS // -(-warps // SCHEDULERS) // WARP
        return min(share // 8 * 8, MOST_REGISTERS)

    @property
    def registers(self) -> int:
        """Registers of a consumer thread: its share, and what the producer's warpgroup gives away
        if it needs more. Never more than there are: ``setmaxnreg`` would wait forever."""
        if not self.exchanges_registers:
            return self.share
        given = (self.share - PRODUCER_REGISTERS) // self.warpgroups // 8 * 8
        return min(self.share + given, MOST_REGISTERS)

    def __str__(self) -> str:
        text = f"{self.rows}x{self.columns}, {self.warpgroups} warpgroups, {self.stages} stages"
        text += f", split {self.split}" if self.split > 1 else ""
        text += f", {self.resident} blocks" if self.resident > 1 else ""
        return text + (f", {self.buffers} buffers" if self.buffers > 2 else "")
