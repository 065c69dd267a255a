"""Views against NumPy's own strides: every step gives what NumPy gives, without a copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.products.view import View
from tests.support.products import seen

EXTENTS = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=5)


@st.composite
def moved(draw: st.DrawFn) -> tuple[View, np.ndarray]:
    """A view after some steps, and NumPy's view of numbers after the same."""
    shape = draw(EXTENTS)
    view, array = View.of(shape), np.arange(np.prod(shape)).reshape(shape)
    for step in draw(st.lists(st.sampled_from(["permuted", "sliced", "taken"]), max_size=3)):
        axis = draw(st.integers(0, len(view.shape) - 1))
        if step == "permuted":
            axes = draw(st.permutations(range(len(view.shape))))
            view, array = view.permuted(axes), array.transpose(axes)
        elif step == "sliced":
            begin = draw(st.integers(0, view.shape[axis] - 1))
            count = draw(st.integers(1, view.shape[axis] - begin))
            by = draw(st.integers(1, 2))
            index = [slice(None)] * array.ndim
            index[axis] = slice(begin, begin + count, by)
            array = array[tuple(index)]
            view = view.sliced(axis, begin, array.shape[axis], by)
        elif len(view.shape) > 1:
            at = draw(st.integers(0, view.shape[axis] - 1))
            index = [slice(None)] * array.ndim
            index[axis] = at
            view, array = view.taken(axis, at), array[tuple(index)]
    return view, array


@given(moved())
def test_steps_are_numpys(both: tuple[View, np.ndarray]) -> None:
    view, array = both
    numbers = np.arange(view.size)
    assert np.array_equal(seen(view, numbers), array)
    index = np.indices(view.shape, sparse=True)
    assert np.array_equal(np.broadcast_to(view.at(index), view.shape), array)


@given(moved(), st.data())
def test_a_reshape_is_a_view_exactly_where_numpy_needs_no_copy(
    both: tuple[View, np.ndarray], data: st.DataObject
) -> None:
    view, array = both
    left, factors = array.size, []
    for prime in (2, 3):
        while left % prime == 0:
            left //= prime
            factors.append(prime)
    factors.append(left)
    shape = [1]
    for factor in data.draw(st.permutations(factors)):
        if data.draw(st.booleans()):
            shape[-1] *= factor
        else:
            shape.append(factor)
    numbers = np.arange(view.size)
    strided = np.lib.stride_tricks.as_strided(
        numbers[view.offset :], view.shape, [step * numbers.itemsize for step in view.strides]
    )
    found, wanted = view.reshaped(shape), strided.reshape(shape)
    assert (found is not None) == np.shares_memory(wanted, numbers)
    if found is not None:
        assert np.array_equal(seen(found, numbers), wanted)


@pytest.mark.parametrize(
    ("view", "alignment"),
    [
        (View.of((4, 32)), 32),
        (View.of((4, 36)), 4),
        (View.of((4, 3, 32)).taken(1, 1), 32),
        (View.of((4, 33)), 1),
        (View.of((4, 32)).sliced(1, 3, 8), 1),
        (View.of((4, 32)).sliced(1, 8, 8), 8),
        # An axis of one element is nowhere else.
        (View((2, 1, 8), (8, 3, 1), 0, 16), 8),
    ],
)
def test_the_alignment_of_rows(view: View, alignment: int) -> None:
    assert view.alignment == alignment


def test_which_view_is_the_whole_tensor() -> None:
    whole = View.of((2, 1, 6))
    assert whole.whole
    reshaped = whole.reshaped((3, 1, 4))
    assert reshaped is not None
    assert reshaped.whole
    assert not whole.permuted((2, 1, 0)).whole
    assert whole.permuted((1, 0, 2)).whole
    assert not whole.sliced(0, 0, 1).whole
    assert not View.of((6,)).broadcast((2, 6)).whole
    assert View.of((6,)).broadcast((2, 6)).elements == 6
