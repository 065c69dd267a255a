"""The knobs of the kernel of a depthwise convolution and its projection."""

from __future__ import annotations

from dataclasses import dataclass

from schedules.threads.launch import WARP

#: Columns of a warp's tile of pixels, and of the instruction; bytes of the channels of one step.
ACROSS, COLUMNS, STEP = 8, 8, 32


@dataclass(frozen=True)
class DepthwiseProjectionConfig:
    """A block has ``down * across * deep`` warps, each with a tile of `rows` x 8 output pixels."""

    #: Output rows of a warp, even.
    rows: int
    #: Warps above each other, and side by side.
    down: int = 1
    across: int = 1
    #: Warps that share the channels of a chunk, and add up their accumulators at the end.
    deep: int = 1
    #: Steps, of 16 channels or of 32 in 8 bits, whose operands are copied at a time.
    chunk: int = 2
    #: Chunks in shared memory.
    stages: int = 2
    #: Blocks that share the output channels; each computes the depthwise convolution anew.
    parts: int = 1
    #: Blocks that a multiprocessor is to hold at once, a bound on their registers; 0 for none.
    resident: int = 0

    def __str__(self) -> str:
        text = f"{self.down}x{self.across} warps of {self.rows}x{ACROSS} pixels"
        text += f", {self.deep} deep" * (self.deep > 1)
        text += f", {self.chunk * STEP} bytes of channels, {self.stages} stages"
        text += f", {self.parts} parts" * (self.parts > 1)
        return text + f", {self.resident} an SM" * bool(self.resident)

    @property
    def tiles(self) -> int:
        """Warps with pixels of their own."""
        return self.down * self.across

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.tiles * self.deep

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps
