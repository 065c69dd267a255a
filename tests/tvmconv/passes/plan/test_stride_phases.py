"""A transposed convolution's phases, each computed by its definition, together give all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import relax

from tests.support import graphs
from tests.support.models import Graph
from tvmconv.passes.plan.stride_phases import Taps, phases
from tvmconv.passes.regions.region import Region

Array = NDArray[Any]


def along(size: int, pixels: int, taps: int, stride: int, pad: int, dilation: int) -> list[Taps]:
    """The phases of one dimension, the other being one pixel."""
    x = relax.Var("x", relax.TensorType((1, size, 1, 1), "float32"))
    region = Region(
        "conv", "relax.nn.conv2d_transpose", x, (1, size, 1, 1), x,
        np.arange(1.0, taps + 1).reshape(1, 1, taps, 1), (pixels, 1),
        stride=(stride, 1), padding=(pad, 0, 0, 0), dilation=(dilation, 1),
    )  # fmt: skip
    found = phases(region)
    for phase in found:
        chosen = [0.0 if tap is None else tap + 1.0 for tap in phase.rows.taps]
        np.testing.assert_array_equal(phase.weight.reshape(-1), chosen)
        assert phase.columns == Taps(0, 1, 1, 0, 1, (0,))
    return [phase.rows for phase in found]


def read(taps: Taps, x: Array, weight: Array, y: Array) -> None:
    """Writes what the phase says into y."""
    for i in range(taps.count):
        total = 0.0
        for j, tap in enumerate(taps.taps):
            at = i - taps.pad + j * taps.dilation
            if tap is not None and 0 <= at < len(x):
                total += x[at] * weight[tap]
        y[taps.first + i * taps.step] = total


@given(*[st.integers(1, 6)] * 3, st.integers(1, 5), st.integers(0, 6), st.integers(1, 4))
def test_together_they_are_the_definition(
    size: int, pixels: int, taps: int, stride: int, pad: int, dilation: int
) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(size), rng.standard_normal(taps)
    expected = np.zeros(pixels)
    for at in range(size):
        for tap in range(taps):
            p = at * stride - pad + tap * dilation
            if 0 <= p < pixels:
                expected[p] += x[at] * weight[tap]
    got = np.full(pixels, np.nan)
    found = along(size, pixels, taps, stride, pad, dilation)
    for phase in found:
        read(phase, x, weight, got)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    # Every tap of the filter is in one phase, unless its phase has no pixels.
    used = [tap for phase in found for tap in phase.taps if tap is not None]
    assert len(used) == len(set(used))
    if pixels >= stride:
        assert sorted(used) == list(range(taps))


def test_a_filter_of_two_strides_is_split_evenly() -> None:
    assert [taps.taps for taps in along(5, 10, 4, 2, 1, 1)] == [(3, 1), (2, 0)]


def test_a_pixel_that_no_tap_meets_is_zero() -> None:
    assert along(3, 9, 2, 3, 0, 1)[2] == Taps(2, 3, 3, 0, 1, (None,))


def test_groups_stay_together() -> None:
    """Output channel k of group g has the taps of weight[c of group g, k of g]."""
    x = relax.Var("x", relax.TensorType((1, 2, 2, 4), "float32"))
    weight = np.arange(4 * 3 * 2 * 2.0).reshape(4, 3, 2, 2)
    region = Region("conv", "relax.nn.conv2d_transpose", x, (1, 2, 2, 4), x, weight, (3, 3),
                    groups=2)  # fmt: skip
    (phase,) = phases(region)
    assert phase.weight.shape == (6, 2, 2, 2)
    for k in range(6):
        for c in range(2):
            expected = weight[k // 3 * 2 + c, k % 3, ::-1, ::-1]
            np.testing.assert_array_equal(phase.weight[k, c], expected)
    assert len(phases(replace(region, stride=(2, 2)))) == 4


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_each_phase_is_a_kernel_and_all_of_them_cover_the_output_once(stride: int) -> None:
    g = Graph([1, 8, 4, 5])
    weight = g.constant((g.rng.standard_normal((8, 6, 4, 3)) / 8).astype("f"))
    x = g.op("ConvTranspose", "input", weight, strides=[stride] * 2, name="conv")
    result = graphs.became(g.model(g.op("Relu", x)))
    windows = result.windows["conv"]
    assert len(windows) == stride**2
    rows, columns = windows[0]["rows"], windows[0]["columns"]
    written = np.zeros((rows, columns), int)
    for one in windows:
        written[one["row"] :: one["row_step"], one["column"] :: one["column_step"]] += 1
    assert (written == 1).all()
    assert not result.left
    (conv,) = result.report.convs
    # No phase multiplies by a tap that meets none of its pixels.
    assert conv.useful_macs <= 8 * 6 * 4 * 3 * rows * columns / stride**2 * 1.7


def test_declined_computed_weights() -> None:
    g = Graph([1, 8, 4, 5])
    weight = g.op("Mul", g.op("ReduceMean", "input", keepdims=0),
                  g.constant(g.rng.standard_normal((8, 6, 4, 3)).astype("f")))  # fmt: skip
    result = graphs.became(g.model(g.op("ConvTranspose", "input", weight, strides=[2, 2])))
    assert not result.windows
    assert [conv.family for conv in result.report.convs] == ["TVM"]
