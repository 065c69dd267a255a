"""The epilogue of results of 8 bits that are sums, scaled, shifted and limited: a short one.

    real     the sum in fp32                                            an addition
    part     min(max((real * scale + bias - low) / RANGE, 0), 1)        one instruction
    whole    part * RANGE, rounded to even                              a product
    bytes    whole, limited to those of 8 bits                          two instructions for four

low is the whole number to which results are limited from below, and RANGE a power of two, by which
fp32 divides exactly. An odd low would change what is rounded to even. So with a zero point, low is
the even number at or below the limit, and `whole + low + zero` an addition before the last step.
Other limits than those of a dtype, or of a ReLU, take a comparison more (`Limits.inner`), and
without a zero point they need not be even:

    inside   min(part, (high - low) / RANGE) * RANGE + low              two instructions
    bytes    that, rounded to even                                      see `packed_bytes`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP32
from schedules.conv.precision import RESULT_SCALE, RESULT_ZERO, SCALE
from schedules.conv.signature import BIAS
from schedules.conv.workload import ConvWorkload
from schedules.expressions.compute import last_bounds
from schedules.threads import byte_products, packed_bytes
from schedules.threads.registers import Registers

#: Past the limits of every dtype of 8 bits, whatever the zero point.
FAR = 1024
#: By the limits of a result: the dtype that, of the number less the lower limit, has the upper one;
#: and the bits in which four bytes of that differ from the result.
WHOLE = {(0, 127): ("int8", 0), (0, 255): ("uint8", 0), (-128, 127): ("uint8", 0x80808080)}


@dataclass(frozen=True)
class Limits:
    """Whole numbers that limit a result.

    least, most: of the dtype. low, high: of the activation, `FAR` where it has none.
    """

    least: int
    most: int
    low: int
    high: int

    @classmethod
    def of(cls, w: ConvWorkload) -> Limits:
        """The limits of a workload whose results are of 8 bits."""
        info = np.iinfo(dtypes.get(w.precision.result).numpy)
        bounds = last_bounds(w) or (-FAR, FAR)
        low, high = (int(np.clip(np.rint(bound), -FAR, FAR)) for bound in bounds)
        return cls(int(info.min), int(info.max), low, high)

    @property
    def inner(self) -> tuple[int, int]:
        """Both limits without a zero point."""
        low, high = np.clip((self.low, self.high), self.least, self.most)
        return int(low), int(high)


def is_short(w: ConvWorkload) -> bool:
    """Returns True if the results are as the module says."""
    own = w.precision
    if not dtypes.get(own.result).integer or own.sums or RESULT_SCALE in own.scales:
        return False
    if w.epilogue.residual or (w.epilogue.activation.kind != "none" and last_bounds(w) is None):
        return False
    return RESULT_ZERO not in own.scales or Limits.of(w).low % 2 == 0


class Short:
    """Finishes sums. channels: registers of the epilogue's operands by name, `count` of each."""

    def __init__(self, w: ConvWorkload, channels: Mapping[str, Registers], count: int) -> None:
        self.w, self.channels, self.count = w, channels, count
        self.limits = Limits.of(w)
        self.has_zero = RESULT_ZERO in channels
        self.dtype, self.sign = WHOLE.get(self.limits.inner, ("", 0))
        if self.has_zero:
            self.dtype, self.sign = WHOLE[self.limits.least, self.limits.most]
        self.range = 128 if self.dtype == "int8" else 256
        self.factor, self.shift = (
            Registers.array(name, (count,), FP32.name) for name in ("factor", "shift")
        )
        if self.has_zero:
            self.added = Registers.array("added_zero", (count,), "int32")
            self.limit = Registers.array("limit", (count,), FP32.name)

    def begin(self) -> None:
        """Computes, once, what is multiplied and added."""
        each = _real(1 / self.range)
        for channel in range(self.count):
            scale, bias = (
                self.channels[name][channel] if name in self.channels else _real(default)
                for name, default in ((SCALE, 1.0), (BIAS, 0.0))
            )
            low = _real(self.limits.inner[0])
            if self.has_zero:
                least, zero = _real(self.limits.least), self.channels[RESULT_ZERO][channel]
                even = tirx.floor((least - zero) * _real(0.5)) * _real(2)
                low = tirx.max(even, _real(self.limits.low))
                self.added[channel] = (low + zero - least).astype("int32")
                limit = (_real(self.limits.high) - low) * each
                self.limit[channel] = tirx.max(limit, _real(0))
            self.factor[channel] = scale * each
            self.shift[channel] = (bias - low) * each

    def word(self, totals: Sequence[Expr], channels: Sequence[int]) -> Expr:
        """The results of four channels, of their sums."""
        both = list(zip(totals, channels, strict=True))
        if not self.dtype:
            values = [self._inside(*one) for one in both]
            return packed_bytes.pack(values, self.w.precision.result)
        wholes = [self._whole(*one) for one in both]
        bytes = packed_bytes.saturated(wholes, self.dtype)
        return bytes ^ T.uint32(self.sign) if self.sign else bytes

    def _part(self, total: Expr, channel: int) -> Expr:
        real = byte_products.real(total)
        return byte_products.limited(real, self.factor[channel], self.shift[channel])

    def _whole(self, total: Expr, channel: int) -> Expr:
        part = self._part(total, channel)
        if self.has_zero and self.limits.high < FAR:
            part = tirx.min(part, self.limit[channel])
        whole = byte_products.whole(part, self.range)
        return whole + self.added[channel] if self.has_zero else whole

    def _inside(self, total: Expr, channel: int) -> Expr:
        """The result before it is rounded."""
        low, high = self.limits.inner
        part = tirx.min(self._part(total, channel), _real((high - low) / self.range))
        return part * _real(self.range) + _real(low)


def _real(value: float) -> Expr:
    return tirx.const(float(value), FP32.name)
