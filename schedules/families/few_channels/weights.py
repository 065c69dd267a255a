"""The filter: in shared memory or in registers, as the second operand of mma.sync."""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import WEIGHT
from schedules.families.few_channels.block import Block
from schedules.families.few_channels.plan import VECTOR_BYTES
from schedules.threads import ptx
from schedules.threads.control import Index, grid, shared_out, vectorized
from schedules.threads.launch import WARP
from schedules.threads.registers import Registers


class Weights:
    """The filter of the block's channels.

    fragments: registers (steps, groups, 8), for each group of 32 channels the second operands of
    four instructions; of one step only where the filter is in shared memory.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.plan = block, block.plan
        self.kept = self.plan.config.weights == "registers"
        self.weight = block.operands[WEIGHT]
        shape = (self.plan.steps if self.kept else 1, self.plan.part_groups, 8)
        self.fragments = Registers.array("weights", shape, "uint32")
        self.elements = self.fragments.view(self.plan.signature[WEIGHT].dtype)
        if not self.kept:
            self.shared = block.shared.array("weights")
            self.packs = block.shared.array("weights", "uint32")

    def load(self) -> None:
        """Starts the copies to shared memory, or loads the warp's part into registers."""
        plan, block, steps = self.plan, self.block, self.plan.steps
        if self.kept:
            widest = plan.widest
            with grid(steps, plan.part_groups, 2) as (step, group, half), vectorized(widest) as v:
                element = self.weight[block.group(group), step, half, block.thread.lane, v]
                self.elements[step, group, half * widest + v] = element
            return
        count = plan.groups * steps * 2 * WARP
        with shared_out(count, plan.config.threads, block.thread.number) as n:
            group, step = n // (2 * WARP * steps), n // (2 * WARP) % steps
            source = self.weight[group, step, n // WARP % 2, n % WARP, 0]
            to = self.shared.pointer(n // WARP, n % WARP, 0)
            ptx.cp_async(to, T.address_of(source), VECTOR_BYTES)

    def load_step(self, step: Index) -> None:
        """Loads the fragments of a step from shared memory, where the filter is there."""
        if self.kept:
            return
        plan, block = self.plan, self.block
        with grid(plan.part_groups, 2) as (group, half), vectorized(4) as v:
            number = block.group(group) * plan.steps + step
            packs = self.packs[number * 2 + half, block.thread.lane, v]
            self.fragments[0, group, half * 4 + v] = packs

    def fragment(self, step: Index, group: Expr, column: Expr) -> list[Expr]:
        """The second operand of one instruction."""
        kept = step if self.kept else 0
        return [self.fragments[kept, group, column * 2 + i] for i in range(2)]
