"""The footprint of a kernel, from which `schedules.machine.model` predicts its time.

A family gives the footprint of its schedule by `Family.footprint`. The capacities of GPUs are in
`schedules.machine.gpus`. Plain Python.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Units that multiply: mma.sync (also WMMA, which compiles to it), wgmma, or fp32 arithmetic.
MMA, WGMMA, FP32 = "mma", "wgmma", "fp32"


@dataclass(frozen=True)
class Footprint:
    """One launch: the work of each of its blocks, all threads together.

    A block goes through ``steps`` in sequence. In each it copies operands, waits, and multiplies.
    All numbers include padding. In a persistent kernel a block here is one output tile.
    """

    blocks: int
    #: Threads of a block.
    threads: int
    #: 32-bit registers of a thread.
    registers: int
    #: Shared memory of a block, in bytes.
    shared_bytes: int
    unit: str
    #: Dtype that ``unit`` multiplies.
    operand: str
    #: Multiply-adds of a block, by ``unit``.
    macs: int
    #: Warp instructions of a block, multiply-adds included.
    instructions: int
    #: Bytes that a block moves to and from shared memory and L1, which are one memory; an access
    #: with bank conflicts counts once per replay.
    shared_traffic: int
    #: Bytes that a block reads from L2, and writes to it.
    read_bytes: int
    written_bytes: int
    #: Bytes that all blocks together read from and write to memory: every operand once.
    dram_bytes: int
    steps: int
    #: Waits of a warp per step, for shared memory or for its own last instructions.
    rounds: int = 1
    #: Steps whose operands are in flight while one is multiplied; 0: each step waits for its copy.
    ahead: int = 0
    #: Latency of a copy in clocks, if longer than a load's.
    fetch: int = 0
    #: Other clocks of a block: to wait for other blocks, to `exchange`, to compute indices.
    pause: int = 0
    #: True if producer warps copy, independently of what the consumers wait for.
    apart: bool = False
    #: The kernel launched after it, as the one that adds the parts of split-K.
    then: Footprint | None = None

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return -(-self.threads // 32)


def exchange(parts: int) -> int:
    """Returns the clocks of a cluster to add split-K's accumulators through shared memory.

    parts: of one output tile, over blocks and their warps. Fitted to 100 kernels on an H200.
    """
    return 1800 + 550 * parts + 37 * parts**2
