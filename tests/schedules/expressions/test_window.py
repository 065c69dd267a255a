"""Windows: what is refused, and where each element goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.conv.workload import PACKED, ConvWorkload, Window
from schedules.expressions.compute import direct
from schedules.expressions.window import in_window
from tests.support.kernels import window_index
from tests.support.workloads import windows, workloads

PLAIN = ConvWorkload(2, 9, 8, 24, 36, 3, 3, padding=(1, 1, 1, 1))


@pytest.mark.parametrize(
    "window",
    [
        Window(9, 8, 36, channel=1),
        Window(9, 8, 35),
        Window(8, 8, 36),
        Window(9, 7, 36),
        Window(9, 8, 36, row=1),
        Window(9, 8, 36, column=1),
        Window(9, 8, 36, row=-1),
        Window(9, 8, 36, column=-1),
        Window(9, 8, 72, channel=-1),
        Window(16, 8, 36, row_step=2),
        Window(9, 14, 36, column_step=2),
        Window(17, 8, 36, row=1, row_step=2),
        Window(0, 0, 0),
    ],
    ids=str,
)
def test_an_output_that_does_not_fit_is_refused(window: Window) -> None:
    with pytest.raises(ValueError, match="does not fit its window") as caught:
        replace(PLAIN, window=window)
    assert str(window) in str(caught.value)


@pytest.mark.parametrize(
    "window",
    [
        Window(9, 8, 36),
        Window(9, 8, 72, channel=36),
        Window(17, 15, 36, row_step=2, column_step=2),
        Window(18, 8, 36, row=1, row_step=2),
    ],
    ids=str,
)
def test_one_that_just_fits(window: Window) -> None:
    w = replace(PLAIN, window=window)
    assert w.buffer_shape == (2, window.rows, window.columns, window.channels)
    assert w.out_shape == (2, 9, 8, 36)


def test_a_window_of_a_packed_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="a part of an NHWC tensor"):
        replace(PLAIN, out_layout=PACKED, window=Window(9, 8, 36))


@pytest.mark.parametrize("changes", [{"shuffle": 0}, {"shuffle": -2}, {"shuffle": 7}], ids=str)
def test_a_shuffle_that_does_not_divide_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the shuffle has to divide the channels"):
        Window(9, 8, 36, **changes)


@pytest.mark.parametrize("changes", [{"row_step": 0}, {"column_step": -1}], ids=str)
def test_steps_below_one_are_refused(changes: dict[str, Any]) -> None:
    """They would write one pixel twice."""
    with pytest.raises(ValueError, match="steps are at least 1"):
        Window(9, 8, 36, **changes)


@given(st.integers(1, 12), st.integers(1, 9))
def test_a_shuffle_is_a_reshape_and_a_transpose(groups: int, each: int) -> None:
    channels = groups * each
    y = np.arange(channels)
    expected = y.reshape(groups, each).T.reshape(-1)  # what ShuffleNet's operators make of y
    z = np.full(channels, -1)
    z[Window(1, 1, channels, shuffle=groups).position(y)] = y
    np.testing.assert_array_equal(z, expected)


@given(workloads(), st.data())
def test_every_element_has_a_place_of_its_own(w: ConvWorkload, data: st.DataObject) -> None:
    w = replace(w, window=None, out_layout=PLAIN.out_layout)
    window = data.draw(windows(w))
    w = replace(w, window=window)
    written = np.zeros(w.buffer_shape, int)
    np.add.at(written, tuple(np.broadcast_arrays(*window_index(w))), 1)
    assert written.max() == 1
    assert written.sum() == np.prod(w.out_shape)
    # And back: which pixel and channel is at a place.
    p, q, k = (data.draw(st.integers(0, size - 1)) for size in (w.p, w.q, w.k))
    row, column = window.pixel(p, q)
    assert ((row - window.row) // window.row_step, (row - window.row) % window.row_step) == (p, 0)
    assert (column - window.column) / window.column_step == q
    each = window.channels // window.shuffle
    place = window.position(k)
    assert place % window.shuffle * each + place // window.shuffle - window.channel == k


@given(workloads(), st.data())
def test_adjacent_channels_stay_in_line(w: ConvWorkload, data: st.DataObject) -> None:
    """A run of `adjacent` channels, or of a divisor of it, starts at a multiple of its length."""
    window = data.draw(windows(replace(w, window=None)))
    if window.adjacent > 1:
        for k in range(0, w.k, window.adjacent):
            assert window.position(k) % window.adjacent == window.channel % window.adjacent == 0
            assert window.position(k + 1) == window.position(k) + 1


def test_without_a_window_the_function_is_as_it_was() -> None:
    function = direct(PLAIN)
    assert in_window(PLAIN, function).same_as(function)


def test_the_buffer_is_the_larger_tensor() -> None:
    w = replace(PLAIN, window=Window(18, 17, 72, 1, 0, 36, 2, 2))
    out = direct(w).params[-1]
    assert tuple(int(size) for size in out.shape) == (2, 18, 17, 72)
