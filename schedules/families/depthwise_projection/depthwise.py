"""The depthwise convolution, on tensor cores: what it gives is the projection's first operand.

A matrix of 8 pixels by 8 channels of the patch is one register of mma.sync, wherever the pixels
lie. Times a diagonal matrix of a tap of the filters, it is that tap's part of 8 x 8 outputs. An
instruction does this for two output rows and span i of their input rows, 2i and 2i + 1, at one
column of the filter; t is the tap's row:

                          diagonals (16 x 16)                         pixels (16 x 8)
                    8 channels           8 channels                    8 of a row
                  +--------------------+------------------------+    +------------+
    output row 0  |  t = 2i            |  t = 2i + 1            |    |   row 2i   |  8 channels
                  +--------------------+------------------------+    +------------+
    output row 1  |  t = 2i - stride   |  t = 2i + 1 - stride   |    | row 2i + 1 |  8 channels
                  +--------------------+------------------------+    +------------+

A diagonal whose tap the filter does not have is zero. Each matrix of pixels is loaded once for all
the taps and rows that read it. The accumulators, (channels x pixels), get bias and activation, are
rounded, and transposed to (pixels x channels): the fragments that the projection multiplies.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.conv.workload import Epilogue
from schedules.expressions.compute import finished
from schedules.families.depthwise_projection.block import Block
from schedules.threads import ptx
from schedules.threads.control import grid, unrolled, vectorized
from schedules.threads.registers import Registers

#: The smallest number above zero, which operands round to zero. A GPU has one instruction for the
#: larger of it and another number, and two for that of zero, because of zero's sign.
LEAST = dtypes.FP32.smallest


class Depthwise:
    """Computes the depthwise convolution of a warp's pixels, 16 channels at a time.

    fragments: registers (fragments, 4), the first operand of the projection's instructions.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.plan, self.prologue = block, block.plan, block.plan.prologue
        plan, accumulator = self.plan, self.plan.w.precision.accumulator
        self.shared_pixels = block.shared.array("pixels")
        self.shared_filters = block.shared.array("filters", "uint32")
        #: Elements from a stage's first pixel to the row of pixels that the lane names to a load.
        self.offsets = Registers.array("offsets", (plan.loads,), "int32")
        #: Ones in the bits of those elements of the lane that lie on a matrix's diagonal.
        self.diagonal = Registers.array("diagonal", (1,), "uint32")
        self.pixels = Registers.array("pixels", (4 * plan.loads,), "uint32")
        self.filter = Registers.array("filter", (plan.filter_elements // plan.each,), "uint32")
        self.diagonals = Registers.array("diagonals", (self.prologue.s, plan.spans, 4), "uint32")
        self.accumulators = Registers.array("depthwise", (plan.fragments, 4), accumulator)
        self.packed = Registers.array("rounded", (plan.fragments, 2), "uint32")
        self.rounded = self.packed.view(plan.operand.name)
        self.fragments = Registers.array("between", (plan.fragments, 4), "uint32")
        # The bias is in the accumulators from the first.
        epilogue = without_sign(self.prologue.epilogue)
        self.finishing = replace(self.prologue, epilogue=epilogue)

    def number_rows(self) -> None:
        """Computes, once, the lane's offsets and its elements on the diagonal."""
        plan, block, stride = self.plan, self.block, self.prologue.stride
        last = (plan.config.rows - 1) * stride[0] + self.prologue.r - 1
        with unrolled(plan.loads) as load:
            # Past the last matrix or row, any will do: it meets zeros, or nothing.
            matrix = tirx.min(load * 4 + block.lane // 8, plan.matrices - 1)
            row = block.down * stride[0] + tirx.min(matrix % plan.patch_rows, last)
            column = (block.across + block.lane % 8) * stride[1] + matrix // plan.patch_rows
            _, positions, pitch = plan.patch_shape
            self.offsets[load] = (row * positions + block.position(column)) * pitch
        even = T.Select(block.row == 2 * block.pair, T.uint32(0x0000FFFF), T.uint32(0))
        mask = T.Select(block.row == 2 * block.pair + 1, T.uint32(0xFFFF0000), even)
        self.diagonal[0] = mask

    def compute(self, stage: Expr, step: Expr) -> None:
        """Computes the fragments of a step of the chunk in a stage, 8 channels at a time."""
        with unrolled(2) as half:
            channel = step * self.plan.depth + half * 8
            self._load_pixels(stage, channel)
            self._load_filter(stage, channel)
            self._multiply()
            self._finish(half)

    def _load_pixels(self, stage: Expr, channel: Expr) -> None:
        """Loads all that the taps read of 8 channels, each matrix once."""
        with unrolled(self.plan.loads) as load:
            pointer = self.shared_pixels.pointer(stage, 0, 0, channel + self.offsets[load])
            registers = [self.pixels[load * 4 + i] for i in range(4)]
            ptx.ldmatrix(registers, ptx.shared_address(pointer))

    def _load_filter(self, stage: Expr, channel: Expr) -> None:
        """Loads the filter of the lane's channel, and makes the diagonals (see the picture)."""
        first, block = self.prologue, self.block
        with unrolled(self.plan.filter_elements // self.plan.vector) as number, vectorized(4) as v:
            at = (stage, channel + block.row, number * 4 + v)
            self.filter[number * 4 + v] = self.shared_filters[at]
        for s in range(first.s):
            for span in range(self.plan.spans):
                for i in range(4):
                    right, low = i // 2, i % 2
                    tap = span * 2 + right - low * first.stride[0]
                    pair = T.uint32(0)
                    if 0 <= tap < first.r:
                        pair = self.filter[tap * first.s + s] & self.diagonal[0]
                    self.diagonals[s, span, i] = pair

    def _multiply(self) -> None:
        """Accumulates all taps of 8 channels, two input rows in an instruction."""
        plan, first = self.plan, self.prologue
        with grid(plan.fragments, 4) as index:
            bias = tirx.const(0, plan.w.precision.accumulator)
            if first.epilogue.bias:
                bias = T.reinterpret("float32", self.filter[plan.filter_elements // plan.each - 1])
            self.accumulators[index] = bias
        for s in range(first.s):
            for span in range(plan.spans):
                with unrolled(plan.fragments) as fragment:
                    row = (fragment * first.stride[0] + span) * 2
                    ptx.mma(
                        plan.instruction,
                        [self.accumulators[fragment, i] for i in range(4)],
                        [self.diagonals[s, span, i] for i in range(4)],
                        [self.pixels[s * plan.patch_rows + row + i] for i in range(2)],
                    )

    def _finish(self, half: Expr) -> None:
        """Rounds the results of 8 channels, the lower or upper half of a step, and transposes them
        to be fragments."""
        plan = self.plan
        with grid(plan.fragments, 4) as (fragment, i):
            total = self.accumulators[fragment, i]
            self.rounded[fragment, i] = finished(self.finishing, total, {})
        with grid(plan.fragments, 2) as (fragment, i):
            ptx.movmatrix(self.fragments[fragment, half * 2 + i], self.packed[fragment, i])


def without_sign(epilogue: Epilogue) -> Epilogue:
    """The epilogue with `LEAST` for a lower bound of zero: rounded, it is the same."""
    activation = epilogue.activation
    if activation.kind == "clip" and activation.bounds and activation.bounds[0] == 0:
        activation = replace(activation, parameters=(LEAST, activation.parameters[1]))
    return replace(epilogue, activation=activation)
