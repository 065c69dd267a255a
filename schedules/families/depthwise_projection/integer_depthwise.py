"""The depthwise convolution of 8-bit integers, on tensor cores: what it gives is the projection's
first operand.

An instruction's rows are a fragment's 16 pixels, its reduction two taps of 16 channels, and its
columns 8 of those channels. In each column of the filters all is zero but its channel's two taps:

                     16 channels   16 channels            8 channels
                   +-------------+-------------+        +------------+
     8 pixels      | of a tap    | of the next |        | of a tap   | 16 channels
                   +-------------+-------------+        +------------+
     8 pixels of   |             |             |        | of the     | 16 channels
     the next row  |             |             |        | next       |
                   +-------------+-------------+        +------------+
                              pixels                        filters

The pixels are what one ldmatrix loads, as the four registers of an operand have to be adjacent. Two
instructions take the 16 channels: of each four, the first the lower two and the second the upper
two. So a lane has sums of four adjacent channels of two pixels. Scaled, rounded and packed they are
two registers of the projection's operand: nothing is exchanged between lanes.

By dp4a, which takes four taps of one channel, bytes of pixels would be transposed first and results
handed to other lanes after; as fp16 does it, with channels as rows, results would be transposed.
"""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import CHANNEL, channel_operands
from schedules.expressions.packed_results import packed_results
from schedules.families.depthwise_projection.block import Block
from schedules.families.depthwise_projection.prologue import GROUP, REGISTER
from schedules.threads import byte_products, ptx
from schedules.threads.control import unrolled, vectorized
from schedules.threads.registers import Registers, keep

#: Channels of a pixel that one matrix has, and instructions that take them.
CHANNELS, TILES = 16, 2


class IntegerDepthwise:
    """Computes the depthwise convolution of a warp's pixels, 32 channels at a time.

    fragments: registers (fragments, 4), the first operand of the projection's instructions.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.plan, self.prologue = block, block.plan, block.plan.prologue
        plan = self.plan
        self.instruction = plan.instruction_of(self.prologue)
        self.shared_pixels = block.shared.array("pixels")
        self.shared_filters = block.shared.array("filters", "uint32")
        #: Elements from a stage's first pixel to the row that the lane names to the load of a pair
        #: of taps.
        self.offsets = Registers.array("offsets", (plan.tap_pairs,), "int32")
        #: By instruction and byte of a register, what puts that byte of the taps where the lane's
        #: channel is; zeros in lanes that have no channel of their column.
        self.selectors = Registers.array("selectors", (TILES, REGISTER), "uint32")
        #: The accumulators from the first: what `byte_products.real` takes off.
        self.start = Registers.array("start", (4,), "uint32")
        words = plan.filter_bytes // REGISTER
        self.taps = Registers.array("taps", (TILES, words), "uint32")
        self.filters = Registers.array("filters", (plan.tap_pairs, TILES, 2), "uint32")
        self.pixels = Registers.array("pixels", (4,), "uint32")
        self.sums = Registers.array("depthwise", (TILES, 4), "int32")
        self.fragments = Registers.array("between", (plan.fragments, 4), "uint32")
        self.names = channel_operands(self.prologue)
        self.constants = Registers.array("constants", (len(self.names), GROUP), CHANNEL)

    def number_rows(self) -> None:
        """Computes, once, the lane's offsets and selectors."""
        plan, block, first = self.plan, self.block, self.prologue
        _, positions, pitch = plan.patch_shape
        matrix, of_matrix = block.lane // 8, block.lane % 8
        for pair in range(plan.tap_pairs):
            # Past the last tap any pixels will do: they meet zeros.
            taps = (2 * pair, min(2 * pair + 1, plan.taps - 1))
            (r, s), (other_r, other_s) = (divmod(tap, first.s) for tap in taps)
            second = matrix // 2
            down = (block.down + matrix % 2) * first.stride[0] + r + second * (other_r - r)
            column = (block.across + of_matrix) * first.stride[1] + s + second * (other_s - s)
            self.offsets[pair] = (down * positions + block.position(column)) * pitch
        for i in range(4):
            self.start[i] = T.uint32(byte_products.START)
        # The lane's column is channel 4 (row // 2) + row % 2 of 16, and it has four from 4 pair on.
        row = block.row.astype("uint32")
        place = T.uint32(1) << ((row % T.uint32(2)) * T.uint32(4))
        on = keep("on", T.Select(block.pair == block.row // 2, place, T.uint32(0)))
        for tile in range(TILES):
            for byte in range(REGISTER):
                less = on * T.uint32((REGISTER - byte) << 8 * tile)
                self.selectors[tile, byte] = T.uint32(byte_products.NOTHING) - less

    def compute(self, stage: Expr, step: Expr) -> None:
        """Computes the fragments of a step of the chunk in a stage, 16 channels at a time."""
        with unrolled(2) as half:
            channel = step * self.plan.depth + half * CHANNELS
            self._load_filters(stage, channel)
            self._load_constants(stage, channel)
            with unrolled(self.plan.fragments) as fragment:
                self._multiply(stage, channel, fragment)
                self._finish(fragment, half)

    def _load_filters(self, stage: Expr, channel: Expr) -> None:
        """Loads the taps of the lane's column of both instructions, and makes their operands."""
        plan, block = self.plan, self.block
        words = plan.filter_bytes // REGISTER
        for tile in range(TILES):
            one = block.row % 2 + tile * 2
            with unrolled(words // 4) as number, vectorized(4) as v:
                at = one * words + number * 4 + v
                group = channel // GROUP + block.row // 2
                self.taps[tile, number * 4 + v] = self.shared_filters[stage, group, at]
        for pair in range(plan.tap_pairs):
            for tile in range(TILES):
                for i in range(2):
                    tap = 2 * pair + i
                    if tap == plan.taps:
                        self.filters[pair, tile, i] = T.uint32(0)
                        continue
                    word = self.taps[tile, tap // REGISTER]
                    selector = self.selectors[tile, tap % REGISTER]
                    self.filters[pair, tile, i] = byte_products.selected(word, selector)

    def _load_constants(self, stage: Expr, channel: Expr) -> None:
        """Loads what the epilogue has of the lane's four channels."""
        group = channel // GROUP + self.block.pair
        for number in range(len(self.names)):
            first = GROUP * (self.plan.filter_bytes // REGISTER + number)
            with vectorized(GROUP) as v:
                word = self.shared_filters[stage, group, first + v]
                self.constants[number, v] = T.reinterpret(CHANNEL, word)

    def _multiply(self, stage: Expr, channel: Expr, fragment: Expr) -> None:
        """Computes the sums of 16 channels of a fragment."""
        plan = self.plan
        _, positions, pitch = plan.patch_shape
        rows = fragment * (2 * self.prologue.stride[0] * positions * pitch)
        sums, pixels = self.sums.view("uint32"), [self.pixels[i] for i in range(4)]
        for pair in range(plan.tap_pairs):
            at = channel + self.offsets[pair] + rows
            pointer = self.shared_pixels.pointer(stage, 0, 0, at)
            ptx.ldmatrix(pixels, ptx.shared_address(pointer))
            for tile in range(TILES):
                total = [sums[tile, i] for i in range(4)]
                filters = [self.filters[pair, tile, i] for i in range(2)]
                before = total if pair else [self.start[i] for i in range(4)]
                ptx.mma(self.instruction, total, pixels, filters, before)

    def _finish(self, fragment: Expr, half: Expr) -> None:
        """Rounds the sums of 16 channels to be half of a fragment."""
        given = [
            {name: self.constants[number, i] for number, name in enumerate(self.names)}
            for i in range(GROUP)
        ]
        for low in range(2):
            totals = [self.sums[i // 2, low * 2 + i % 2] for i in range(GROUP)]
            reals = [keep("real", byte_products.real(total)) for total in totals]
            done = packed_results(self.prologue, reals, given)
            self.fragments[fragment, half * 2 + low] = done
