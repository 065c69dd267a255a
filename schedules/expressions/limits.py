"""The limits of results of 8 bits in whole numbers, and the results that need nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intrinsics import dtypes
from schedules.conv.precision import RESULT_SCALE, RESULT_ZERO
from schedules.conv.workload import ConvWorkload
from schedules.expressions.compute import last_bounds

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
    """Returns True if results are sums, scaled, shifted, rounded and limited: what integers are, or
    with a zero point such that the activation's lower limit is even."""
    own = w.precision
    if not dtypes.get(own.result).integer or own.sums or RESULT_SCALE in own.scales:
        return False
    if w.epilogue.residual or (w.epilogue.activation.kind != "none" and last_bounds(w) is None):
        return False
    return RESULT_ZERO not in own.scales or Limits.of(w).low % 2 == 0


def range_of(dtype: str) -> int:
    """Returns the power of two past the largest number of a dtype of `WHOLE`."""
    return int(np.iinfo(dtypes.get(dtype).numpy).max) + 1
