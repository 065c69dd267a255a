"""The epilogue of the depthwise kernel of dp4a: of one pixel at a time, stored as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from schedules.conv.signature import CHANNEL, RESIDUAL, Y, channel_operands
from schedules.expressions.compute import finished
from schedules.expressions.packed_results import packed_results
from schedules.families.depthwise_dp4a.patch import Patch
from schedules.families.depthwise_dp4a.plan import QUAD
from schedules.families.depthwise_dp4a.short_epilogue import Short, is_short
from schedules.families.depthwise_dp4a.tile import Tile
from schedules.threads import byte_products, packed_bytes
from schedules.threads.control import vectorized, when
from schedules.threads.registers import Registers, keep


class Store:
    """Finishes the sums of a pixel and stores them."""

    def __init__(self, tile: Tile) -> None:
        self.tile, self.plan, self.w = tile, tile.plan, tile.plan.w
        own, plan = self.w.precision, self.plan
        self.result = dtypes.get(own.result)
        self.bytes = self.result.integer and not own.sums
        self.channels = {
            name: Registers.array(name, (plan.channels,), CHANNEL)
            for name in channel_operands(self.w)
        }
        words, groups = plan.config.words, math.prod(self.w.buffer_shape) // plan.channels
        self.y = tile.operands.elements(Y, (groups, words, QUAD))
        if self.bytes:
            self.y = tile.operands.words(Y, (groups, words))
        self.short = Short(self.w, self.channels, plan.channels) if is_short(self.w) else None
        if self.w.epilogue.residual:
            size = dtypes.get(own.added).bytes
            groups = math.prod(self.w.residual_shape) // plan.channels
            self.residual = tile.operands.words(RESIDUAL, (groups, words, size))
            self.added = Registers.array("added", (words, size), "uint32")
            self.residual_at = keep("residual_at", tile.residual_at())
        self.at = keep("stored_at", tile.output_at())

    def begin(self) -> None:
        """Loads what the epilogue has of each of the thread's channels."""
        for name, registers in self.channels.items():
            shape = (self.tile.groups, self.plan.config.words, QUAD)
            source = self.tile.operands.elements(name, shape)
            for word in range(self.plan.config.words):
                with vectorized(QUAD) as v:
                    registers[word * QUAD + v] = source[self.tile.group, word, v]
        if self.short is not None:
            self.short.begin()

    def store(self, patch: Patch, row: int, column: int) -> None:
        """Computes, finishes and stores one of the tile's pixels."""
        plan, w, tile, words = self.plan, self.w, self.tile, self.plan.config.words
        down, across, _ = plan.tiles
        inside = []
        if (down - 1) * plan.config.rows + row >= w.p:
            inside.append(tile.p < w.p - row)
        if (across - 1) * plan.config.columns + column >= w.q:
            inside.append(tile.q < w.q - column)
        stored = tirx.all(*inside, tirx.const(True))
        if w.epilogue.residual:
            self._load_residual(row, column, stored)
        results = Registers.array("results", (words * QUAD,), self.result.name)
        for word in range(words):
            self._finish(patch, row, column, word, results)
        at = self.at + tile.pixels_to(row, column) * tile.written_groups
        # The store alone is conditional, so that the compiler predicates it and makes no branch.
        with when(stored):
            if self.bytes:
                packed = results.view("uint32")
                with vectorized(words) as v:
                    T.buffer_store(self.y, packed[v], [at, v])
                return
            for word in range(words):
                with vectorized(QUAD) as v:
                    T.buffer_store(self.y, results[word * QUAD + v], [at, word, v])

    def _finish(self, patch: Patch, row: int, column: int, word: int, results: Registers) -> None:
        """Computes the results of four channels."""
        channels = range(word * QUAD, (word + 1) * QUAD)
        start = T.int32(0 if self.w.precision.sums else byte_products.START)
        totals = [patch.total(row, column, channel, start) for channel in channels]
        if self.short is not None:
            results.view("uint32")[word] = self.short.word(totals, channels)
            return
        if self.w.precision.sums:
            for channel, total in zip(channels, totals, strict=True):
                results[channel] = total
            return
        reals = [keep("total", byte_products.real(total)) for total in totals]
        given = [self.given(channel) for channel in channels]
        if self.bytes:
            results.view("uint32")[word] = packed_results(self.w, reals, given)
            return
        for channel, *one in zip(channels, reals, given, strict=True):
            results[channel] = finished(self.w, *one)

    def given(self, channel: int) -> Mapping[str, Expr]:
        """By name, the operands of the epilogue for a channel of the pixel."""
        given = {name: registers[channel] for name, registers in self.channels.items()}
        if self.w.epilogue.residual:
            own = self.w.precision
            if dtypes.get(own.added).integer:
                word = self.added[channel // QUAD, 0]
                residual = packed_bytes.unpack(word, channel % QUAD, own.added)
                given[RESIDUAL] = keep("residual", residual)
            else:
                given[RESIDUAL] = self.added.view(own.added)[channel // QUAD, channel % QUAD]
        return given

    def _load_residual(self, row: int, column: int, inside: Expr) -> None:
        at = self.residual_at + self.tile.pixels_to(row, column) * self.tile.groups
        for word in range(self.plan.config.words):
            with vectorized(dtypes.get(self.w.precision.added).bytes) as v:
                value = self.residual[at, word, v]
                self.added[word, v] = tirx.if_then_else(inside, value, T.uint32(0))
