"""Networks with operators that can't be compiled give what onnxruntime gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import tvmconv
from tests.support.fallbacks import NETWORKS, SHAPE, undecided
from tests.support.kernels import relative_l2
from tests.support.models import random_feed
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
