"""The knobs of the kernel of few channels."""

from __future__ import annotations

from dataclasses import dataclass

from schedules.threads.launch import WARP

#: Where the filter can be kept.
WEIGHTS = ("shared", "registers")


@dataclass(frozen=True)
class FewChannelsConfig:
    """A block has ``tall * across * parts`` warps, and computes tiles of ``tall * down`` rows."""

    #: Output rows that a warp computes at a time, 16 pixels of each.
    down: int
    #: Warps side by side, 16 pixels each.
    across: int
    #: Warps that share the output channels.
    parts: int = 1
    #: Warps above each other.
    tall: int = 1
    #: Where the filter is kept: ``"shared"`` memory, or ``"registers"``.
    weights: str = "shared"
    #: Blocks of the grid, persistent; 0 for a block for each tile.
    blocks: int = 0
    #: Blocks that a multiprocessor is to hold at once, a bound on their registers; 0 for none.
    resident: int = 0

    def __str__(self) -> str:
        text = f"{self.down} rows, {self.tall}x{self.across}x{self.parts} warps"
        text += ", filter in registers" * (self.weights == "registers")
        text += f", {self.blocks} blocks" * bool(self.blocks)
        return text + f", {self.resident} an SM" * bool(self.resident)

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.across * self.parts * self.tall

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps

    @property
    def rows(self) -> int:
        """Output rows of a tile."""
        return self.down * self.tall
