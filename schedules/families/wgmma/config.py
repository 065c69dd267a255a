"""The knobs of the WGMMA kernel, and the registers that a thread has with them."""

from __future__ import annotations

from dataclasses import dataclass

from intrinsics import wgmma
from schedules.machine.gpus import HOPPER

#: Registers that a producer's thread keeps, and the most that a consumer's can have.
PRODUCER_REGISTERS, MOST_REGISTERS = 24, 240


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

    @property
    def rows(self) -> int:
        """Rows of a block's tile: output pixels."""
        return self.warpgroups * self.group_rows

    @property
    def group_rows(self) -> int:
        """Rows of a consumer warpgroup's part of the tile."""
        return self.fragments * wgmma.M

    @property
    def threads(self) -> int:
        """Threads of a block: the consumers' and those of the producer's warpgroup, of which one
        works."""
        return (self.warpgroups + 1) * wgmma.WARPGROUP

    @property
    def accumulators(self) -> int:
        """Accumulators of a consumer thread, one register each."""
        return self.fragments * self.columns // 2

    @property
    def share(self) -> int:
        """Registers that each thread of a block starts with."""
        return HOPPER.registers // self.resident // self.threads // 8 * 8

    @property
    def exchanges_registers(self) -> bool:
        """True where the consumers need registers of the producer's warpgroup."""
        return self.accumulators > 64

    @property
    def registers(self) -> int:
        """Registers of a consumer thread: its share, and what the producer's warpgroup gives away
        if it needs more. Never more than there are: ``setmaxnreg`` would wait forever."""
        if not self.exchanges_registers:
            return min(self.share, MOST_REGISTERS)
        given = (self.share - PRODUCER_REGISTERS) // self.warpgroups // 8 * 8
        return min(self.share + given, MOST_REGISTERS)

    def __str__(self) -> str:
        text = f"{self.rows}x{self.columns}, {self.warpgroups} warpgroups, {self.stages} stages"
        text += f", split {self.split}" if self.split > 1 else ""
        return text + (f", {self.resident} blocks" if self.resident > 1 else "")
