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

    def __str__(self) -> str:
        size = f"{self.rows}x{self.columns} pixels of {4 * self.words} channels"
        return f"{size}, {self.threads} threads"
