"""The epilogue of the kernel of few channels: in registers, eight adjacent channels of a pixel at a
time, since the packed weight orders the columns of four instructions so that a thread has those."""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.activations import IDENTITY
from schedules.conv.signature import CHANNEL, Y, channel_operands
from schedules.expressions.compute import finished
from schedules.families.few_channels.block import Block
from schedules.families.few_channels.plan import ROWS
from schedules.threads import ptx
from schedules.threads.control import Index, grid, unrolled, vectorized, when
from schedules.threads.registers import Registers


class Store:
    """Finishes the accumulators of a tile and stores them, 16 bytes at a time."""

    def __init__(self, block: Block, accumulators: Registers) -> None:
        self.block, self.plan, self.w = block, block.plan, block.plan.w
        self.accumulators = accumulators
        self.y = block.operands[Y]
        shape = (8 * self.plan.part_groups,)
        #: Bias, slopes and scales of the channels that the thread writes.
        self.channels = {
            name: Registers.array(name, shape, CHANNEL) for name in channel_operands(self.w)
        }
        #: The results of eight channels.
        self.packed = Registers.array("results", (4,), "uint32")
        self.results = self.packed.view(self.w.precision.result)
        # ReLU comes last, on packed pairs: rounded, it is the same.
        epilogue = self.w.epilogue
        self.relu = epilogue.activation.kind == "relu"
        if self.relu:
            epilogue = replace(epilogue, activation=IDENTITY)
        self.without_relu = replace(self.w, epilogue=epilogue)

    def begin(self) -> None:
        """Before the first tile: loads bias and slopes."""
        self.load_channels()

    def wait(self, turn: Expr) -> None:
        """Waits until the patch of the turn has arrived, and all have read the one before."""
        self.block.pipeline.wait()

    def store(self, tile: Expr, turn: Expr) -> None:
        """Stores the tile of a turn."""
        w, plan, block = self.w, self.plan, self.block
        n, p, q = block.at(tile)
        down = plan.config.down
        with grid(down, 2, plan.part_groups) as (row, eight, group):
            first = block.channel(group)
            column = q + block.across * ROWS + block.row + 8 * eight
            line = p + block.tall * down + row
            with when(tirx.all(column < w.q, line < w.p, first < w.k)):
                self.finish(row, eight, group)
                if self.relu:
                    with unrolled(4) as i:
                        self.keep_larger(self.packed[i], T.uint32(0))
                with vectorized(8) as v:
                    T.buffer_store(self.y, self.results[v], [n, line, column, first + v])

    def load_channels(self) -> None:
        """Loads bias and slopes into registers."""
        for name, registers in self.channels.items():
            source = self.block.operands[name]
            with grid(self.plan.part_groups, 2) as (group, half):
                first = self.block.channel(group)
                with when(first < self.w.k), vectorized(4) as v:
                    registers[group * 8 + half * 4 + v] = source[first + half * 4 + v]

    def finish(self, row: Index, eight: Expr, group: Expr) -> None:
        """Computes the results of eight channels of a pixel, but for ReLU.

        row: of the warp's rows. eight: 0 for the pixel of the thread's row in a fragment, 1 for
        that of its row + 8.
        """
        with unrolled(8) as i:
            total = self.accumulators[row, group, i // 2, eight * 2 + i % 2]
            given = {name: array[group * 8 + i] for name, array in self.channels.items()}
            self.results[i] = finished(self.without_relu, total, given)

    def keep_larger(self, target: Expr, other: Expr) -> None:
        """Keeps in `target` the larger elements of two packed pairs of results."""
        ptx.maximum_of_pairs(target, other, self.w.precision.result)
