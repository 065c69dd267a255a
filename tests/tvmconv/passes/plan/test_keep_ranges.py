"""Which tensors are scaled, which stay in fp32, and that usual ones are left as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tvm import relax

from schedules.conv.precision import BF16, FP16, Precision
from tests.support import graphs
from tests.support.models import Graph, residual_net
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.keep_ranges import keep_ranges
from tvmconv.passes.plan.magnitudes import power_of_two
from tvmconv.passes.plan.scale_weights import scale_weights
from tvmconv.passes.regions.anchors import anchors
from tvmconv.passes.regions.region import Region
from tvmconv.passes.regions.regions import find_regions


def found(model: Any) -> tuple[dict[relax.Var, Region], Dataflow]:
    mod = graphs.tidied(model)
    named = [(weight, str(at)) for at, weight in enumerate(anchors(mod))]
    return find_regions(mod, named), Dataflow.of(mod)


def kept(
    model: Any, seen: Mapping[int, float] | None = None, precision: Precision = FP16
) -> list[tuple[Region, Region]]:
    """Each region before and after both passes. seen: what the region of a number reads."""
    before, flow = found(model)
    regions = list(before.values())
    sizes = {regions[at].x: size for at, size in (seen or {}).items()}
    after = keep_ranges(before, flow, precision, sizes)
    after = scale_weights(after, flow, precision)
    return list(zip(regions, after.values(), strict=True))


def two(gain: float, act: str = "Relu") -> Any:
    g = Graph([1, 8, 6, 5])
    one, last = ((g.rng.standard_normal((8, 8, 1, 1)) / 3).astype("f") for _ in range(2))
    x = g.op("Conv", "input", g.constant(one * np.float32(gain)), name="one")
    return g.model(g.op("Conv", g.op(act, x), g.constant(last), name="two"))


@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e3])
def test_usual_sizes_are_left(gain: float) -> None:
    for before, after in kept(two(gain)):
        assert after is before


def test_a_network_is_left() -> None:
    for before, after in kept(residual_net(1), {0: 2.0**12}):
        assert after is before


def test_nothing_is_done_for_bf16() -> None:
    for before, after in kept(two(1e-9), {0: 1e-9}, BF16):
        assert after is before


def test_an_input_is_scaled_and_its_weight_the_other_way() -> None:
    (before, after), _ = kept(two(1.0), {0: 1e-6, 1: 1.0})
    assert after.x_scale == 2.0**20
    assert after.sum_scale is not None
    real = after.weight * after.sum_scale[:, None, None, None] * after.x_scale
    np.testing.assert_array_equal(real, before.weight)
    assert 0.7 < np.abs(after.weight).max() < 1.5


def test_a_result_is_scaled_for_readers_that_undo_it() -> None:
    (one, first), (_, second) = kept(two(1.0), {1: 2.0**20})
    assert first.kept == ("result times 2**-20", "weights by channel")
    assert second.kept[0] == "x times 2**-20"
    assert not first.wide
    assert second.x_scale == 1
    assert first.sum_scale is not None
    np.testing.assert_array_equal(
        first.weight * first.sum_scale[:, None, None, None], one.weight / 2.0**20
    )


def test_a_result_stays_wide_where_no_scale_goes_through() -> None:
    (_, first), (_, second) = kept(two(1.0, "Softplus"), {1: 2.0**20})
    assert second.x_scale == 2.0**-20
    assert not first.wide  # Softplus is not in the kernel, and computes in fp32
    (_, first), (_, second) = kept(two(1.0, "Sigmoid"), {1: 2.0**-20})
    assert first.wide
    assert second.x_scale == 2.0**20


def test_a_gain_of_ten_is_not_multiplied_from_layer_to_layer() -> None:
    g, x = Graph([1, 8, 6, 5]), "input"
    for _ in range(12):
        x = g.op("AveragePool", g.conv(x, 8, 8, 1), kernel_shape=[1, 1])
        weight = g.initializers[-2]
        weight.raw_data = (np.frombuffer(weight.raw_data, "f") * np.float32(5)).tobytes()
    for before, after in kept(g.model(x)):
        assert after is before


@pytest.mark.parametrize("bias", [None, 0.5])
def test_a_channel_that_is_switched_off_is_left_between_layers(bias: float | None) -> None:
    g = Graph([1, 8, 6, 5])
    weight = (g.rng.standard_normal((8, 8, 3, 3)) / 9).astype("f")
    weight[3] *= np.float32(1e-9)
    biases = [] if bias is None else [g.constant(np.full(8, bias, "f"))]
    x = g.op("Relu", g.op("Conv", "input", g.constant(weight), *biases, pads=[1] * 4))
    (before, after), _ = kept(g.model(g.conv(x, 8, 8)))
    assert after is before


@pytest.mark.parametrize(
    ("largest", "power"),
    [(1.0, 1.0), (0.0, 1.0), (3e-8, 2.0**25), (6e7, 2.0**-26), (1e-30, 2.0**60), (1e30, 2.0**-60)],
)
def test_powers_of_two(largest: float, power: float) -> None:
    assert power_of_two(largest) == power
