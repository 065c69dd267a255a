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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from intrinsics import dtypes

#: The dtype of an mbarrier, which is no element type.
BARRIER = "uint64"


@cache
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


class Stages:
    """`count` stages one after another, each of which holds all these parts.

    The stage is the first index of each of them in the layout.
    """

    def __init__(self, count: int, *parts: Part) -> None:
        self.count, self.inside = count, SharedLayout(*parts)
        #: Bytes from one stage to the next.
        self.bytes = _round_up(self.inside.bytes, max(part.align for part in parts))


@dataclass(frozen=True)
class Placed:
    """A part and the byte of shared memory where it begins. outer: bytes from one first index to
    the next, where other parts lie between; else 0."""

    part: Part
    offset: int
    outer: int = 0

    @property
    def end(self) -> int:
        """The first byte after it."""
        first = self.part.shape[0] - 1 if self.outer else 0
        return self.offset + first * self.outer + self.part.stride(1 if self.outer else 0)

    def stride(self, indices: int) -> int:
        """Bytes from one index to the next, of the last of the first so many indices."""
        return self.outer if self.outer and indices == 1 else self.part.stride(indices)

    def at(self, *index: Any) -> Any:
        """Byte of shared memory where the sub-array with these first indices begins: an ``int``,
        or a TVM expression where an index is one."""
        if self.outer and index:
            first, *rest = index
            return self.offset + first * self.outer + self._flat(rest, self.part.shape[1:])
        return self.offset + self._flat(index, self.part.shape)

    def _flat(self, index: Sequence[Any], shape: tuple[int, ...]) -> Any:
        flat: Any = 0
        for i, extent in zip(index, shape, strict=False):
            flat = flat * extent + i
        return flat * self.part.stride(len(self.part.shape) - len(shape) + len(index))


class SharedLayout:
    """Parts one after another, each aligned, in the order given."""

    def __init__(self, *parts: Part | Stages) -> None:
        self._placed: dict[str, Placed] = {}
        #: Size of all parts together.
        self.bytes = 0
        for one in parts:
            if isinstance(one, Stages):
                self._place_stages(one)
            else:
                start = self._placed[one.over].offset if one.over else self.bytes
                assert start % one.align == 0 or not one.over, f"{one.name} over {one.over}"
                self._place(Placed(one, _round_up(start, one.align)))

    def _place_stages(self, stages: Stages) -> None:
        start = _round_up(self.bytes, max(one.part.align for one in stages.inside))
        for one in stages.inside:
            part = replace(one.part, shape=(stages.count, *one.part.shape), over="")
            self._place(Placed(part, start + one.offset, stages.bytes))

    def _place(self, placed: Placed) -> None:
        name = placed.part.name
        assert name not in self._placed, f"two parts are called {name}"
        self._placed[name] = placed
        self.bytes = max(self.bytes, placed.end)

    def __iter__(self) -> Iterator[Placed]:
        return iter(self._placed.values())

    def __getitem__(self, name: str) -> Placed:
        return self._placed[name]

    def __contains__(self, name: str) -> bool:
        return name in self._placed


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
