"""Conv of ONNX in every form, against onnxruntime; what can't be right is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.single import Case, alike, one, outputs
from tvmconv import errors

CONVS = {
    "1-D": Case((2, 6, 11), (8, 6, 3), {}),
    "1-D, all at once": Case(
        (2, 8, 21), (6, 4, 3), {"strides": [3], "dilations": [2], "pads": [2, 1], "group": 2},
    ),
    "1-D, one point": Case((3, 5, 1), (4, 5, 1), {}),
    "1-D, SAME_LOWER": Case((1, 6, 10), (4, 6, 4), {"auto_pad": "SAME_LOWER", "strides": [2]}),
    "2-D, strides differ": Case((1, 6, 13, 11), (8, 6, 3, 3), {"strides": [3, 2]}),
    "2-D, dilations differ": Case(
        (1, 6, 13, 11), (8, 6, 3, 3), {"dilations": [3, 2], "pads": [1, 2, 3, 0]},
    ),
    "2-D, groups": Case((2, 12, 7, 9), (9, 4, 3, 2), {"group": 3, "pads": [0, 1, 2, 0]}),
    "2-D, depthwise with multiplier": Case((2, 6, 7, 9), (12, 1, 3, 3), {"group": 6}),
    "2-D, SAME_UPPER": Case(
        (1, 6, 10, 7), (4, 6, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    ),
    "2-D, SAME_LOWER": Case(
        (1, 6, 10, 7), (4, 6, 3, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    ),
    "2-D, SAME, stride past the filter": Case(
        (1, 6, 9, 8), (4, 6, 1, 2), {"auto_pad": "SAME_UPPER", "strides": [3, 3]},
    ),
    "2-D, VALID": Case((1, 6, 9, 8), (4, 6, 3, 2), {"auto_pad": "VALID", "strides": [2, 1]}),
    "3-D": Case((1, 4, 5, 6, 7), (6, 4, 3, 3, 3), {}),
    "3-D, strides and pads differ": Case(
        (2, 4, 7, 6, 8), (6, 4, 3, 2, 3), {"strides": [2, 1, 3], "pads": [1, 0, 2, 0, 1, 1]},
    ),
    "3-D, dilations": Case((1, 4, 8, 6, 7), (6, 4, 3, 3, 2), {"dilations": [3, 1, 2]}),
    "3-D, groups": Case((2, 8, 4, 5, 5), (6, 4, 2, 3, 3), {"group": 2, "pads": [1] * 6}),
    "3-D, depthwise": Case((1, 4, 4, 5, 5), (4, 1, 3, 3, 3), {"group": 4, "pads": [1] * 6}),
    "3-D, SAME_UPPER": Case(
        (1, 4, 6, 5, 7), (6, 4, 3, 2, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 1, 2]},
    ),
    "3-D, SAME_LOWER": Case(
        (1, 4, 6, 5, 7), (6, 4, 4, 2, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 1, 2]},
    ),
    "3-D, VALID": Case((1, 4, 6, 5, 7), (6, 4, 1, 2, 1), {"auto_pad": "VALID"}),
}  # fmt: skip


def test_conv() -> None:
    for name, convs in alike("Conv", CONVS).items():
        (conv,) = convs
        assert conv.family != "TVM", name
        # The taps of all three dimensions, and no more.
        assert conv.useful_macs % math.prod(CONVS[name].filters) == 0, name


def test_conv_of_computed_weights_is_tvms() -> None:
    cases = {
        f"{n}-D": Case((1, 4, *[6] * n), (6, 2, *[3] * n), {"group": 2, "strides": [2] * n})
        for n in (1, 2, 3)
    }
    for name, convs in alike("Conv", cases, computed=True).items():
        assert [conv.family for conv in convs] == ["TVM"], name


def test_conv_over_four_dimensions_is_refused() -> None:
    with pytest.raises(errors.UnsupportedOperatorError, match="over 4 dimensions"):
        one("Conv", (1, 4, 3, 3, 3, 3), (2, 4, 2, 2, 2, 2))


@pytest.mark.parametrize(
    ("auto", "pads"), [("SAME_UPPER", [2, 1, 2, 2]), ("SAME_LOWER", [2, 2, 2, 1])]
)
def test_same_with_dilations(auto: str, pads: list[int]) -> None:
    """By the formula: onnxruntime does not take it."""
    got = outputs("Conv", auto_pad=auto, dilations=[2, 3])
    np.testing.assert_array_equal(got, outputs("Conv", pads=pads, dilations=[2, 3]))
    assert got.shape == (1, 8, 9, 7)
