"""The epilogue of the kernel of few channels: in registers, eight adjacent channels of a pixel at a
time, since the packed weight orders the columns of four instructions so that a thread has those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.conv.activations import IDENTITY
from schedules.conv.signature import CHANNEL, Y, channel_operands
from schedules.expressions.compute import finished, last_bounds
from schedules.expressions.packed_results import packed_results
from schedules.families.few_channels.block import Block
from schedules.families.few_channels.plan import ROWS
from schedules.threads import ptx
from schedules.threads.control import Index, grid, unrolled, vectorized, when
from schedules.threads.registers import Registers


class Store:
    """Finishes the accumulators of a tile and stores them, eight channels at a time."""

    def __init__(self, block: Block, accumulators: Registers) -> None:
        self.block, self.plan, self.w = block, block.plan, block.plan.w
        self.accumulators = accumulators
        self.y = block.operands[Y]
        shape = (8 * self.plan.part_groups,)
        #: Bias, slopes and scales of the channels that the thread writes.
        self.channels = {
            name: Registers.array(name, shape, CHANNEL) for name in channel_operands(self.w)
        }
        self.integer = dtypes.get(self.w.precision.result).integer
        #: The results of eight channels, as they are stored.
        bytes = 8 * dtypes.get(self.w.precision.result).bytes
        self.packed = Registers.array("results", (bytes // 4,), "uint32")
        self.results = self.packed.view(self.w.precision.result)
        # ReLU comes last, on packed pairs: rounded, it is the same.
        epilogue = self.w.epilogue
        self.relu = last_bounds(self.w) is not None and epilogue.activation.kind == "relu"
        self.relu = self.relu and not self.integer
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
        if self.integer:
            for word in range(2):
                four = [self.given(row, eight, group, T.int32(word * 4 + i)) for i in range(4)]
                totals, given = zip(*four, strict=True)
                self.packed[word] = packed_results(self.w, totals, given)
            return
        with unrolled(8) as i:
            self.results[i] = finished(self.without_relu, *self.given(row, eight, group, i))

    def given(
        self, row: Index, eight: Expr, group: Expr, i: Expr
    ) -> tuple[Expr, Mapping[str, Expr]]:
        """The accumulator of one of the eight channels, and what the epilogue has of it."""
        total = self.accumulators[row, group, i // 2, eight * 2 + i % 2]
        return total, {name: array[group * 8 + i] for name, array in self.channels.items()}

    def keep_larger(self, target: Expr, other: Expr) -> None:
        """Keeps in `target` the larger elements of two packed pairs of results."""
        ptx.maximum_of_pairs(target, other, self.plan.held.name)
