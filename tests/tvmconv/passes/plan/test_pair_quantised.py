"""A depthwise convolution and the 1x1 one after it in one kernel, of a quantised network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

import tvmconv
from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload
from schedules.threads import emulator
from tests.support import emulated, quantized
from tests.support.models import Graph
from tests.tvmconv.passes.plan.test_pair_convs import (
    FUSED,
    SM_90A,
    bottleneck,
    clip,
    families,
    pair_costs,
)
from tvmconv.tuning.tune import workloads_of

SIZE = (2, 16, 9, 7)
on_cpu = pytest.mark.skipif(not emulator.available(), reason="no g++")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_PAIR", "1")


def block(stride: int = 1, k: int = 16) -> onnx.ModelProto:
    """An inverted residual whose input is a convolution's result, and so in 8 bits."""
    g = Graph(SIZE)
    return g.model(bottleneck(g, g.conv("input", 16, 16, 1, name="before"), 16, 48, k, stride))


def of_both_signs() -> onnx.ModelProto:
    """What the depthwise convolution pads has both signs: int8, or uint8 with a zero point. What it
    gives has none."""
    g = Graph(SIZE)
    expand = g.conv("input", 16, 48, 1, name="expand")
    deep = g.conv(expand, 48, 48, group=48, name="deep")
    return g.model(g.conv(clip(g, deep), 48, 24, 1, name="project"))


def images(count: int = 4) -> list[Any]:
    rng = np.random.default_rng(0)
    return [{"input": rng.standard_normal(SIZE).astype(np.float32)} for _ in range(count)]


def quantised(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    return tvmconv.quantize(model, images(), method="minmax", **options).proto


def static(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """By onnxruntime: activations in uint8."""
    return quantized.static(
        model,
        folder,
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def off(model: onnx.ModelProto) -> float:
    """How far what the kernels of sm_90a give is from onnxruntime, over what that gives."""
    x = images()[0]["input"]
    (got,) = emulated.run(model, SM_90A, x)
    (right,) = quantized.run(model, {"input": x}).values()
    return float(np.linalg.norm(got - right) / np.linalg.norm(right))


@pytest.mark.usefixtures("always")
def test_a_quantised_block_is_reported_as_two_kernels() -> None:
    report = tvmconv.inspect(quantised(block()), arch="sm_90a", records=False).plan
    convs = {conv.name: conv for conv in report.convs}
    deep, project = convs["deep"], convs["project"]
    assert project.family == deep.family == "depthwise_projection"
    assert (deep.part_of, deep.multiplies, project.multiplies) == ("project",) + ("u8 x s8",) * 2
    assert not deep.floats_because
    assert not project.floats_because
    assert project.epilogue == "bias + residual"
    (text,) = project.workloads
    first, then = ConvWorkload.from_json(text).apart
    assert (first.precision.x, first.precision.result, then.precision.x) == ("uint8",) * 3
    assert (then.precision.result, then.precision.added) == ("float16", "int8")
    assert first.precision.scales == ("scale",)
    assert {one.name: one.fate for one in report.operators}["deep"] == FUSED
    counts = workloads_of(report)
    assert all(counts[one.to_json()] == 1 for one in (first, then, ConvWorkload.from_json(text)))


@on_cpu
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "model",
    [block(), block(2, 24), of_both_signs()],
    ids=["residual", "stride 2", "int8 to uint8"],
)
def test_a_quantised_block_is_right(model: onnx.ModelProto) -> None:
    model = quantised(model)
    assert "deep" not in families(model)
    assert off(model) < dtypes.FP16.unit  # as which the result is read


@on_cpu
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("model", [block, of_both_signs])
def test_zero_points_are_in_the_biases(model: Any, tmp_path: Path) -> None:
    """Of x, which is padded before, and of what is between."""
    found = static(model(), tmp_path)
    assert families(found)["project"] == "depthwise_projection"
    assert off(found) < 1e-5


def test_the_estimate_decides() -> None:
    model = quantised(block())
    assert "deep" not in families(model, estimate=pair_costs(0.01))
    assert families(model, estimate=pair_costs(100.0))["deep"] == "depthwise_dp4a"


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kept", ["deep", "project"])
def test_floats_and_integers_are_no_pair(kept: str) -> None:
    assert families(quantised(block(), keep=[kept]))["project"] != "depthwise_projection"


@pytest.mark.usefixtures("always")
def test_who_else_reads_the_numbers_forbids_it() -> None:
    g = Graph(SIZE)
    x = clip(g, g.conv("input", 16, 48, 1, name="expand"))
    deep = clip(g, g.conv(x, 48, 48, group=48, name="deep"))
    both = [g.conv(deep, 48, 16, 1, name=name) for name in ("project", "other")]
    found = families(quantised(g.model(*both)))
    assert found["deep"] == "depthwise_dp4a"
    assert "depthwise_projection" not in found.values()


@pytest.mark.usefixtures("always")
def test_on_a_cpu_nothing_is_paired_and_all_is_right() -> None:
    model = quantised(block())
    exe = tvmconv.build(model, "llvm")
    assert {one.name: one.family for one in exe.report.convs}["deep"] == "depthwise"
    got = exe(images()[0]["input"])
    (right,) = quantized.run(model, images()[0]).values()
    np.testing.assert_allclose(got, right, atol=0.02 * float(np.abs(right).max()))


@pytest.mark.gpu
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("model", [block, of_both_signs])
def test_a_pair_on_a_gpu(model: Any, tmp_path: Path) -> None:
    found = static(model(), tmp_path)
    exe = tvmconv.build(found, target="cuda", records=False)
    assert any(one.part_of == "project" for one in exe.report.convs)
    got = exe(images()[0]["input"])
    (right,) = quantized.run(found, images()[0]).values()
    assert np.linalg.norm(got - right) < 0.02 * np.linalg.norm(right)
