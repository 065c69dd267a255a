"""Strided views of tensors, as NumPy has them: how the elements of an operand lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """Axes over a tensor that is seen as one row of elements.

    shape: extents of the axes. strides: elements from one index to the next along each; 0 where
    all are the same element. offset: the first element. size: elements of the whole tensor.
    """

    shape: Shape
    strides: Shape
    offset: int
    size: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> View:
        """A whole tensor, row by row."""
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return cls(tuple(shape), strides, 0, math.prod(shape))

    def permuted(self, axes: Sequence[int]) -> View:
        """The axes in another order, as NumPy's ``transpose``."""
        return self._with([self.shape[axis] for axis in axes], [self.strides[a] for a in axes])

    def transposed(self) -> View:
        """The last two axes in the other order."""
        rank = len(self.shape)
        return self.permuted([*range(rank - 2), rank - 1, rank - 2])

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """As NumPy's ``reshape`` without a copy; None where that needs one."""
        if self.shape == tuple(shape):
            return self
        old = [one for one in zip(self.shape, self.strides, strict=True) if one[0] != 1]
        strides: list[int] = []
        left = list(shape)
        while left:
            extent = left.pop(0)
            if extent == 1:
                strides.append(0)
                continue
            run, step = old.pop(0)
            # As many axes of the tensor as make whole axes of the view.
            inner = [extent]
            while run != math.prod(inner):
                if run < math.prod(inner):
                    following, inside = old.pop(0)
                    if step != inside * following:
                        return None
                    run, step = run * following, inside
                else:
                    inner.append(left.pop(0))
            strides += [step * math.prod(inner[axis + 1 :]) for axis in range(len(inner))]
        return self._with(shape, strides)

    def sliced(self, axis: int, begin: int, extent: int, step: int = 1) -> View:
        """`extent` indices of an axis, from `begin` on, `step` apart."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + begin * strides[axis]
        shape[axis], strides[axis] = extent, strides[axis] * step
        return View(tuple(shape), tuple(strides), offset, self.size)

    def taken(self, axis: int, index: int) -> View:
        """One index of an axis, which is left out."""
        one = self.sliced(axis, index, 1)
        rest = [a for a in range(len(self.shape)) if a != axis]
        return one.permuted([*rest, axis])._without_last()

    def broadcast(self, shape: Sequence[int]) -> View:
        """As NumPy's ``broadcast_to``; the shapes have to suit each other."""
        more = len(shape) - len(self.shape)
        old = [*[(1, 0)] * more, *zip(self.shape, self.strides, strict=True)]
        strides = [
            0 if extent != wanted else step
            for (extent, step), wanted in zip(old, shape, strict=True)
        ]
        return self._with(shape, strides)

    @property
    def whole(self) -> bool:
        """True if it is the whole tensor, row by row."""
        places = zip(self.shape, self.strides, View.of(self.shape).strides, strict=True)
        same = all(own == row for extent, own, row in places if extent > 1)
        return same and self.offset == 0 and self.size == math.prod(self.shape)

    @property
    def elements(self) -> int:
        """Elements of the tensor that are seen."""
        return math.prod(n for n, step in zip(self.shape, self.strides, strict=True) if step)

    @property
    def alignment(self) -> int:
        """The largest power of two that divides the place of each row, in elements: of the offset,
        and of every stride but those of 1."""
        places = [self.offset, *(s for n, s in zip(self.shape, self.strides, strict=True) if n > 1)]
        common = math.gcd(*(place for place in places if place != 1))
        return common & -common if common else 1 << 30

    def at(self, index: Sequence[Any]) -> Any:
        """The element at an index: of integers, arrays or TVM expressions."""
        found: Any = self.offset
        for i, stride in zip(index, self.strides, strict=True):
            if stride:
                found = found + i * stride
        return found

    def _with(self, shape: Sequence[int], strides: Sequence[int]) -> View:
        return View(tuple(shape), tuple(strides), self.offset, self.size)

    def _without_last(self) -> View:
        return self._with(self.shape[:-1], self.strides[:-1])
