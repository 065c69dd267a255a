"""Networks with operators that can't be compiled give what onnxruntime gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import tvmconv
from tests.support.fallbacks import NETWORKS, SHAPE, undecided
from tests.support.kernels import relative_l2
from tests.support.models import Graph, random_feed
from tests.support.reference import session
from tvmconv.reports.data.build import BuildReport

BOUND = 5e-3


def expected(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, NDArray[Any]]:
    whole = session(model)
    names = [output.name for output in whole.get_outputs()]
    return dict(zip(names, whole.run(names, feeds), strict=True))


def agree(got: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]]) -> None:
    assert list(got) == list(right)
    for name, array in right.items():
        assert got[name].dtype == array.dtype
        if array.dtype.kind == "f":
            assert relative_l2(got[name], array) < BOUND, name
        else:
            np.testing.assert_array_equal(got[name], array, name)


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_onnxruntime_also_when_saved_and_loaded(name: str, tmp_path: Path) -> None:
    make, sides = NETWORKS[name]
    model = make()
    exe = tvmconv.build(model, target="llvm")
    counted = [part.side for part in exe.report.parts]
    assert (counted.count("compiled"), counted.count("onnxruntime")) == sides
    assert name in {one.operator for part in exe.report.parts for one in part.fallbacks}
    exe.save(tmp_path / "saved")
    loaded = tvmconv.load(tmp_path / "saved")
    assert loaded.report == exe.report
    assert loaded.outputs == exe.outputs
    assert BuildReport.from_json(exe.report.to_json()) == exe.report
    for seed in (1, 2, 3):
        feeds = random_feed(SHAPE, seed)
        outputs = exe.run(feeds)
        agree(outputs, expected(model, feeds))
        for key, array in loaded.run(feeds).items():
            np.testing.assert_array_equal(array, outputs[key])
        for spec in exe.outputs:
            sizes = zip(outputs[spec.name].shape, spec.shape, strict=True)
            assert all(size == said or said == -1 for size, said in sizes)


def test_open_dimensions_of_outputs_are_said() -> None:
    exe = tvmconv.build(NETWORKS["NonMaxSuppression"][0](), target="llvm")
    assert [spec.shape for spec in exe.outputs] == [(1, 9, 4), (-1, 3), (1, -1, 4)]
    assert "kept: int64[?, 3]" in repr(exe)


def test_nothing_is_found() -> None:
    """No score is over the threshold: tensors behind have no elements."""
    model = NETWORKS["NonMaxSuppression"][0]()
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [1] and onnx.numpy_helper.to_array(tensor)[0] == np.float32(0.3):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1], "f"), tensor.name))
    outputs = tvmconv.build(model, target="llvm").run(random_feed(SHAPE))
    assert outputs["kept"].shape == (0, 3)
    assert outputs["found"].shape == (1, 0, 4)


def test_both_branches_of_an_undecided_if_are_taken() -> None:
    exe = tvmconv.build(undecided(), target="llvm")
    bias = {"input": np.full(SHAPE, 3, "f")}, {"input": np.full(SHAPE, -3, "f")}
    for feeds in bias:
        agree(exe.run(feeds), expected(undecided(), feeds))


def test_branches_of_a_network_in_fp16() -> None:
    model = undecided("float16")
    feeds = random_feed(SHAPE, dtype="float16")
    outputs = tvmconv.build(model, target="llvm").run(feeds)
    agree(outputs, expected(model, feeds))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_outputs_that_are_inputs_or_constants_or_listed_twice(dtype: str) -> None:
    g = Graph(SHAPE, dtype=dtype)
    x = g.conv("input", 3, 8)
    constant = g.constant(np.arange(3, dtype=dtype), "constant")
    sums = g.op("CumSum", x, g.constant(np.array(3, np.int64)))
    model = g.model("input", constant, sums, sums)
    feeds = random_feed(SHAPE, dtype=dtype)
    exe = tvmconv.build(model, target="llvm")
    assert exe.in_parts
    outputs = exe.run(feeds)
    assert {array.dtype for array in outputs.values()} == {np.dtype(dtype)}
    np.testing.assert_array_equal(outputs["input"], feeds["input"])
    np.testing.assert_array_equal(outputs["constant"], np.arange(3))
    assert outputs[sums].shape == (1, 8, 12, 12)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_branches_read_the_networks_inputs_and_outputs(dtype: str) -> None:
    """What a branch takes from outside is renamed where fp16 is widened."""
    g = Graph([1, 8, 12, 12], dtype=dtype)
    x = g.conv("input", 8, 8)
    branches = []
    for operator in ("Mul", "Sub"):
        out = helper.make_tensor_value_info(operator, g.element, [1, 8, 12, 12])
        node = helper.make_node(operator, [x, "input"], [operator])
        branches.append(helper.make_graph([node], operator, [], [out]))
    total = g.op("ReduceSum", x, keepdims=0)
    condition = g.op("Greater", total, g.constant(np.array(0, dtype)))
    y = g.op("If", condition, then_branch=branches[0], else_branch=branches[1])
    model = g.model(x, y)
    feeds = random_feed([1, 8, 12, 12], dtype=dtype)
    agree(tvmconv.build(model, target="llvm").run(feeds), expected(model, feeds))


def test_a_quantised_network() -> None:
    """Integers on both sides of what onnxruntime runs, and in a branch."""
    g = Graph([1, 8, 12, 12])
    scale, zero = g.constant(np.array(0.05, "f")), g.constant(np.array(0, np.int8))

    def rounded(name: str) -> str:
        return g.op("DequantizeLinear", g.op("QuantizeLinear", name, scale, zero), scale, zero)

    def conv(name: str) -> str:
        numbers = g.constant(g.rng.integers(-128, 128, (8, 8, 3, 3), np.int8))
        weight = g.op("DequantizeLinear", numbers, g.constant(np.array(0.002, "f")), zero)
        return g.op("Conv", rounded(name), weight, pads=[1, 1, 1, 1])

    x = rounded(conv("input"))
    branches = []
    for operator in ("Abs", "Neg"):
        out = helper.make_tensor_value_info(operator, TensorProto.FLOAT, [1, 8, 12, 12])
        node = helper.make_node(operator, [x], [operator])
        branches.append(helper.make_graph([node], operator, [], [out]))
    condition = g.op("Greater", g.op("ReduceSum", x, keepdims=0), g.constant(np.array(0, "f")))
    y = g.op("If", condition, then_branch=branches[0], else_branch=branches[1])
    y = g.op("CumSum", g.op("Add", x, y), g.constant(np.array(3, np.int64)))
    model = g.model(conv(y))
    exe = tvmconv.build(model, target="llvm")
    assert exe.in_parts
    assert exe.report.in_int8 == 2
    report = tvmconv.compare(model, exe)
    assert report.passed(BOUND), report


def test_on_a_simulated_tensor_core() -> None:
    exe = tvmconv.build(NETWORKS["TopK"][0](), target="hmma-sim", numerics="ieee")
    feeds = random_feed(SHAPE)
    agree(exe.run(feeds), expected(NETWORKS["TopK"][0](), feeds))


def test_compare_map_and_call_take_it() -> None:
    model = NETWORKS["CumSum"][0]()
    exe = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, exe).passed()
    feeds = [random_feed(SHAPE, seed) for seed in (1, 2)]
    for fed, outputs in zip(feeds, exe.map(feeds), strict=True):
        np.testing.assert_array_equal(*outputs.values(), exe(fed["input"]))


def test_bench_times_the_parts() -> None:
    exe = tvmconv.build(NETWORKS["CumSum"][0](), target="llvm")
    report = tvmconv.bench(exe, warmup_ms=1, min_runs=3, min_seconds=0.01)
    names = {one.name for one in report.layers}
    assert names == {"part 1: compiled", "part 2: onnxruntime", "part 3: compiled"}
    assert all(one.us > 0 for one in report.layers)


def test_tensors_of_another_library() -> None:
    class Borrowed:
        """An array that speaks DLPack and nothing else."""

        def __init__(self, array: NDArray[Any]) -> None:
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __dlpack__(self, **how: Any) -> Any:
            return self.array.__dlpack__(**how)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    exe = tvmconv.build(NETWORKS["TopK"][0](), target="llvm")
    feeds = random_feed(SHAPE)
    borrowed = exe.run({"input": Borrowed(feeds["input"])})
    for name, array in exe.run(feeds).items():
        np.testing.assert_array_equal(borrowed[name].numpy(), array)
