"""What a kernel asks of a GPU, in numbers, from which `schedules.machine.model` predicts its time.

Each family gives the footprint of its own schedule by `Family.footprint`; what a GPU offers is in
`schedules.machine.gpus`. Plain Python.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Units that multiply: mma.sync (and WMMA, which becomes it), wgmma, or fp32 arithmetic.
MMA, WGMMA, FP32 = "mma", "wgmma", "fp32"


@dataclass(frozen=True)
class Footprint:
    """One launch: what each of its blocks does, all threads of it together, and in which order.

    A block goes through ``steps``, one after another; in each it copies operands, waits, and
    multiplies. Padding counts in all of it. Of a persistent kernel a block is one tile of outputs.
    """

    blocks: int
    #: Of a block.
    threads: int
    #: Of a thread, 32 bits each.
    registers: int
    #: Of shared memory that a block has.
    shared_bytes: int
    unit: str
    #: Element type that it multiplies.
    operand: str
    #: Multiply-adds of a block, by ``unit``.
    macs: int
    #: Warp instructions that a block issues, multiply-adds included.
    instructions: int
    #: Bytes that a block moves to and from shared memory and the first-level cache, which are one;
    #: with a bank conflict, as many times as it is replayed.
    shared_traffic: int
    #: Bytes that a block reads from L2 and writes to it.
    read_bytes: int
    written_bytes: int
    #: Bytes that all blocks together take from memory and give to it: every operand once.
    dram_bytes: int
    steps: int
    #: In a step, how often a warp has to wait for shared memory or for its own last instructions.
    rounds: int = 1
    #: Steps of which the operands are in flight while one multiplies: 0 copies and waits.
    ahead: int = 0
    #: Clocks until a copy is there, if that is longer than a load takes.
    fetch: int = 0
    #: Clocks in which a block does none of this: waits for others, `exchange`, or finds its place.
    pause: int = 0
    #: Whether copying has warps of its own, so that it goes on whatever the others wait for.
    apart: bool = False
    #: What is launched after it, as the sum over the parts of a split reduction.
    then: Footprint | None = None

    @property
    def warps(self) -> int:
        return -(-self.threads // 32)


def exchange(parts: int) -> int:
    """Clocks in which the blocks of a cluster make one tile of so many partial sums, of blocks and
    of warps of each, through shared memory. As seen on an H200 over 100 kernels."""
    return 1800 + 550 * parts + 37 * parts**2
