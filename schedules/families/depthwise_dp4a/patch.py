"""The patch of a tile: input rows, loaded from memory, transposed to quads of columns."""

from __future__ import annotations

from functools import reduce

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.conv.signature import WEIGHT, X
from schedules.families.depthwise_dp4a.plan import QUAD
from schedules.families.depthwise_dp4a.tile import Tile
from schedules.threads import byte_products
from schedules.threads.control import vectorized
from schedules.threads.registers import Registers, keep


class Patch:
    """Quads of the tile's input, and the taps that meet them."""

    def __init__(self, tile: Tile) -> None:
        self.tile, self.plan, self.w = tile, tile.plan, tile.plan.w
        plan = self.plan
        words, pixels = plan.config.words, self.w.n * self.w.h * self.w.w
        self.x = tile.operands.words(X, (pixels * tile.groups, words))
        self.weight = tile.operands.words(WEIGHT, (tile.groups, words, *plan.weight_words[1:]))
        self.at = keep("at", tile.input_at())
        shape = (plan.height, 2 * plan.pairs, plan.config.words)
        self.loaded = Registers.array("loaded", shape, "uint32")
        self.quads = Registers.array(
            "quads", (plan.height, len(plan.quads), plan.channels), "uint32"
        )
        self.taps = Registers.array("taps", (self.w.r, len(plan.packings), plan.channels), "uint32")

    def load_taps(self) -> None:
        """Loads the taps of the thread's channels."""
        for word in range(self.plan.config.words):
            for r in range(self.w.r):
                for packing in self.plan.used:
                    with vectorized(QUAD) as v:
                        taps = self.weight[self.tile.group, word, r, packing, v]
                        self.taps[r, packing, word * QUAD + v] = taps

    def load(self, row: int) -> None:
        """Loads an input row, zeros where it lies in the padding."""
        plan, w = self.plan, self.w
        for column in range(plan.width):
            to = (row * w.w + column) * self.tile.groups
            with vectorized(plan.config.words) as v:
                words = self.x[self.at + to, v]
                inside = self._inside(row, column)
                if inside is not None:
                    words = tirx.if_then_else(inside, words, T.uint32(0))
                self.loaded[row, column, v] = words

    def _inside(self, row: int, column: int) -> Expr | None:
        """True for a pixel of the image; None where that holds for every tile. One condition
        without branches, from which nvcc makes a predicated load."""
        w, (down, across, _) = self.w, self.plan.tiles
        config, (top, left) = self.plan.config, w.padding[:2]
        conditions = []
        for first, place, before, size, last in (
            (self.tile.p * w.stride[0], row, top, w.h, (down - 1) * config.rows * w.stride[0]),
            (
                self.tile.q * w.stride[1], column, left, w.w,
                (across - 1) * config.columns * w.stride[1],
            ),
        ):  # fmt: skip
            if place < before:
                conditions.append(first >= before - place)
            if last + place - before >= size:
                conditions.append(first < size + before - place)
        return reduce(tirx.bitwise_and, conditions) if conditions else None

    def transpose(self, row: int) -> None:
        """Makes the quads of a row that was loaded."""
        plan = self.plan
        shape = (plan.pairs, plan.config.words, 2)
        pairs = Registers.array("pairs", shape, "uint32")
        for word in range(plan.config.words):
            for pair in range(plan.pairs):
                # Beyond the last column any will do: it meets zeros.
                second = min(2 * pair + 1, plan.width - 1)
                columns = (self.loaded[row, c, word] for c in (2 * pair, second))
                pairs[pair, word, 0], pairs[pair, word, 1] = byte_products.pair(*columns)
            for number, quad in enumerate(plan.quads):
                halves = [
                    [pairs[min(one, plan.pairs - 1), word, i] for i in range(2)]
                    for one in (quad, quad + 1)
                ]
                for i, value in enumerate(byte_products.transposed(*halves)):
                    self.quads[row, number, word * QUAD + i] = value

    def total(self, row: int, column: int, channel: int, start: Expr) -> Expr:
        """`start` and the sum of a channel of one of the tile's pixels."""
        plan, total = self.plan, start
        for r, at in enumerate(plan.read(row)):
            for packing, quad in plan.terms(column):
                values = self.quads[at, plan.quads.index(quad), channel]
                taps = self.taps[r, packing, channel]
                total = byte_products.dot(values, taps, total, self.w.precision.x)
        return total
