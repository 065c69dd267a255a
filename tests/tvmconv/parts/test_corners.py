"""What crosses between parts, and what does not: constants, sequences, reads in branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.support.fallbacks import SHAPE, cumulated, typed
from tests.support.kernels import relative_l2
from tests.support.models import Graph, random_feed
from tests.support.reference import session
from tvmconv.errors import QuantizationError
from tvmconv.onnx.prepare import prepare
from tvmconv.parts.cut import cut
from tvmconv.reports.data.parts import NO_NUMBERS
from tvmconv.runtime.executable import Executable
from tvmconv.runtime.io_form import IoForm

BOUND = 5e-3


def agrees(model: onnx.ModelProto, tmp_path: Path, dtype: str = "float32") -> Executable:
    """The network, built, saved and loaded, after it gave what onnxruntime gives."""
    tvmconv.build(model, target="llvm").save(tmp_path / "saved")
    exe = tvmconv.load(tmp_path / "saved")
    whole = session(model)
    names = [output.name for output in whole.get_outputs()]
    for seed in (1, 2):
        feeds = {"input": random_feed(SHAPE, seed)["input"].astype(dtype)}
        outputs = exe.run(feeds)
        for name, right in zip(names, whole.run(names, feeds), strict=True):
            assert (outputs[name].shape, outputs[name].dtype) == (right.shape, right.dtype)
            assert relative_l2(outputs[name], right) < BOUND, name
    return exe


def quantised_weight(g: Graph, shape: tuple[int, ...]) -> str:
    numbers = g.rng.integers(-100, 100, shape, dtype=np.int8)
    return g.op("DequantizeLinear", g.constant(numbers), g.constant(np.array(0.01, "f")))


def summed(g: Graph, x: str, axis: int = 3) -> str:
    return g.op("CumSum", x, g.constant(np.array(axis, np.int64)))


def test_a_quantised_weight_is_where_it_is_multiplied(tmp_path: Path) -> None:
    """Not in the first part, from which it would come as a computed tensor."""
    g = Graph(SHAPE)
    x = summed(g, g.conv("input", 3, 8))
    x = g.op("Conv", x, quantised_weight(g, (16, 8, 3, 3)), pads=[1] * 4)
    exe = agrees(g.model(x), tmp_path)
    assert [part.side for part in exe.report.parts] == ["compiled", "onnxruntime", "compiled"]
    assert [one.name for one in exe.report.crossings] == ["conv_0", "cumsum_1"]
    assert all(conv.family == "wmma_nhwc" for conv in exe.report.convs)


def test_a_constant_of_several_parts_is_in_each(tmp_path: Path) -> None:
    g = Graph(SHAPE)
    stem = g.conv("input", 3, 8)
    weight = quantised_weight(g, (8, 8, 3, 3))
    first = g.op("Conv", stem, weight, pads=[1] * 4)
    again = g.op("Conv", summed(g, first), weight, pads=[1] * 4)
    model = g.model(again, summed(g, weight, 0))
    (graph,) = prepare(model, None, None, IoForm()).graphs
    parts = cut(graph.simple)
    assert [part.side for part in parts] == ["compiled", "onnxruntime", "compiled"]
    for part in parts:
        assert "DequantizeLinear" in [node.op_type for node in part.model.graph.node]
    given = [value.name for part in parts for value in part.model.graph.output]
    assert weight not in given
    assert "DequantizeLinear" not in [one.operator for one in parts[1].reasons]
    exe = agrees(model, tmp_path)
    fates = {one.operator: one.fate for one in exe.report.operators}
    assert not fates["DequantizeLinear"].startswith("in onnxruntime")


@pytest.mark.parametrize("read", [False, True])
def test_a_computed_constant_as_output(tmp_path: Path, read: bool) -> None:
    g = Graph(SHAPE)
    constant = quantised_weight(g, (8, 12))
    x = summed(g, g.conv("input", 3, 8))
    if read:
        x = g.op("Mul", x, g.op("Unsqueeze", constant, g.constant(np.array([2]))))
    agrees(g.model(x, constant), tmp_path)


def test_random_numbers_are_drawn_once() -> None:
    """They read nothing, and are no constants."""
    g = Graph(SHAPE)
    g.op("RandomNormal", shape=[1, 8, 12, 12], name="noise")
    first = g.op("Add", g.conv("input", 3, 8), "noise")
    last = g.op("Sub", g.conv(summed(g, first), 8, 8), "noise")
    (graph,) = prepare(g.model(last), None, None, IoForm()).graphs
    nodes = [node.op_type for part in cut(graph.simple) for node in part.model.graph.node]
    assert nodes.count("RandomNormal") == 1


def test_a_sequence_crosses(tmp_path: Path) -> None:
    """From one part of onnxruntime's to another, past a compiled one."""
    g = Graph(SHAPE)
    x = g.conv("input", 3, 8)
    pieces = g.op("SplitToSequence", x, axis=1)
    y = summed(g, g.conv(summed(g, x), 8, 1))
    model = g.model(g.op("ConcatFromSequence", g.op("SequenceInsert", pieces, y), axis=1))
    exe = agrees(model, tmp_path)
    (sequence,) = (one for one in exe.report.crossings if one.dtype == NO_NUMBERS)
    assert (sequence.source, sequence.readers, sequence.moved_bytes) == (2, (4,), None)
    assert "only a run decides how many bytes" in str(sequence)


def branching(g: Graph, first: str, second: str) -> str:
    """An If that reads both from outside, one in each branch."""
    branches = []
    for name, read in (("then", first), ("else", second)):
        out = helper.make_tensor_value_info(f"{name}_out", g.element, None)
        node = helper.make_node("Neg", [read], [out.name])
        branches.append(helper.make_graph([node], name, [], [out]))
    condition = g.op("Greater", g.op("ReduceSum", second, keepdims=0), g.constant(g.zero()))
    return g.op("If", condition, then_branch=branches[0], else_branch=branches[1])


class Half(Graph):
    """Of fp16, or another dtype."""

    def zero(self) -> Any:
        return np.array(0, self.dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_inputs_and_outputs_that_a_branch_reads(tmp_path: Path, dtype: str) -> None:
    """A model of fp16 is widened, also inside of its branches."""
    g = Half(SHAPE, dtype=dtype)
    x = g.conv("input", 3, 3)
    exe = agrees(g.model(branching(g, "input", x), x), tmp_path, dtype)
    assert [part.side for part in exe.report.parts] == ["compiled", "onnxruntime"]


def quantised_branching() -> onnx.ModelProto:
    """QDQ of the input, a weight and a result, which branches read in numbers and dequantised."""
    g = Half(SHAPE)
    scale, zero = g.constant(np.array(0.05, "f")), g.constant(np.array(0, np.int8))
    weight = quantised_weight(g, (3, 3, 3, 3))
    numbers = g.op("QuantizeLinear", "input", scale, zero)
    x = g.op("DequantizeLinear", numbers, scale, zero)
    x = g.op("Conv", x, weight, pads=[1] * 4)
    numbers = g.op("QuantizeLinear", g.op("Relu", x), scale, zero)
    x = g.op("DequantizeLinear", numbers, scale, zero)
    return g.model(g.op("Add", branching(g, "input", x), x))


def test_what_is_quantised_and_read_in_a_branch(tmp_path: Path) -> None:
    agrees(quantised_branching(), tmp_path)


def test_an_input_that_a_branch_reads_is_not_fed_in_numbers() -> None:
    with pytest.raises(QuantizationError, match="others read its real numbers"):
        tvmconv.build(quantised_branching(), target="llvm", io_dtype="int8")


def test_on_a_gpu_copies_are_counted_and_cost() -> None:
    report = tvmconv.inspect(cumulated(), target="cuda", arch="sm_90a").plan
    assert [one.copies for one in report.crossings] == [1, 1]
    size = 8 * 12 * 12 * 4
    assert [one.copy_us for one in report.crossings] == [pytest.approx(size / 25e3)] * 2
    line = f"copied between the GPU and the host, at 25 GB/s in at least {2 * size / 25e3:.3g} us"
    assert line in str(report)
    on_cpu = tvmconv.inspect(cumulated(), target="llvm").plan
    assert [one.copies for one in on_cpu.crossings] == [0, 0]
    assert "GPU" not in "\n".join(str(on_cpu).splitlines()[:5])


def test_what_compiled_parts_hand_each_other_stays_on_the_gpu() -> None:
    g = Graph(SHAPE)
    x = g.conv("input", 3, 8)
    last = g.op("Add", g.conv(summed(g, x), 8, 8), x)
    report = tvmconv.inspect(g.model(last), target="cuda", arch="sm_90a").plan
    first = report.crossings[0]
    assert (first.name, first.readers, first.copies) == (x, (2, 3), 1)


def test_the_reason_of_another_domain() -> None:
    g = Graph(SHAPE)
    x = g.op("Gelu", g.conv("input", 3, 8), domain="com.microsoft")
    model = g.model(x)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    plan = tvmconv.inspect(model, target="llvm").plan
    assert plan.parts[1].fallbacks[0].reason == "no operator of ONNX's own"


def thresholded(least: float) -> onnx.ModelProto:
    """Values of a convolution, and where they are over `least`."""
    g = Graph(SHAPE)
    x = g.conv("input", 3, 8, name="values")
    large = g.op("Greater", x, g.constant(np.array(least, "f")))
    return typed(g.model(x, g.op("NonZero", large, name="where")), where=TensorProto.INT64)


def test_an_output_of_another_size_is_an_error_and_not_another_model() -> None:
    """Rounding decides whether a value is over the threshold."""
    feeds = random_feed(SHAPE)
    (right, _) = session(thresholded(0)).run(None, feeds)
    ours = tvmconv.build(thresholded(0), target="llvm").run(feeds)["values"]
    at = np.unravel_index(np.argmax(ours - right), ours.shape)
    model = thresholded(float(right[at] + ours[at]) / 2)
    report = tvmconv.compare(model, tvmconv.build(model, target="llvm"), feeds)
    assert not report.passed(1.0)
    assert "values decide the size" in str(report)
    assert [one.passed(BOUND) for one in report.outputs] == [True, False]
