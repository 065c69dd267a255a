"""A block of the mma.sync kernel: which outputs and k-blocks are its own, and its warps'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm.ir import Expr

from schedules.families.mma_sync.plan import Plan
from schedules.threads.control import Index
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Thread
from schedules.threads.registers import bind
from schedules.threads.shared_memory import SharedMemory


@dataclass(frozen=True)
class Block:
    """The outputs and k-blocks of a block, and the place of a thread in it.

    operands: each as one row of elements. lane: number of the thread in its warp. warp_m, warp_k,
    warp_i: place of its warp in the block. group: group of channels. m, k: first row and output
    channel of the output tile. first_step, steps: the block's k-blocks.
    """

    plan: Plan
    operands: Mapping[str, Expr]
    thread: Thread
    lane: Index
    warp_m: Index
    warp_k: Index
    warp_i: Index
    group: Index
    m: Index
    k: Index
    shared: SharedMemory
    first_step: Index
    steps: Index

    @classmethod
    def of(cls, plan: Plan, kernel: Kernel, thread: Thread) -> Block:
        """Works out the block of a thread, and allocates its shared memory.

        Block order within a group, for 4 x 2 tiles and `config.swizzle` = 2:

                       columns
                        0   1
                  0   | 0   2 |
            rows  1   | 1   3 |
                  2   | 4   6 |
                  3   | 5   7 |
        """
        config, gemm = plan.config, plan.gemm
        operands = {one.name: kernel.flat(one.name) for one in plan.signature}
        tiles_m, tiles_k = gemm.m_pad // config.tile.m, gemm.k_pad // config.tile.k
        block, warp = bind("block", thread.block // config.split), bind("warp", thread.warp)
        in_group, rows = bind("in_group", block % (tiles_m * tiles_k)), config.swizzle
        tile_m = in_group // (rows * tiles_k) * rows + in_group % rows
        tile_k = in_group // rows % tiles_k
        place = (
            bind("lane", thread.lane),
            bind("warp_m", warp % config.warps_m),
            bind("warp_k", warp // config.warps_m % config.warps_k),
            bind("warp_i", warp // (config.warps_m * config.warps_k)),
            bind("group", block // (tiles_m * tiles_k)),
            bind("block_m", tile_m * config.tile.m),
            bind("block_k", tile_k * config.tile.k),
        )
        # Kernels of other operands in the same module give it another dtype.
        own = ("shared_bytes",) if plan.operand.integer else ("shared", plan.operand.name)
        shared = SharedMemory(plan.memory, *own)
        first: Index = 0
        end: Index = plan.steps
        if config.split > 1:
            first = bind("begin", thread.rank * plan.steps // config.split)
            end = (thread.rank + 1) * plan.steps // config.split
        return cls(plan, operands, thread, *place, shared, first, bind("count", end - first))
