"""Products and attention as data of tests: random operands, and what NumPy says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.products.view import View
from schedules.products.workload import ADDED, KEY, MASK, QUERY, A, B, ProductWorkload, Y

Array = NDArray[Any]


def seen(view: View, data: Array) -> Array:
    """The elements of a view, in a copy."""
    strides = [stride * data.itemsize for stride in view.strides]
    return np.array(as_strided(data[view.offset :], view.shape, strides))


def operands(w: ProductWorkload, seed: int = 0) -> dict[str, Array]:
    """Random operands by name, each as one row of elements, without the result."""
    rng = np.random.default_rng(seed)
    return {
        one.name: rng.normal(size=one.shape).astype(dtypes.get(one.dtype).numpy)
        for one in w.signature
        if one.name != Y
    }


def reference(w: ProductWorkload, given: dict[str, Array]) -> Array:
    """The result in fp64, of the view's shape."""
    if w.first is not None:
        first = w.first
        assert first.a is not None
        scores = _product(first, seen(first.a, given[QUERY]), seen(first.b, given[KEY]))
        if first.added is not None:
            scores += seen(first.added.view, given[MASK])
        with np.errstate(invalid="ignore"):
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            a = weights / weights.sum(-1, keepdims=True)
            if w.nan_to_zero:
                a = np.where(np.isnan(a), 0, a)
    else:
        assert w.a is not None
        a = seen(w.a, given[A])
    y = _product(w, a, seen(w.b, given[B]))
    if w.added is not None:
        y += seen(w.added.view, given[ADDED])
    return y


def _product(w: ProductWorkload, a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(a.astype("f8") @ b.astype("f8") * w.scale)


def heads(batch: int, tokens: int, count: int, size: int, packed: int = 3) -> list[View]:
    """(batch, count, tokens, size) views of `packed` parts of one tensor, as of queries, keys and
    values that one product gives: (batch, tokens, packed * count * size)."""
    whole = View.of((batch, tokens, packed, count, size))
    return [whole.taken(2, part).permuted((0, 2, 1, 3)) for part in range(packed)]


def attention(
    query: View, key: View, value: View, y: View, mask: Any = None, scale: float = 0.0
) -> ProductWorkload:
    """Attention of views (\\*batch, tokens, size)."""
    axes = [*range(len(key.shape) - 2), len(key.shape) - 1, len(key.shape) - 2]
    transposed = key.permuted(axes)
    scores = View.of((*query.shape[:-1], key.shape[-2]))
    first = ProductWorkload(
        query, transposed, scores, scale or float(query.shape[-1] ** -0.5), mask
    )
    return ProductWorkload(None, value, y, first=first)
