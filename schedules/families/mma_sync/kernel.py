"""The mma.sync kernel: all threads copy k-blocks ahead, and multiply them out of shared memory.

    copies     `stages` - 1 steps ahead: pixels and weights of a k-block into a stage
    fragments  one ahead of the multiplications, by ldmatrix out of the stage
    epilogue   accumulators through bias, residual and activation to y

A step with four fragments along its k-block, all of the same warp, and three parts of copies:

                   fragment 0    fragment 1    fragment 2    fragment 3
    load           1             2             3             0 of the next stage, once it is there
    copy           part 0        part 1        part 2        -          of step + stages - 1
    multiply       0             1             2             3

So copies and loads lie between multiplications, and a warp waits where it has work left.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.conv.workload import ConvWorkload
from schedules.families.mma_sync.block import Block
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.copies import Copies
from schedules.families.mma_sync.epilogue import Epilogue
from schedules.families.mma_sync.fragments import Fragments
from schedules.families.mma_sync.plan import Plan
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.control import Index, serial, when
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Launch


def kernel(w: ConvWorkload, config: MmaSyncConfig) -> tirx.PrimFunc:
    """Returns the kernel, with the operands of `Plan.signature`."""
    plan = Plan(w, config)
    launch = Launch(plan.gemm.blocks * config.split, config.threads, config.split)
    with (
        Kernel(plan.signature, plans_barriers=True) as function,
        function.launch(launch) as thread,
    ):
        block = Block.of(plan, function, thread)
        pipeline = AsyncCopyPipeline(config.stages, plan.stage_bytes)
        copies = Copies(block, pipeline)
        fragments = Fragments(block, pipeline)
        _multiply(block, pipeline, copies, fragments)
        epilogue = Epilogue(block)
        if config.splits_reduction:
            epilogue.through_shared(fragments.accumulators)
        else:
            epilogue.from_registers(fragments.accumulators)
    return function.function


def _multiply(
    block: Block, pipeline: AsyncCopyPipeline, copies: Copies, fragments: Fragments
) -> None:
    """The pipelined loop over the block's k-blocks."""
    reader, last = fragments.reader, block.plan.warp_fragments - 1

    def copy(step: Index, part: int) -> None:
        """One part in `last` of the copies of a step; after the last one the stage is committed,
        empty past the end."""
        with when(step < block.steps):
            copies.copy(part, last)
        if part == last - 1:
            copies.commit()

    for step in range(pipeline.ahead):
        for part in range(last):
            copy(T.int32(step), part)
    reader.wait()
    fragments.load(0, 0)
    with serial(block.steps, "step") as step:
        for i in range(last):
            fragments.load((i + 1) % 2, i + 1)
            copy(step + pipeline.ahead, i)
            for product in fragments.products(i % 2):
                product()
        # All of the stage is in registers. Some products first, to have work at the barrier.
        products = fragments.products(last % 2)
        first = len(products) // 8
        for product in products[:first]:
            product()
        reader.wait()
        reader.release()
        fragments.load((last + 1) % 2, 0)
        for product in products[first:]:
            product()
    pipeline.drain()
