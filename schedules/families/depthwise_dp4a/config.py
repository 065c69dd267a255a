"""The knobs of the depthwise kernel of dp4a."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DepthwiseDp4aConfig:
    """A thread computes ``rows`` x ``columns`` pixels of ``4 * words`` adjacent channels."""

    rows: int
    columns: int
    #: Words of four channels each, which a thread loads and stores as one vector.
    words: int = 1
    #: Threads of a block.
    threads: int = 128
    #: Blocks that a multiprocessor is to hold at once, a bound on their registers; 0 for none.
    resident: int = 0

    def __str__(self) -> str:
        text = f"{self.rows}x{self.columns} pixels of {4 * self.words} channels"
        text += f", {self.threads} threads"
        return text + f", {self.resident} an SM" * bool(self.resident)
