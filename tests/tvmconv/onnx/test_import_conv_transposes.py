"""ConvTranspose of ONNX in every form, against onnxruntime; what can't be right is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.single import Case, alike, by_attributes, one, outputs
from tvmconv import errors

TRANSPOSED = {
    "1-D": Case((2, 8, 7), (8, 4, 3), {}),
    "1-D, stride 3": Case((1, 8, 7), (8, 4, 4), {"strides": [3], "pads": [1, 2]}),
    "1-D, output_padding": Case((1, 8, 5), (8, 4, 3), {"strides": [2], "output_padding": [1]}),
    "1-D, output_shape": Case((1, 8, 5), (8, 4, 3), {"strides": [2], "output_shape": [10]}),
    "1-D, groups": Case((1, 16, 5), (16, 3, 3), {"strides": [2], "group": 2}),
    "stride 1": Case((2, 8, 5, 6), (8, 6, 3, 3), {}),
    "stride 2": Case((2, 8, 5, 6), (8, 6, 4, 4), {"strides": [2, 2], "pads": [1] * 4}),
    "stride 3": Case((1, 8, 5, 4), (8, 6, 5, 4), {"strides": [3, 3]}),
    "strides differ": Case((1, 8, 4, 5), (8, 6, 3, 4), {"strides": [3, 2], "pads": [1, 0, 0, 2]}),
    "one pixel": Case((3, 8, 1, 1), (8, 6, 4, 4), {"strides": [2, 2]}),
    "output of one pixel": Case((3, 8, 1, 1), (8, 6, 3, 3), {"strides": [2, 2], "pads": [1] * 4}),
    "filter of one tap": Case((1, 8, 5, 4), (8, 6, 1, 1), {"strides": [2, 2]}),
    "filter smaller than the stride": Case(
        (1, 8, 5, 4), (8, 6, 2, 1), {"strides": [3, 2], "output_padding": [2, 1]},
    ),
    "pads past the filter": Case(
        (1, 8, 7, 6), (8, 6, 2, 3), {"strides": [2, 1], "pads": [3, 2, 4, 3]},
    ),
    "output_padding": Case(
        (1, 8, 5, 4), (8, 6, 3, 3),
        {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
    ),
    "output_shape, smaller": Case(
        (1, 8, 5, 4), (8, 6, 3, 3), {"strides": [2, 2], "output_shape": [8, 6]},
    ),
    "output_shape, larger": Case(
        (1, 8, 5, 4), (8, 6, 3, 3), {"strides": [3, 2], "output_shape": [17, 10]},
    ),
    "output_shape, SAME_UPPER": Case(
        (1, 8, 5, 4), (8, 6, 4, 4),
        {"strides": [2, 2], "output_shape": [9, 7], "auto_pad": "SAME_UPPER"},
    ),
    "output_shape and output_padding": Case(
        (1, 8, 5, 4), (8, 6, 3, 3),
        {"strides": [2, 2], "output_shape": [11, 8], "output_padding": [1, 1]},
    ),
    "dilations": Case((1, 8, 5, 4), (8, 6, 3, 3), {"dilations": [2, 3], "pads": [1, 2, 3, 0]}),
    "dilations that share a factor with strides": Case(
        (1, 8, 5, 4), (8, 6, 3, 4), {"dilations": [2, 4], "strides": [4, 2]},
    ),
    "dilations that share none": Case(
        (1, 8, 5, 4), (8, 6, 3, 3), {"dilations": [3, 2], "strides": [2, 3], "pads": [2] * 4},
    ),
    "groups": Case((2, 16, 5, 4), (16, 9, 3, 3), {"strides": [2, 2], "group": 2, "pads": [1] * 4}),
    "depthwise": Case((2, 8, 5, 4), (8, 1, 4, 4), {"strides": [2, 2], "group": 8, "pads": [1] * 4}),
    "SAME_UPPER": Case((1, 8, 5, 4), (8, 6, 3, 4), {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": Case((1, 8, 5, 4), (8, 6, 3, 4), {"strides": [2, 3], "auto_pad": "SAME_LOWER"}),
    "VALID": Case((1, 8, 5, 4), (8, 6, 3, 2), {"strides": [2, 2], "auto_pad": "VALID"}),
}  # fmt: skip


@pytest.mark.parametrize(
    "families", [("direct",), pytest.param(None, marks=pytest.mark.slow)], ids=["direct", "all"]
)
def test_conv_transpose(families: tuple[str, ...] | None) -> None:
    """By the family whose kernels compile fastest; the random ones below are by all."""
    for name, convs in alike("ConvTranspose", TRANSPOSED, families=families).items():
        (conv,) = convs
        assert conv.operator == "ConvTranspose", name
        assert conv.family != "TVM", name
        strides = TRANSPOSED[name].attributes.get("strides", [1])
        # One kernel for each phase of the stride.
        assert len(conv.workloads) <= math.prod(strides), name


@st.composite
def transposed(draw: st.DrawFn) -> Case:
    """A small ConvTranspose, all of its attributes at once."""
    dimensions = draw(st.integers(1, 2))

    def each(least: int, most: int) -> list[int]:
        return [draw(st.integers(least, most)) for _ in range(dimensions)]

    groups = draw(st.sampled_from((1, 1, 2, 3)))
    c, k = groups * draw(st.integers(1, 9)), draw(st.integers(1, 9))
    sizes, taps = each(1, 5), each(1, 4)
    attributes: dict[str, Any] = {"strides": each(1, 4), "dilations": each(1, 3), "group": groups}
    more = [draw(st.integers(0, stride - 1)) for stride in attributes["strides"]]
    natural = [
        stride * (size - 1) + dilation * (count - 1) + 1
        for size, count, stride, dilation in zip(
            sizes, taps, attributes["strides"], attributes["dilations"], strict=True
        )
    ]
    form = draw(st.sampled_from(("pads", "output_shape", "SAME_UPPER", "SAME_LOWER", "VALID")))
    if form == "pads":
        attributes |= {"pads": [*each(0, 3), *each(0, 3)], "output_padding": more}
        around = zip(attributes["pads"], attributes["pads"][dimensions:], strict=False)
        left = zip(natural, more, around, strict=True)
        assume(all(size + extra - sum(pads) >= 1 for size, extra, pads in left))
    elif form == "output_shape":
        attributes["output_shape"] = [
            draw(st.integers(1, size + stride - 1))
            for size, stride in zip(natural, attributes["strides"], strict=True)
        ]
    else:
        attributes["auto_pad"] = form
        spans = [
            size - stride * (count - 1)
            for size, stride, count in zip(natural, attributes["strides"], sizes, strict=True)
        ]
        # SAME with gaps between what the filter writes is refused.
        assume(form == "VALID" or all(map(int.__ge__, spans, attributes["strides"])))
    return Case((draw(st.integers(1, 3)), c, *sizes), (c, k, *taps), attributes)


@given(st.lists(transposed(), min_size=6, max_size=6))
@settings(max_examples=2)
def test_random_conv_transpose(cases: list[Case]) -> None:
    alike("ConvTranspose", {f"case {at}": case for at, case in enumerate(cases)})


@pytest.mark.slow
@given(transposed())
@settings(max_examples=500, deadline=None)
def test_more_random_conv_transposes(case: Case) -> None:
    alike("ConvTranspose", {"output": case})


@pytest.mark.parametrize("computed", [False, True], ids=["constant", "computed weights"])
def test_an_output_that_is_smaller_than_the_input(computed: bool) -> None:
    """ONNX's inference stops at the first such axis; onnxruntime computes it."""
    cases = by_attributes((1, 4, 5, 4), (4, 3, 2, 2), {"output_shape": [3, 4]})
    cases |= {"group": Case((1, 4, 5, 4), (4, 3, 2, 2), {"output_shape": [6, 2], "group": 2})}
    alike("ConvTranspose", cases, computed=computed)


def test_conv_transpose_of_computed_weights_is_tvms() -> None:
    cases = by_attributes(
        (1, 8, 5, 4),
        (8, 6, 3, 3),
        {},
        {"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 2]},
        {"dilations": [2, 3], "strides": [3, 2]},
        {"strides": [2, 2], "output_shape": [11, 8]},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"group": 2},
    )
    for name, convs in alike("ConvTranspose", cases, computed=True).items():
        assert [conv.family for conv in convs] == ["TVM"], name
        assert "weights are computed" in convs[0].why_family, name


def test_3d_conv_transpose_is_tvms() -> None:
    cases = by_attributes(
        (1, 4, 4, 5, 4),
        (4, 6, 3, 4, 3),
        {},
        {"strides": [2, 1, 3], "pads": [1, 0, 1, 0, 1, 1]},
        {"strides": [2, 2, 2], "output_padding": [1, 1, 0]},
        {"dilations": [2, 1, 3], "strides": [1, 2, 2]},
        {"group": 2},
        {"strides": [2, 2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 3, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2, 2], "auto_pad": "VALID"},
    )
    for name, convs in alike("ConvTranspose", cases).items():
        assert [conv.family for conv in convs] == ["TVM"], name
        assert "3-D" in convs[0].why_family, name


def test_3d_conv_transpose_with_output_shape_is_refused() -> None:
    with pytest.raises(errors.UnsupportedOperatorError, match="3-D, with output_shape"):
        one("ConvTranspose", (1, 4, 3, 3, 3), (4, 2, 3, 3, 3), output_shape=[5, 5, 5])


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"output_shape": [11, 14]}, "gives 11 rows or columns, where output_shape asks for 14"),
        (
            {"auto_pad": "SAME_LOWER", "strides": [2, 4]},
            "gives 19 rows or columns, where auto_pad SAME_LOWER asks for 20",
        ),
    ],
)
def test_rows_that_no_input_reaches_are_refused(
    attributes: dict[str, Any], complaint: str, computed: bool
) -> None:
    """onnxruntime fails or gives another shape there: nothing says what they would have to be."""
    attributes = {"strides": [2, 2], **attributes}
    with pytest.raises(errors.UnsupportedOperatorError, match=complaint):
        one("ConvTranspose", (1, 8, 5, 5), (8, 6, 3, 3), computed=computed, **attributes)


def test_output_padding_past_the_stride() -> None:
    plain = outputs("ConvTranspose", dilations=[3, 2])
    more = outputs("ConvTranspose", dilations=[3, 2], output_padding=[2, 1])
    np.testing.assert_array_equal(more[:, :, :-2, :-1], plain)
    bias = np.arange(8, dtype="f")[:, None, None]
    np.testing.assert_array_equal(more[0, :, -2:], np.broadcast_to(bias, more[0, :, -2:].shape))
    np.testing.assert_array_equal(
        more[0, :, :, -1:], np.broadcast_to(bias, more[0, :, :, -1:].shape)
    )
