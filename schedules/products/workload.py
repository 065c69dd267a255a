"""A product of two computed tensors as data: `ProductWorkload`, frozen and hashable.

The letters: of each matrix of the batch, M rows and N columns of the result, K the sum's terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from intrinsics import dtypes
from schedules.conv.precision import Precision
from schedules.conv.signature import Operand, Signature
from schedules.products.view import Shape, View

#: Names of operands: those of a product, and of one whose `a` is a softmax.
A, B, ADDED, Y = "a", "b", "added", "y"
QUERY, KEY, MASK = "query", "key", "mask"
#: How the operands lie, for `schedules.conv.signature.Operand`.
STRIDED = "strided"


@dataclass(frozen=True)
class Added:
    """A tensor that is added to a product. view: (\\*batch, M, N). dtype: in memory."""

    view: View
    dtype: str


@dataclass(frozen=True)
class ProductWorkload:
    """``y = scale * (a @ b) + added``, a matrix product for each index of the batch.

    b: (\\*batch, K, N). y: (\\*batch, M, N). a: (\\*batch, M, K). Each is a view, so heads are read
    and written where they lie. Sums, scale and addend are in fp32.

    With `first` there is no a: it is the softmax along the last axis of that product, whose y is
    not written, rounded to the dtype that is multiplied. That is attention: `first` multiplies
    queries and keys, b are the values (Vaswani et al. 2017, "Attention Is All You Need", equation
    1). Where the softmax is NaN, as in a row whose scores are all -inf, `nan_to_zero` makes it 0.

    Raises ``ValueError`` if the shapes do not suit each other.
    """

    a: View | None
    b: View
    y: View
    scale: float = 1.0
    added: Added | None = None
    precision: Precision = field(default_factory=Precision)
    first: ProductWorkload | None = None
    nan_to_zero: bool = False

    def __post_init__(self) -> None:
        if (self.a is None) == (self.first is None):
            raise ValueError(f"{self!r}: either a, or a product of which it is the softmax")
        a = self.first.y if self.a is None and self.first is not None else self.a
        assert a is not None
        batch, (m, n) = self.y.shape[:-2], self.y.shape[-2:]
        terms = a.shape[-1]
        if a.shape != (*batch, m, terms) or self.b.shape != (*batch, terms, n):
            raise ValueError(f"{a.shape} times {self.b.shape} does not give {self.y.shape}")
        if self.added is not None and self.added.view.shape != self.y.shape:
            raise ValueError(f"{self.added.view.shape} can't be added to {self.y.shape}")
        if self.first is not None and self.first.first is not None:
            raise ValueError("a softmax of a softmax")
        if min(self.y.shape) < 1 or terms < 1:
            raise ValueError(f"{self!r}: sizes are at least 1")

    @property
    def batch(self) -> Shape:
        """Extents of the batch's axes."""
        return self.y.shape[:-2]

    @property
    def matrices(self) -> int:
        """Matrices of the batch."""
        return math.prod(self.batch)

    @property
    def m(self) -> int:
        """Rows of the result."""
        return self.y.shape[-2]

    @property
    def n(self) -> int:
        """Columns of the result."""
        return self.y.shape[-1]

    @property
    def k(self) -> int:
        """Terms of each sum."""
        return self.b.shape[-2]

    @property
    def useful_macs(self) -> int:
        """Multiply-adds, those of `first` too."""
        own = self.matrices * self.m * self.n * self.k
        return own + (self.first.useful_macs if self.first is not None else 0)

    @property
    def moved_bytes(self) -> int:
        """Every element that is read or written, once, in bytes."""
        first = self.first
        views = [self.a, self.b] if first is None else [first.a, first.b, self.b]
        read = sum(one.elements for one in views if one is not None)
        moved = read * dtypes.get(self.precision.x).bytes
        added = self.added if first is None else first.added
        if added is not None:
            moved += added.view.elements * dtypes.get(added.dtype).bytes
        return moved + self.y.elements * dtypes.get(self.precision.result).bytes

    @property
    def signature(self) -> Signature:
        """The operands of a kernel in order, each as one row of elements; the last is the result.

        a, b, [added], y; with `first`: query, key, [mask], b, [added], y.
        """
        read = self.precision.x
        if self.first is None:
            assert self.a is not None
            found = [_operand(A, read, self.a)]
        else:
            assert self.first.a is not None
            found = [_operand(QUERY, read, self.first.a), _operand(KEY, read, self.first.b)]
            if self.first.added is not None:
                found.append(_operand(MASK, self.first.added.dtype, self.first.added.view))
        found.append(_operand(B, read, self.b))
        if self.added is not None:
            found.append(_operand(ADDED, self.added.dtype, self.added.view))
        return Signature((*found, _operand(Y, self.precision.result, self.y)))

    @property
    def epilogue(self) -> str:
        """In words, all but the products; "none" if there is nothing else."""
        if self.first is not None:
            return "mask + softmax" if self.first.added is not None else "softmax"
        return "none" if self.added is None else "added"

    def __str__(self) -> str:
        if self.first is not None:
            of, first = "attention", self.first
            sizes = f"{first.m}x{first.k} on {first.n} keys -> {self.n}"
        else:
            of, sizes = "product", f"{self.m}x{self.k} by {self.k}x{self.n}"
        batch = "x".join(str(extent) for extent in self.batch if extent > 1)
        return f"{of} of {batch + ' times ' if batch else ''}{sizes}"


def _operand(name: str, dtype: str, view: View) -> Operand:
    return Operand(name, dtype, (view.size,), STRIDED)
