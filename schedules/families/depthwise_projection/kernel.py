"""The kernel of a depthwise convolution and its projection.

copy chunks 0 .. stages - 2                                         `copies`
for each chunk of channels:
    wait until it has arrived
    start to copy chunk + stages - 1
    for each step of 16 channels, of integers 32:
        between = activation(depthwise convolution of the pixels)   `depthwise`, `integer_depthwise`
        accumulators += between * weights
epilogue, store                                                     `epilogue`
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

from schedules.conv.workload import ConvWorkload
from schedules.families.depthwise_projection.block import Block
from schedules.families.depthwise_projection.config import DepthwiseProjectionConfig
from schedules.families.depthwise_projection.copies import Copies
from schedules.families.depthwise_projection.depthwise import Depthwise
from schedules.families.depthwise_projection.epilogue import Store
from schedules.families.depthwise_projection.integer_depthwise import IntegerDepthwise
from schedules.families.depthwise_projection.plan import Plan
from schedules.threads import ptx
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.control import grid, serial, unrolled, vectorized, when
from schedules.threads.kernel import Kernel
from schedules.threads.launch import WARP, Launch
from schedules.threads.registers import Registers
from schedules.threads.shared_memory import SharedMemory


def kernel(w: ConvWorkload, config: DepthwiseProjectionConfig) -> tirx.PrimFunc:
    """Returns the kernel, with the operands of `Plan.signature`."""
    plan = Plan(w, config)
    launch = Launch(plan.blocks, config.threads, resident=config.resident)
    with Kernel(plan.signature, plans_barriers=True) as function, function.launch(launch) as thread:
        shared = SharedMemory(plan.memory, "depthwise_projection_shared", "uint32")
        _compute(Block(plan, function, thread, shared))
    return function.function


def _compute(block: Block) -> None:
    """Computes the tile of a block, chunk after chunk."""
    plan, config = block.plan, block.plan.config
    pipeline = AsyncCopyPipeline(plan.stages, plan.memory["pixels"].stride(1))
    copies = Copies(block)
    depthwise = IntegerDepthwise(block) if plan.integer else Depthwise(block)
    projection = Projection(block)
    store = Store(block, projection.accumulators)
    depthwise.number_rows()
    projection.begin()
    for chunk in range(pipeline.ahead):
        copies.copy(chunk, chunk)
        pipeline.commit()
    store.begin()
    with serial(plan.chunks, "chunk") as chunk:
        pipeline.wait()
        if plan.stages > 1:
            following = chunk + pipeline.ahead
            with when(following < plan.chunks):
                copies.copy(following, pipeline.stage(following))
            pipeline.commit()
        with serial(config.chunk // config.deep, "turn") as turn:
            stage, step = pipeline.stage(chunk), block.step(turn)
            depthwise.compute(stage, step)
            projection.multiply(depthwise.fragments, stage, step)
    store.store()


class Projection:
    """The 1x1 convolution of a warp's pixels.

    accumulators: registers (fragments, columns, 4), for each fragment of pixels and each
    instruction's eight output channels.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.plan = block, block.plan
        plan = self.plan
        self.shared_weights = block.shared.array("weights", "uint32")
        self.weights = Registers.array("weights", (plan.together, 2), "uint32")
        self.accumulators = Registers.array(
            "accumulators", (plan.fragments, plan.columns, 4), plan.w.precision.accumulator
        )
        #: As instructions take them: integers as they are, and without a sign.
        self._sums = self.accumulators.view("uint32") if plan.integer else self.accumulators

    def begin(self) -> None:
        """Clears the accumulators."""
        plan = self.plan
        with grid(plan.fragments, plan.columns, 4) as index:
            self.accumulators[index] = tirx.const(0, plan.w.precision.accumulator)

    def multiply(self, fragments: Registers, stage: Expr, step: Expr) -> None:
        """Adds the products of a step of the chunk in a stage."""
        plan = self.plan
        with unrolled(plan.columns // plan.together) as number:
            self._load_weights(stage, step, number)
            with grid(plan.together, plan.fragments) as (one, fragment):
                column = number * plan.together + one
                ptx.mma(
                    plan.instruction,
                    [self._sums[fragment, column, i] for i in range(4)],
                    [fragments[fragment, i] for i in range(4)],
                    [self.weights[one, i] for i in range(2)],
                )

    def _load_weights(self, stage: Expr, step: Expr, number: Expr) -> None:
        """Loads the weights of 8 output channels, or 16, packed lane by lane."""
        registers = 2 * self.plan.together
        with vectorized(registers) as v:
            at = (number * WARP + self.block.lane) * registers + v
            self.weights[v // 2, v % 2] = self.shared_weights[stage, step, at]
