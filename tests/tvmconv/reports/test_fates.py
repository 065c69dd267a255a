"""The fate of each ONNX node in a report, for networks whose kernels are known by construction."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import tvmconv
from benchmarks.zoo import zoo
from tests.support.models import Graph
from tvmconv.reports.data.build import BuildReport

KERNEL = "in the kernel of a convolution: "
WEIGHTS = "folded into the weights of a convolution: "
CONSTANT = "a constant, computed when built"
NOTHING = "did nothing, removed"


def planned(model: onnx.ModelProto) -> BuildReport:
    return tvmconv.inspect(model, arch="sm_90a", batch=1).plan


def fates(model: onnx.ModelProto) -> dict[str, str]:
    return {one.name: one.fate for one in planned(model).operators}


def hard_swish(g: Graph, x: str, name: str) -> str:
    """x * clip(x + 3, 0, 6) / 6, in four nodes."""
    three, six, zero = (g.constant(np.float32(n)) for n in (3, 6, 0))
    y = g.op("Clip", g.op("Add", x, three, name=f"{name}.add"), zero, six, name=f"{name}.clip")
    return g.op("Div", g.op("Mul", x, y, name=f"{name}.mul"), six, name=f"{name}.div")


def test_hard_swish_with_squeeze_and_excitation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block as of MobileNetV3."""
    monkeypatch.setenv("TVMCONV_GATE", "1")  # whatever this CPU's estimate says
    g = Graph([1, 16, 12, 12])
    x = hard_swish(g, g.conv("input", 16, 32, 1, name="expand"), "swish")
    s = g.op("GlobalAveragePool", x, name="squeeze")
    s = g.op("Relu", g.conv(s, 32, 16, 1, name="reduce"), name="relu")
    s = g.op("HardSigmoid", g.conv(s, 16, 32, 1, name="excite"), name="gate")
    x = g.op("Mul", x, s, name="scale")
    x = g.op("Add", g.conv(x, 32, 16, 1, name="project"), "input", name="residual")
    found = fates(g.model(g.op("GlobalAveragePool", x, name="end")))
    swish = {found[f"swish.{name}"] for name in ("add", "clip", "mul", "div")}
    assert swish == {KERNEL + "expand"}
    assert found["relu"] == KERNEL + "reduce"
    assert found["gate"] == KERNEL + "excite"
    assert found["residual"] == KERNEL + "project"
    for conv in ("expand", "reduce", "excite", "project"):
        assert found[conv].endswith(" kernel")
    assert found["scale"] == KERNEL + "project"
    for other in ("squeeze", "end"):
        assert "a kernel of TVM's" in found[other]


def test_scales_between_convolutions_are_in_the_weights() -> None:
    g = Graph([1, 16, 8, 8])
    scale = g.constant(g.rng.standard_normal((1, 16, 1, 1)).astype("f4"))
    x = g.conv("input", 16, 16, name="one")
    # Both nodes read by another one too, so that onnxruntime's simplification leaves them.
    x = g.op("Mul", x, scale, name="mul")
    x = g.op("Add", x, g.constant(np.float32(2)), name="add")
    x = g.op("Sub", x, g.constant(np.float32(1)), name="sub")
    x = g.op("Relu", x, name="relu")
    found = fates(g.model(g.conv(x, 16, 16, name="two")))
    assert {found[name] for name in ("mul", "add", "sub")} == {WEIGHTS + "one"}
    assert found["relu"] == KERNEL + "one"


def test_a_batch_norm_and_a_pad() -> None:
    g = Graph([1, 16, 8, 8])
    pads = g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    x = g.op("Pad", "input", pads, name="pad")
    x = g.conv(x, 16, 16, pads=[0] * 4, name="conv")
    numbers = [g.constant(np.abs(g.rng.standard_normal(16)).astype("f4")) for _ in range(4)]
    x = g.op("BatchNormalization", x, *numbers, name="norm")
    found = fates(g.model(g.op("Relu", x, name="relu")))
    assert found["norm"] == WEIGHTS + "conv"
    assert found["relu"] == KERNEL + "conv"
    assert found["pad"] in (KERNEL + "conv", "joined with another node: conv")


def test_what_does_nothing_or_is_constant() -> None:
    g = Graph([1, 16, 8, 8])
    x = g.op("Identity", "input", name="identity")
    x = g.op("Relu", g.conv(x, 16, 16, name="conv"), name="relu")
    x = g.op("Mul", x, g.constant(np.ones(1, "f4")), name="one")
    x = g.op("Cast", x, to=onnx.TensorProto.FLOAT, name="cast")
    shape = g.op("Shape", x, name="shape")
    first = g.op("Gather", shape, g.constant(np.array([0])), name="gather")
    shape = g.op("Concat", first, g.constant(np.array([-1])), axis=0, name="concat")
    found = fates(g.model(g.op("Sigmoid", g.op("Reshape", x, shape, name="flat"), name="end")))
    assert found["identity"] == NOTHING
    assert {found[name] for name in ("one", "cast")} == {NOTHING}
    assert {found[name] for name in ("shape", "gather", "concat")} == {CONSTANT}
    assert found["flat"].startswith(("no kernel", "in a kernel of TVM's"))


def test_equal_ones_are_merged() -> None:
    g = Graph([1, 16, 8, 8])
    x = g.conv("input", 16, 16, name="conv")
    one, two = (g.op("Exp", x, name=name) for name in ("one", "two"))
    found = fates(g.model(g.op("Tanh", one), g.op("Sin", two)))
    (kept,) = (name for name in ("one", "two") if "a kernel of TVM's" in found[name])
    (other,) = {"one", "two"} - {kept}
    assert found[other] == f"merged with an equal one: {kept}"


def test_a_softmax_in_another_shape_is_found() -> None:
    g = Graph([1, 4, 8, 8])
    x = g.op("Softmax", g.op("Relu", "input", name="relu"), axis=-1, name="softmax")
    report = planned(g.model(g.op("Exp", x, name="end")))
    assert any("softmax" in one.nodes for one in report.kernels)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        "light_shufflenet",
        pytest.param("rapidocr_rec", marks=pytest.mark.slow),
    ],
)
def test_no_node_that_computes_is_lost(network: str) -> None:
    """Each node is in one of the kernels, or it is a constant, or it moves elements."""
    report = planned(zoo.load(network))
    moves = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
    lost = [one for one in report.operators if one.fate.startswith(("no kernel", "unused"))]
    assert [one for one in lost if one.operator not in moves] == []
    # What the rows of kernels say, and what is said of nodes.
    within = {name for one in report.kernels for name in one.nodes}
    told = {one.name for one in report.operators if "kernel of TVM's" in one.fate}
    assert within & {one.name for one in report.operators} <= told
