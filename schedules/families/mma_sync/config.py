"""The knobs of the mma.sync kernel."""

from __future__ import annotations

from dataclasses import dataclass

from intrinsics.record import WARP_SIZE
from schedules.conv.gemm import Tile


@dataclass(frozen=True)
class MmaSyncConfig:
    """A block is `warps_m` x `warps_k` x `warps_i` warps; a warp tile is `fragments_m` x
    `fragments_k` fragments of 16 rows and 16 output channels."""

    warps_m: int = 2
    warps_k: int = 2
    fragments_m: int = 4
    fragments_k: int = 4
    #: Fragments of 32 bytes along the reduction in a k-block, which a stage holds.
    chunk: int = 4
    #: Stages of the pipeline.
    stages: int = 3
    #: Warps that share each k-block, and add their accumulators through shared memory.
    warps_i: int = 1
    #: Blocks of a cluster that share the k-blocks, and add their accumulators in order.
    split: int = 1
    #: Block order: blocks of rows that take one column of weights before the next, for L2.
    swizzle: int = 1

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.warps_m * self.warps_k * self.warps_i

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps * WARP_SIZE

    @property
    def tile(self) -> Tile:
        """The output tile of a block, and how much of the reduction a k-block is, of elements of
        16 bits. `Plan.tile` is that of the workload."""
        m, k = self.warps_m * self.fragments_m, self.warps_k * self.fragments_k
        return Tile(m * 16, k * 16, self.chunk * 16)

    @property
    def splits_reduction(self) -> bool:
        """True where accumulators of several warps or blocks are added."""
        return self.warps_i * self.split > 1

    @property
    def fragment_registers(self) -> int:
        """32-bit registers of a thread for accumulators and two sets of operands."""
        m, k = self.fragments_m, self.fragments_k
        return m * k * 8 + 2 * 4 * (m + k)

    def __str__(self) -> str:
        text = f"{self.tile.m}x{self.tile.k}x{self.tile.i}, {self.warps_m}x{self.warps_k}"
        text += f"x{self.warps_i}" if self.warps_i > 1 else ""
        text += f" warps, {self.stages} stages cp.async"
        text += f", split {self.split}" if self.split > 1 else ""
        return text + (f", swizzle {self.swizzle}" if self.swizzle > 1 else "")
