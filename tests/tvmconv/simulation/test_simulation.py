"""Whole networks on the simulated tensor core: their outputs, errors, instructions and cycles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import tvmconv
from intrinsics.numerics import arithmetic as numerics
from tests.support import quantized
from tests.support.models import Graph, random_feed, residual_net
from tests.support.qdq import S8, U8, conv, pair
from tvmconv.errors import FeedError, TuningError, TvmconvError
from tvmconv.reports.data.simulation import OutputError, SimulationReport
from tvmconv.simulation import simulate as simulation

SIZE = (1, 3, 21, 21)
FEED = random_feed(SIZE)


def mixed_net() -> onnx.ModelProto:
    """A stem, a depthwise convolution, groups, a branch written in place, a transposed one."""
    g = Graph([1, 3, 12, 10])
    x = g.op("Relu", g.conv("input", 3, 32, 3, strides=[2, 2], name="stem"))
    x = g.op("Relu", g.conv(x, 32, 32, group=32, name="depthwise"))
    x = g.op("Concat", g.conv(x, 32, 24, 1), g.conv(x, 32, 40, group=4), axis=1)
    weight = g.constant(g.rng.standard_normal((64, 16, 2, 2)).astype(np.float32) / 16)
    x = g.op("ConvTranspose", x, weight, strides=[2, 2], name="up")
    return g.model(g.op("Sigmoid", g.conv(x, 16, 8), name="output"))


def reference(model: onnx.ModelProto, feed: dict[str, Any]) -> Any:
    (output,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    return output


def error(got: Any, expected: Any) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


#: Each by other numerics in fp32 activations: one network by all, the other by one of them.
WIDE = ("ieee", "v100", "h100")


@pytest.mark.parametrize(
    ("model", "size", "wide_by"),
    [
        (residual_net(1, size=21), SIZE, WIDE[-1:]),
        pytest.param(residual_net(1, size=21), SIZE, WIDE, marks=pytest.mark.slow),
        pytest.param(mixed_net(), (1, 3, 12, 10), WIDE[-1:], marks=pytest.mark.slow),
        pytest.param(mixed_net(), (1, 3, 12, 10), WIDE, marks=pytest.mark.slow),
    ],
    ids=["residual", "residual, by all", "mixed", "mixed, by all"],
)
def test_ieee_is_llvm_and_a_chip_is_near(
    model: onnx.ModelProto, size: tuple[int, ...], wide_by: tuple[str, ...]
) -> None:
    feed = random_feed(size)
    emulated = tvmconv.build(model, "llvm").run(feed)["output"]
    ieee, v100 = (
        tvmconv.build(model, "hmma-sim", numerics=name).run(feed)["output"]
        for name in ("ieee", "v100")
    )
    assert np.array_equal(ieee, emulated)
    # Sums of some hundred products lose a few of 2**23 parts of the largest each, which flips the
    # last bit of a few fp16 activations: less than if all of them were off by half of that bit.
    assert error(v100, emulated) < 2.0**-11
    expected = reference(model, feed)
    wide = [
        tvmconv.build(model, "hmma-sim", numerics=name, activations="float32").run(feed)["output"]
        for name in wide_by
    ]
    assert len({one.tobytes() for one in wide}) == len(wide_by), (
        "nothing rounds the differences away"
    )
    assert all(error(one, expected) < 1e-3 for one in (v100, *wide))


def test_it_is_the_sums_of_the_chip() -> None:
    g = Graph([2, 16, 5, 6])
    model = g.model(g.conv("input", 16, 24, bias=False, name="output"))
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
    feed = random_feed((2, 16, 5, 6))
    padded = np.pad(feed["input"], [(0, 0), (0, 0), (1, 1), (1, 1)]).astype(np.float16)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    a = windows.transpose(0, 2, 3, 4, 5, 1).reshape(-1, 1, 9 * 16)
    b = weight.transpose(0, 2, 3, 1).reshape(1, 24, 9 * 16)
    sums = numerics.fused(a, b, np.zeros((60, 24), np.float32), numerics.V100)
    expected = sums.reshape(2, 5, 6, 24).transpose(0, 3, 1, 2)
    found = tvmconv.build(model, "hmma-sim", activations="float32").run(feed)["output"]
    assert np.array_equal(found, expected)
    halved = tvmconv.build(model, "hmma-sim").run(feed)["output"]
    assert np.array_equal(halved, expected.astype(np.float16))


def test_activations_between_layers_keep_fp32_where_asked() -> None:
    """y = x W + x: with fp32 activations only the x that is multiplied is rounded."""
    g = Graph([1, 16, 4, 4])
    x = g.op("Add", "input", "input")
    model = g.model(g.op("Add", g.conv(x, 16, 16, 1, bias=False), x, name="output"))
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])[:, :, 0, 0].astype(np.float16)
    feed = random_feed((1, 16, 4, 4))
    x = 2 * feed["input"]
    a = x.astype(np.float16).transpose(0, 2, 3, 1).reshape(16, 16)
    product = numerics.matmul(a, weight.T.copy(), np.zeros((16, 16), np.float32), numerics.V100)
    expected = product.reshape(1, 4, 4, 16).transpose(0, 3, 1, 2) + x
    outputs = {
        kept: tvmconv.build(model, "hmma-sim", activations=kept).run(feed)["output"]
        for kept in ("float16", "float32")
    }
    assert np.array_equal(outputs["float32"], expected)
    assert not np.array_equal(outputs["float16"], expected)


@pytest.mark.slow
def test_saved_and_loaded_and_reported(tmp_path: Path) -> None:
    exe = tvmconv.build(residual_net("n", size=21), "hmma-sim", batch=[1, 2], numerics="a100")
    exe.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    three = {"input": np.concatenate([random_feed(SIZE, seed)["input"] for seed in range(3)])}
    assert np.array_equal(loaded.run(three)["output"], exe.run(three)["output"])
    assert "on tensor cores (simulated)" in str(loaded.report)
    assert {conv.family for conv in loaded.report.convs} == {"hmma_sim"}
    assert {conv.config for conv in loaded.report.convs} == {"a100"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "hmma-sim", "numerics": "b200"}, "no numerics 'b200'.*\n.*one of exact, ieee"),
        ({"target": "hmma-sim", "activations": "bfloat16"}, "one of float16, float32"),
        ({"target": "llvm", "numerics": "v100"}, 'target="hmma-sim"'),
        ({"target": "llvm", "activations": "float32"}, 'target="hmma-sim"'),
        ({"target": "hmma_sim"}, "one of cuda, llvm, hmma-sim"),
    ],
)
def test_what_can_not_be_simulated(options: dict[str, str], said: str) -> None:
    with pytest.raises(TvmconvError, match=said):
        tvmconv.build(residual_net(1), **options)


def test_a_simulation_is_not_tuned() -> None:
    with pytest.raises(TuningError, match="not tuned"):
        tvmconv.tune(residual_net(1), "hmma-sim")


# --- the report -----------------------------------------------------------------------------
def test_errors_are_those_of_the_formula() -> None:
    """By hand: ||(3, 4)|| = 5 and 7, ||(0, 12)|| = 12; differences (0, 1) and (3, -4)."""
    sums = simulation._Sums()
    sums.add(np.array([[3.0, 4.0]]), np.array([[3.0, 5.0]]))
    sums.add(np.array([[0.0, 12.0]]), np.array([[3.0, 8.0]]))
    found = sums.error("y", 2)
    assert (found.name, found.shape) == ("y", (1, 2))
    assert found.reference_norm == pytest.approx((5 + 12) / 2)
    assert found.simulated_norm == pytest.approx((34**0.5 + 73**0.5) / 2)
    assert found.absolute_1 == pytest.approx((1 + 7) / 2)
    assert found.absolute_2 == pytest.approx((1 + 5) / 2)
    assert found.f_1 == pytest.approx(100 * (1 + 7) / (7 + 12))
    assert found.f_2 == pytest.approx(100 * (1 + 5) / (5 + 12))


def test_a_reference_of_zeros_has_no_relative_error() -> None:
    sums = simulation._Sums()
    sums.add(np.zeros(3), np.ones(3))
    report = SimulationReport("v100", "float16", "nothing", 1, (sums.error("y", 1),), ())
    (output,) = json.loads(json.dumps(report.to_json(), allow_nan=False))["outputs"]
    assert (output["f_2"], output["absolute_1"]) == (None, 3)
    assert "y: the reference is all zeros" in str(report)


@pytest.fixture(scope="module")
def report() -> SimulationReport:
    images = [random_feed(SIZE, seed) for seed in range(2)]
    return tvmconv.simulate(residual_net("n", size=21), images)


def test_the_errors_of_a_network(report: SimulationReport) -> None:
    model = residual_net("n", size=21)
    exe = tvmconv.build(model, "hmma-sim", batch=1)
    feeds = [random_feed(SIZE, seed) for seed in range(2)]
    x, y = (
        np.concatenate([one.astype(np.float64) for one in outputs])
        for outputs in (
            [reference(model, feed) for feed in feeds],
            [exe.run(feed)["output"] for feed in feeds],
        )
    )
    (output,) = report.outputs
    assert isinstance(output, OutputError)
    each = np.linalg.norm(x - y, axis=1).sum(), np.linalg.norm(x, axis=1).sum()
    assert output.f_2 == pytest.approx(100 * each[0] / each[1])
    assert output.simulated_norm == pytest.approx(np.linalg.norm(y, axis=1).mean())
    assert 0 < output.f_2 < 0.2
    assert report.images == 2


def test_instructions_and_cycles_are_counted(report: SimulationReport) -> None:
    """The stem: 11 x 11 pixels are 8 tiles, its 7 rows of 7 x 3 columns are 14 WMMAs each."""
    stem, *_, last = report.layers
    assert (stem.rows, stem.columns, stem.steps) == (128, 16, 14)
    assert (stem.wmmas, stem.instructions) == (8 * 14, 16 * 8 * 14)
    # Of 8 warps two are on each sub-core, where a WMMA of both takes 64 cycles.
    assert 14 * 64 <= stem.sm_cycles < 14 * 64 + 64
    # Alone on their multiprocessors: 40 cycles a WMMA, the last one 54.
    assert stem.chip_cycles == 13 * 40 + 54
    assert (last.wmmas, last.instructions, last.sm_cycles, last.chip_cycles) == (1, 16, 54, 54)
    lines = str(report).splitlines()
    total = sum(one.instructions for one in report.layers)
    assert next(line for line in lines if line.startswith("all")).split()[2] == str(total)
    assert lines[0].startswith("simulated: v100, fp16 activations, 2 images, against onnxruntime")


def test_of_other_chips_cycles_are_not_known() -> None:
    found = tvmconv.simulate(mixed_net(), [random_feed((1, 3, 12, 10))], numerics="h100")
    assert all(one.instructions == 2 * one.wmmas for one in found.layers)
    assert all(one.sm_cycles is one.chip_cycles is None for one in found.layers)
    assert found.others == ("depthwise",)
    assert "not on tensor cores: depthwise" in str(found)
    grouped = next(one for one in found.layers if "4 groups" in one.shape)
    assert (grouped.rows, grouped.columns, grouped.wmmas) == (32, 64, 2 * 4 * 9)
    ieee = tvmconv.simulate(mixed_net(), [random_feed((1, 3, 12, 10))], numerics="ieee")
    assert all(one.instructions is None for one in ieee.layers)


def test_images_are_needed_and_have_to_fit() -> None:
    with pytest.raises(FeedError, match="no images"):
        tvmconv.simulate(residual_net(1), [])
    g = Graph([1, 3, 12, 12])
    with pytest.raises(FeedError, match="expected float32"):
        tvmconv.simulate(g.model(g.conv("input", 3, 8)), [random_feed((1, 3, 5, 5))])


@pytest.mark.parametrize("activations", ["float16", "float32"])
def test_sums_of_integers_are_exact_and_not_simulated(activations: str) -> None:
    g = Graph([1, 16, 6, 7])
    x = conv(g, pair(g, "input", 0.03, S8(-7)), name="integers")
    x = conv(g, pair(g, g.op("Relu", x), 0.03), zero=U8(90), name="past_int8")
    model = g.model(pair(g, x, 0.04))
    exe = tvmconv.build(model, "hmma-sim", activations=activations)
    assert [one.name for one in simulation.simulated_layers(exe, "v100")] == ["past_int8"]
    feed = random_feed((1, 16, 6, 7))
    (got,), (wanted,) = exe.run(feed).values(), quantized.run(model, feed).values()
    off = np.abs(got - wanted) / 0.04
    assert off.max() < 1.01
    assert (off > 0.5).mean() <= 0.05
