"""The epilogue of the depthwise kernel of dp4a: of one pixel at a time, stored as one vector.

Where a result of 8 bits is the sum, scaled and shifted, within limits, it is short:

    real     the sum in fp32                                              an addition
    part     min(max((real * scale + bias - low) / RANGE, 0), 1)          one instruction
    whole    part * RANGE, rounded to even                                a product
    bytes    limited to high - low                                        two instructions for four

low and high are the whole numbers to which results are limited, and RANGE a power of two, by which
fp32 divides exactly. So for the limits of `WHOLE`. With others low may be odd, which would change
what is rounded to even; then the last two are

    rounded  min(part, (high - low) / RANGE) * RANGE + low                two instructions
    bytes    the lowest bits of that plus 1.5 * 2**23, and a zero point   see `packed_bytes`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP32
from schedules.conv.precision import RESULT_SCALE, RESULT_ZERO, SCALE
from schedules.conv.signature import BIAS, CHANNEL, RESIDUAL, Y, channel_operands
from schedules.conv.workload import ConvWorkload
from schedules.expressions.compute import before_rounding, finished, last_bounds
from schedules.families.depthwise_dp4a.patch import Patch
from schedules.families.depthwise_dp4a.plan import QUAD
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
        self.short = Short(self) if is_short(self.w) else None
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
        own = self.w.precision
        values = []
        for channel, total in zip(channels, totals, strict=True):
            given = self.given(channel)
            value = keep("total", byte_products.real(total))
            if self.bytes:
                value = before_rounding(self.w, value, given)
                values.append(packed_bytes.rounded(value, given.get(RESULT_ZERO)))
            else:
                results[channel] = finished(self.w, value, given)
        if own.result and self.bytes:
            results.view("uint32")[word] = packed_bytes.pack(values)

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


def is_short(w: ConvWorkload) -> bool:
    """Returns True if the results are sums of 8-bit integers, scaled, shifted and limited."""
    own = w.precision
    limits = w.epilogue.activation.kind == "none" or last_bounds(w) is not None
    whole = dtypes.get(own.result).integer and not own.sums
    return whole and limits and not w.epilogue.residual and RESULT_SCALE not in own.scales


#: By the limits of a result: the dtype that, of the number less the lower limit, has the upper one;
#: and the bits in which four bytes of that differ from the result.
WHOLE = {(0, 127): ("int8", 0), (0, 255): ("uint8", 0), (-128, 127): ("uint8", 0x80808080)}


class Short:
    """The epilogue of `is_short`: see above."""

    def __init__(self, store: Store) -> None:
        self.w, self.channels = store.w, store.channels
        limits = np.iinfo(dtypes.get(self.w.precision.result).numpy)
        #: The limits of the dtype; of the activation, if there are any; of both.
        self.least, self.most = float(limits.min), float(limits.max)
        self.bounds = last_bounds(self.w)
        self.low, self.high = (
            float(np.clip(np.rint(one), self.least, self.most))
            for one in self.bounds or (self.least, self.most)
        )
        self.has_zero = RESULT_ZERO in self.channels
        limited = (int(self.low), int(self.high))
        #: The dtype that limits from above, and what the bytes differ by; None for other limits.
        self.whole = None if self.has_zero else WHOLE.get(limited)
        self.range = 128 if self.whole and limited == (0, 127) else 256
        shape = (store.plan.channels,)
        names = ["factor", "shift"] + ["limit", "first"] * self.has_zero
        #: By name, a number for each channel.
        self.own = {name: Registers.array(name, shape, FP32.name) for name in names}

    def begin(self) -> None:
        """Computes, once, what is multiplied and added."""
        each = _real(1 / self.range)
        for channel in range(int(self.own["factor"].buffer.shape[0])):
            scale, bias = (
                self.channels[name][channel] if name in self.channels else _real(default)
                for name, default in ((SCALE, 1.0), (BIAS, 0.0))
            )
            low, high = self._limits(channel)
            self.own["factor"][channel] = scale * each
            self.own["shift"][channel] = (bias - low) * each
            if self.has_zero:
                self.own["limit"][channel] = (high - low) * each
                self.own["first"][channel] = _real(packed_bytes.ROUNDS) + low

    def _limits(self, channel: int) -> tuple[Expr, Expr]:
        if not self.has_zero:
            return _real(self.low), _real(self.high)
        zero = self.channels[RESULT_ZERO][channel]
        low, high = _real(self.least) - zero, _real(self.most) - zero
        if self.bounds is None:
            return low, high
        inner = (_real(float(np.clip(np.rint(one), -1024, 1024))) for one in self.bounds)
        first, last = (tirx.min(tirx.max(one, low), high) for one in inner)
        return first, last

    def word(self, totals: Sequence[Expr], channels: Sequence[int]) -> Expr:
        """The results of four channels, of their sums."""
        parts = [
            byte_products.limited(
                byte_products.real(total), self.own["factor"][channel], self.own["shift"][channel]
            )
            for total, channel in zip(totals, channels, strict=True)
        ]
        if self.whole is None:
            both = zip(parts, channels, strict=True)
            return packed_bytes.pack([self._rounded(part, channel) for part, channel in both])
        dtype, sign = self.whole
        wholes = [byte_products.whole(part, self.range) for part in parts]
        bytes = byte_products.saturated(wholes, dtype)
        return bytes ^ T.uint32(sign) if sign else bytes

    def _rounded(self, part: Expr, channel: int) -> Expr:
        """An fp32 number whose lowest bits are the result."""
        if not self.has_zero:
            part = tirx.min(part, _real((self.high - self.low) / self.range))
            return part * _real(self.range) + _real(packed_bytes.ROUNDS + self.low)
        part = tirx.min(part, self.own["limit"][channel])
        rounded = part * _real(self.range) + self.own["first"][channel]
        return rounded + self.channels[RESULT_ZERO][channel]


def _real(value: float) -> Expr:
    return tirx.const(value, FP32.name)
