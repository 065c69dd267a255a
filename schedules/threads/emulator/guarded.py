"""Arrays between guards, so that what a kernel writes beside them shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Bytes of 0xff: NaN in every floating-point type.
POISON = 0xFF
#: Where TVM wants arrays to begin.
ALIGNED = 64


@dataclass(frozen=True)
class Guarded:
    """A copy of an array with poison before and after it, as much as the array is long.

    inner: the copy, of the array's shape and dtype. before, after: the guards, in bytes.
    """

    before: Array
    inner: Array
    after: Array

    @classmethod
    def of(cls, array: Array) -> Guarded:
        guard = -(-array.nbytes // ALIGNED) * ALIGNED
        whole = np.full(3 * guard + ALIGNED, POISON, np.uint8)
        start = -whole.ctypes.data % ALIGNED + guard
        end = start + array.nbytes
        inner = whole[start:end].view(array.dtype).reshape(array.shape)
        inner[...] = array
        return cls(whole[:start], inner, whole[end:])

    def intact(self) -> bool:
        """Whether nothing was written to the guards."""
        return bool((self.before == POISON).all() and (self.after == POISON).all())
