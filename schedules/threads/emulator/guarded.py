"""Arrays between guards, which show out-of-bounds writes of a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Bytes of 0xff: NaN in every floating-point type.
POISON = 0xFF
#: Alignment of arrays in TVM, in bytes.
ALIGNED = 64


@dataclass(frozen=True)
class Guarded:
    """A copy of an array between guards of poison, each at least as long as the array.

    inner: the copy, of the array's shape and dtype. before, after: the guards, in bytes.
    """

    before: Array
    inner: Array
    after: Array

    @classmethod
    def of(cls, array: Array) -> Guarded:
        """Returns a guarded copy of an array."""
        guard = -(-array.nbytes // ALIGNED) * ALIGNED
        whole = np.full(3 * guard + ALIGNED, POISON, np.uint8)
        start = -whole.ctypes.data % ALIGNED + guard
        end = start + array.nbytes
        inner = whole[start:end].view(array.dtype).reshape(array.shape)
        inner[...] = array
        return cls(whole[:start], inner, whole[end:])

    def intact(self) -> bool:
        """Returns True if the guards were not written to."""
        return bool((self.before == POISON).all() and (self.after == POISON).all())
