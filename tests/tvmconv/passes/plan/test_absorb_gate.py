"""Gates of squeeze-and-excite that the convolution behind them multiplies by, and where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from schedules.choose import Policy
from schedules.machine.cost import Cost
from schedules.machine.hardware import CUDA_ARCHS
from tests.support.models import Graph, random_feed
from tvmconv.errors import TvmconvError
from tvmconv.onnx import frontend, kinds
from tvmconv.onnx import model as onnx_model
from tvmconv.passes import pipeline
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.plan import Plan, plan
from tvmconv.passes.regions.anchors import anchors
from tvmconv.passes.regions.regions import find_regions

C = 24


def squeeze(
    n: int = 2, size: int = 12, gate: str = "Sigmoid", first: bool = False
) -> tuple[Graph, str, str]:
    """A graph up to the product of a depthwise convolution and its gate; the names of both.

    first: the gate is the product's first operand.
    """
    g = Graph([n, C, size, size - 2])
    x = g.op("Relu", g.conv("input", C, C, group=C, name="depthwise"))
    mean = g.op("GlobalAveragePool", x)
    y = g.op("Relu", g.conv(mean, C, 8, 1, name="squeeze"))
    y = g.op(gate, g.conv(y, 8, C, 1, name="excite"))
    return g, x, g.op("Mul", *((y, x) if first else (x, y)), name="product")


def last(g: Graph, x: str, **attributes: Any) -> onnx.ModelProto:
    return g.model(g.conv(x, C, 16, attributes.pop("r", 1), name="last", **attributes))


def fates(model: onnx.ModelProto, **how: Any) -> dict[str, str]:
    report = tvmconv.inspect(model, **{"target": "llvm", **how}).plan
    return {one.name: one.fate for one in report.operators}


ABSORBED = "in the kernel of a convolution: last"


def test_it_is_said_that_the_product_has_no_kernel() -> None:
    model = last(*squeeze()[::2])
    report = tvmconv.inspect(model, target="llvm").plan
    assert fates(model)["product"] == ABSORBED
    assert not any("multiply" in one.name for one in report.kernels)
    conv = next(one for one in report.convs if one.name == "last")
    assert conv.shape.endswith("gated")
    # x, a gate, a weight, the output.
    elements = 2 * 12 * 10 * (C + 16) + 2 * C + C * 16
    assert conv.moved_bytes == 2 * elements


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("gate", "how", "first"),
    [
        pytest.param("HardSigmoid", {}, True, id="1x1"),
        pytest.param("Sigmoid", {}, False, id="the map first", marks=SLOW),
        pytest.param("Sigmoid", {"r": 3, "strides": [2, 1]}, False, id="3x3", marks=SLOW),
    ],
)
def test_the_same_bits_as_with_a_kernel_for_the_product(
    gate: str, how: dict[str, Any], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    g, _, x = squeeze(gate=gate, first=first)
    model = last(g, x, **how)
    results = []
    for knob in ("1", "0"):
        monkeypatch.setenv("TVMCONV_GATE", knob)
        assert (fates(model)["product"] == ABSORBED) is (knob == "1")
        exe = tvmconv.build(model, target="llvm")
        assert tvmconv.compare(model, exe).passed(5e-3)
        results += exe.run(random_feed((2, C, 12, 10))).values()
    np.testing.assert_array_equal(*results)


def read_twice(g: Graph, x: str, t: str) -> onnx.ModelProto:
    return g.model(g.conv(t, C, 16, 1, name="last"), g.op("Sigmoid", t))


def grouped(g: Graph, x: str, t: str) -> onnx.ModelProto:
    return last(g, t, group=2)


def added(g: Graph, x: str, t: str) -> onnx.ModelProto:
    """The convolution's own residual reads the product too."""
    return g.model(g.op("Add", g.conv(t, C, C, 1, name="last"), t))


def pooled(g: Graph, x: str, t: str) -> onnx.ModelProto:
    """Another shape is read."""
    return last(g, g.op("MaxPool", t, kernel_shape=[2, 2]))


def two_maps(g: Graph, x: str, t: str) -> onnx.ModelProto:
    """The second factor is no gate, but a map."""
    return last(g, g.op("Mul", x, g.op("Tanh", x), name="both"))


DECLINED = pytest.mark.parametrize("write", [read_twice, grouped, added, pooled, two_maps])


@DECLINED
def test_declined(write: Callable[..., onnx.ModelProto]) -> None:
    report = tvmconv.inspect(write(*squeeze()), target="llvm").plan
    assert not any("gated" in one.shape for one in report.convs)


@SLOW
@DECLINED
def test_declined_and_right(write: Callable[..., onnx.ModelProto]) -> None:
    model = write(*squeeze())
    assert tvmconv.compare(model, tvmconv.build(model, target="llvm")).passed(5e-3)


def test_declined_where_no_family_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_GATE", "auto")
    model = last(*squeeze(n=32, size=112)[::2])
    found = [fates(model, target="cuda", arch=arch)["product"] for arch in ("sm_80", "sm_90a")]
    assert found == ["a kernel of TVM's", ABSORBED]
    only = fates(model, target="cuda", arch="sm_90a", families=["mma_sync", "depthwise", "direct"])
    assert only["product"] == "a kernel of TVM's"
    assert fates(model, layout="packed")["product"] == "a kernel of TVM's"


def test_declined_what_fp16_does_not_hold() -> None:
    """x is kept in fp32, and the product would be rounded to fp16 from that alone."""
    g, _, x = squeeze()
    weight = next(one for one in g.initializers if list(one.dims) == [C, 1, 3, 3])
    array = np.frombuffer(weight.raw_data, np.float32) * 1e7
    weight.raw_data = array.astype(np.float32).tobytes()
    model = last(g, x)
    assert fates(model)["product"] != ABSORBED
    assert tvmconv.compare(model, tvmconv.build(model, target="llvm")).passed(5e-3)


def planned(estimate: Any) -> Plan:
    model = last(*squeeze()[::2])
    simple = frontend.simplify(onnx_model.fix_shapes(onnx_model.read(model)))
    mod = pipeline.run(frontend.to_relax(simple), pipeline.GRAPH_PASSES, "test")
    named = list(zip(anchors(mod), kinds.convolutions(simple), strict=True))
    mod = pipeline.run(mod, pipeline.TIDY_PASSES, "test")
    hardware = next(one for one in CUDA_ARCHS if one.name == "sm_90a")
    return plan(mod, find_regions(mod, named), Chooser(hardware, Policy(estimate=estimate)))


@pytest.mark.parametrize(("us", "absorbed"), [(1.0, True), (1000.0, False)])
def test_the_estimate_decides_where_it_may(
    us: float, absorbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product's kernel takes two microseconds at least."""
    monkeypatch.setenv("TVMCONV_GATE", "auto")

    def estimate(w: Any, *_: Any) -> Cost:
        return Cost(10.0 + us * w.gate, "DRAM")

    def gated() -> bool:
        regions = {one.name: one.region for one in planned(estimate).values()}
        return regions["last"].gate is not None

    assert gated() is absorbed
    # On a GPU it has to be asked for.
    monkeypatch.delenv("TVMCONV_GATE")
    assert not gated()


def test_another_value_of_the_knob_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_GATE", "yes")
    with pytest.raises(TvmconvError, match="one of 0, 1, auto"):
        fates(last(*squeeze()[::2]))
