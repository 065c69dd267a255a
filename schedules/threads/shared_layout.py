"""The layout of a block's shared memory: named parts and where they lie, in plain numbers.

layout = SharedLayout(
    Part("pixels", "float16", (stages, rows, depth), align=1024),
    Part("weights", "float16", (stages, columns, depth), align=1024),
    Part("accumulators", "float32", (rows, columns + 4), over="pixels"),
    Part("full", BARRIER, (stages,)),
)
layout.bytes                        what the configuration's check asks
layout["weights"].at(stage)         byte where a stage of the weights begins
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from intrinsics import dtypes

#: The dtype of an mbarrier, which is no element type.
BARRIER = "uint64"


def _bytes(dtype: str) -> int:
    return np.dtype(BARRIER).itemsize if dtype == BARRIER else dtypes.get(dtype).bytes


@dataclass(frozen=True)
class Part:
    """An array in shared memory.

    dtype: of its elements. shape: its extents, the last one innermost. align: in bytes, of its
    beginning. over: the name of an earlier part on which this one is overlaid; the next part that
    is not overlaid lies after both.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    align: int = 16
    over: str = ""

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.stride(0)

    def stride(self, indices: int) -> int:
        """Bytes of the sub-array that the first so many indices select."""
        return math.prod(self.shape[indices:]) * _bytes(self.dtype)


@dataclass(frozen=True)
class Placed:
    """A part and the byte of shared memory where it begins."""

    part: Part
    offset: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.part.bytes

    def stride(self, indices: int) -> int:
        """Bytes of the sub-array that the first so many indices select."""
        return self.part.stride(indices)

    def at(self, *index: Any) -> Any:
        """Byte of shared memory where the sub-array with these first indices begins: an ``int``,
        or a TVM expression where an index is one."""
        flat: Any = 0
        for i, extent in zip(index, self.part.shape, strict=False):
            flat = flat * extent + i
        return self.offset + flat * self.part.stride(len(index))


class SharedLayout:
    """Parts one after another, each aligned, in the order given."""

    def __init__(self, *parts: Part) -> None:
        self._placed: dict[str, Placed] = {}
        end = 0
        for part in parts:
            assert part.name not in self._placed, f"two parts are called {part.name}"
            start = self._placed[part.over].offset if part.over else end
            assert start % part.align == 0 or not part.over, f"{part.name} over {part.over}"
            placed = Placed(part, -(-start // part.align) * part.align)
            self._placed[part.name] = placed
            end = max(end, placed.end)
        #: Size of all parts together.
        self.bytes = end

    def __getitem__(self, name: str) -> Placed:
        return self._placed[name]

    def __contains__(self, name: str) -> bool:
        return name in self._placed
