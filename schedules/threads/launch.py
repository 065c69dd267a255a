"""The launch of a kernel, and the place of a thread in it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr

from schedules.threads.control import Index

WARP = 32
WARPGROUP = 128


@dataclass(frozen=True)
class Launch:
    """blocks: in the grid, those of all clusters. threads: in a block. cluster: blocks in a
    cluster, 0 for a kernel without clusters. resident: blocks that a multiprocessor is to hold at
    once, which bounds a thread's registers; 0 leaves that to the compiler."""

    blocks: int
    threads: int
    cluster: int = 0
    resident: int = 0


@dataclass(frozen=True)
class Thread:
    """number: of the thread in its block. block: number of the block in the grid. rank: number of
    the block in its cluster."""

    number: Expr
    block: Expr
    rank: Index = 0

    @property
    def warp(self) -> Expr:
        """Number of its warp in the block."""
        return self.number // WARP

    @property
    def lane(self) -> Expr:
        """Number of the thread in its warp."""
        return self.number % WARP

    @property
    def warpgroup(self) -> Expr:
        """Number of its warpgroup (four warps) in the block."""
        return self.number // WARPGROUP

    @property
    def in_warpgroup(self) -> Expr:
        """Number of the thread in its warpgroup."""
        return self.number % WARPGROUP
