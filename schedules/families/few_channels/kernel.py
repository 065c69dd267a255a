"""The kernel of few channels: patch, products, epilogue, tile after tile.

copy the first patch and the filter
for each turn:
    wait until the patch of its tile has arrived
    start to copy the next tile's
    for each step of the reduction:
        pixels (16 of each row, 16 deep)   gathered from the patch      `patch`
        weights (16 deep, 32 channels)     from shared memory or kept   `weights`
        accumulators += pixels * weights
    epilogue, store                                                     `epilogue`, `pool`
"""

from __future__ import annotations

from contextlib import nullcontext

from tvm import tirx

from schedules.conv.workload import ConvWorkload
from schedules.families.few_channels.block import Block
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.epilogue import Store
from schedules.families.few_channels.patch import Patch
from schedules.families.few_channels.plan import Plan, PooledPlan
from schedules.families.few_channels.pool import PooledStore
from schedules.families.few_channels.weights import Weights
from schedules.threads import ptx
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.control import Index, grid, serial, unrolled, when
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Launch
from schedules.threads.registers import Registers
from schedules.threads.shared_memory import SharedMemory


def kernel(w: ConvWorkload, config: FewChannelsConfig) -> tirx.PrimFunc:
    """Returns the kernel, with the operands of `Plan.signature`."""
    plan = Plan.of(w, config)
    launch = Launch(plan.blocks, config.threads, resident=config.resident)
    with Kernel(plan.signature, plans_barriers=True) as function, function.launch(launch) as thread:
        shared = SharedMemory(plan.memory, "few_channels_shared", "uint32")
        pipeline = AsyncCopyPipeline(plan.stages, plan.memory["patches"].stride(1))
        _compute(Block(plan, function, thread, shared, pipeline))
    return function.function


def _compute(block: Block) -> None:
    """Computes the tiles of a block, turn after turn."""
    plan, pipeline = block.plan, block.pipeline
    patch, weights = Patch(block), Weights(block)
    accumulators = Registers.array(
        "accumulators", (plan.config.down, plan.part_groups, 4, 4), plan.w.precision.accumulator
    )
    pooled = isinstance(plan, PooledPlan)
    store = (PooledStore if pooled else Store)(block, accumulators)
    patch.copy(block.tile(0), 0)
    weights.load()
    pipeline.commit()
    store.begin()
    patch.number_packs()
    with serial(plan.rounds, "turn") as turn:
        tile, stage = block.tile(turn), pipeline.stage(turn)
        store.wait(turn)
        if plan.copies > 1:
            patch.shift(stage)
        if plan.rounds > 1:
            following = block.tile(turn + 1)
            with when(block.goes_on(turn, following)):
                patch.copy(following, pipeline.stage(turn + 1))
            pipeline.commit()
        with when(tile < plan.total) if plan.uneven else nullcontext():
            _multiply(plan, patch, weights, accumulators, stage)
            store.store(tile, turn)


def _multiply(
    plan: Plan, patch: Patch, weights: Weights, accumulators: Registers, stage: Index
) -> None:
    """Multiplies the patch of a stage by the filter."""
    sums = accumulators.view("uint32") if plan.operand.integer else accumulators

    def multiply(step: Index, first: bool = False) -> None:
        """One step of the reduction; the first overwrites the accumulators."""
        patch.load(step, stage)
        weights.load_step(step)
        zeros = [tirx.const(0, str(sums.buffer.dtype))] * 4
        with grid(plan.config.down, plan.part_groups, 4) as (row, group, column):
            ptx.mma(
                plan.instruction,
                [sums[row, group, column, i] for i in range(4)],
                [patch.fragments[row, i] for i in range(4)],
                weights.fragment(step, group, column),
                before=zeros if first else None,
            )
        # Loads ahead of here would take registers.
        ptx.warp_sync()

    multiply(0, first=True)
    if plan.steps > 1:
        with unrolled(plan.steps - 1) as before:
            multiply(before + 1)
