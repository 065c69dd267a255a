"""ConvWorkload and the types in it: what they accept, say, and keep on the way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.conv.precision import INT8
from schedules.conv.workload import NHWC, PACKED, Activation, ConvWorkload, Epilogue, Layout
from tests.support.workloads import workloads

PLAIN = ConvWorkload(2, 9, 8, 24, 36, 3, 3)
layouts = st.one_of(st.just(NHWC), st.builds(Layout, st.integers(1, 20), st.integers(1, 20)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        *[({letter: 0}, "sizes are at least 1") for letter in "nhwckrs"],
        ({"n": -1}, "sizes are at least 1"),
        ({"groups": 0}, "sizes are at least 1"),
        ({"stride": (0, 1)}, "sizes are at least 1"),
        ({"dilation": (1, 0)}, "sizes are at least 1"),
        ({"padding": (-5, 0, -5, 0)}, "larger than the padded image"),
        ({"groups": 5}, "groups have to divide the channels"),
        ({"groups": 8}, "groups have to divide the channels"),
        ({"h": 2}, "larger than the padded image"),
        ({"gate": True, "groups": 4}, "a gate is of an NHWC tensor that one group reads"),
        ({"r": 4, "dilation": (3, 1)}, "larger than the padded image"),
    ],
    ids=str,
)
def test_numbers_that_are_no_convolution_are_refused(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        replace(PLAIN, **changes)
    # The message has every number, the wrong one among them.
    assert all(f"{name}={value}" in str(caught.value) for name, value in changes.items())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"in_layout": PACKED}, "a gate is of an NHWC tensor"),
        ({"precision": INT8}, "a gate multiplies floats"),
    ],
    ids=str,
)
def test_no_gate_of_other_tensors(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(PLAIN, gate=True, **changes)


def test_a_gate_is_kept_and_left_out_where_there_is_none() -> None:
    w = replace(PLAIN, gate=True)
    assert ConvWorkload.from_json(w.to_json()) == w
    assert w.gate_shape == (2, 1, 1, 24)
    # As in records from before gates.
    assert "gate" not in PLAIN.to_json()


@pytest.mark.parametrize(
    ("changes", "p", "q"),
    [
        ({}, 7, 6),
        ({"padding": (1, 1, 1, 1)}, 9, 8),
        ({"padding": (1, 0, 2, 5)}, 10, 11),
        ({"stride": (2, 3)}, 4, 2),
        ({"dilation": (4, 1)}, 1, 6),
        ({"r": 9, "s": 8}, 1, 1),
        ({"h": 1, "padding": (1, 0, 1, 0)}, 1, 6),
    ],
    ids=str,
)
def test_output_size(changes: dict[str, Any], p: int, q: int) -> None:
    w = replace(PLAIN, **changes)
    assert (w.p, w.q) == (p, q)
    assert w.out_shape == w.residual_shape == (2, p, q, 36)


@given(workloads())
def test_output_size_is_the_definitions(w: ConvWorkload) -> None:
    """As many positions as the dilated filter finds when it steps along the padded image."""
    for size, padding, taps, stride, dilation, out in (
        (w.h, w.padding[0] + w.padding[2], w.r, w.stride[0], w.dilation[0], w.p),
        (w.w, w.padding[1] + w.padding[3], w.s, w.stride[1], w.dilation[1], w.q),
    ):
        starts = range(0, size + padding, stride)
        assert out == sum(at + dilation * (taps - 1) < size + padding for at in starts)


@given(workloads())
def test_json_round_trip(w: ConvWorkload) -> None:
    again = ConvWorkload.from_json(w.to_json())
    assert again == w
    assert hash(again) == hash(w)
    assert again.to_json() == w.to_json()


def test_json_is_plain() -> None:
    """Names and numbers, so that a person or another program can read it."""
    w = replace(PLAIN, out_layout=PACKED, epilogue=Epilogue(activation=Activation("relu")))
    fields = json.loads(w.to_json())
    assert fields["n"] == 2
    assert fields["padding"] == [0, 0, 0, 0]
    assert (fields["in_layout"], fields["out_layout"]) == ("NHWC", "NHWC16n16c")
    assert fields["epilogue"]["activation"]["kind"] == "relu"


def test_equal_workloads_are_one_key() -> None:
    assert {PLAIN: 1, replace(PLAIN): 2} == {PLAIN: 2}
    assert replace(PLAIN, epilogue=Epilogue(bias=True)) != PLAIN


@pytest.mark.parametrize(
    ("w", "text"),
    [
        (PLAIN, "2x9x8x24 -> 36, 3x3"),
        (replace(PLAIN, stride=(2, 2)), "2x9x8x24 -> 36, 3x3/2"),
        (replace(PLAIN, stride=(2, 1)), "2x9x8x24 -> 36, 3x3/(2, 1)"),
        (replace(PLAIN, dilation=(2, 2)), "2x9x8x24 -> 36, 3x3, dilation (2, 2)"),
        (replace(PLAIN, groups=12), "2x9x8x24 -> 36, 3x3, 12 groups"),
        (replace(PLAIN, gate=True), "2x9x8x24 -> 36, 3x3, gated"),
    ],
    ids=str,
)
def test_workload_prints_short(w: ConvWorkload, text: str) -> None:
    assert str(w) == text


def test_useful_macs_and_depthwise() -> None:
    assert PLAIN.useful_macs == 2 * 7 * 6 * 36 * 3 * 3 * 24
    assert replace(PLAIN, groups=12).useful_macs == PLAIN.useful_macs // 12
    assert not PLAIN.depthwise
    assert replace(PLAIN, k=48, groups=24).depthwise
    assert not replace(PLAIN, groups=12).depthwise
    assert not replace(PLAIN, c=1, k=1).depthwise


# ---------------------------------------------------------------- layouts


@given(layouts, st.tuples(*[st.integers(1, 40)] * 2), st.data())
def test_element_is_the_inverse_of_index(
    layout: Layout, sizes: tuple[int, int], data: st.DataObject
) -> None:
    n, c = sizes
    shape = layout.shape(n, 3, 2, c)
    element = tuple(data.draw(st.integers(0, size - 1)) for size in (n, 3, 2, c))
    index = layout.index(*element)
    assert layout.element(*index) == element
    assert len(index) == len(shape)
    assert all(0 <= at < size for at, size in zip(index, shape, strict=True))
    # And the other way: every place has an element, though perhaps one in the padding.
    place = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    assert layout.index(*layout.element(*place)) == place


@given(layouts, st.integers(1, 20), st.integers(1, 40))
def test_no_two_elements_share_a_place(layout: Layout, n: int, c: int) -> None:
    places = np.zeros(layout.shape(n, 2, 3, c), int)
    np.add.at(places, layout.index(*np.indices((n, 2, 3, c))), 1)
    assert places.max() == 1
    assert places.sum() == n * 2 * 3 * c


@given(layouts)
def test_layout_is_read_as_it_is_written(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


def test_layouts_by_name() -> None:
    assert str(NHWC) == "NHWC"
    assert str(PACKED) == "NHWC16n16c"
    assert PACKED.shape(17, 5, 6, 33) == (2, 5, 6, 3, 16, 16)


@pytest.mark.parametrize("text", ["", "NCHW", "nhwc", "NHWC16n", "NHWC-1n16c", "NHWC1.5n16c"])
def test_layout_of_another_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither NHWC nor NHWC<n>n<c>c"):
        Layout.parse(text)


@pytest.mark.parametrize(("n", "c"), [(0, 16), (-1, 16), (16, -1), (16, 0)])
def test_layout_that_is_none_is_refused(n: int, c: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}, c={c}"):
        Layout(n, c)


# ---------------------------------------------------------------- epilogues


def test_epilogue_prints_what_it_does() -> None:
    assert str(Epilogue()) == "none"
    assert str(Epilogue(True, True, NHWC, Activation("relu"))) == "bias + residual + relu"
    assert str(Epilogue(activation=Activation("clip", (0, 6)))) == "clip(0, 6)"


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="'mish' is not one of none, relu, clip"):
        Activation("mish")


def test_activation_has_its_parameters() -> None:
    with pytest.raises(ValueError, match="takes low, high, not"):
        Activation("clip", (6.0,))
