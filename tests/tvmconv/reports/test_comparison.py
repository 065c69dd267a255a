"""`compare` measures what it says it measures, and lets nothing wrong pass."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support import networks
from tvmconv.errors import FeedError, ModelError
from tvmconv.reports.collect.comparison import difference
from tvmconv.reports.data.comparison import CompareReport, OutputDifference


def errors(ours: Any, reference: Any) -> OutputDifference:
    return difference("y", np.asarray(ours, "f4"), np.asarray(reference, "f4"))


def report(*outputs: OutputDifference) -> CompareReport:
    return CompareReport("llvm", "onnxruntime", outputs)


@pytest.fixture(scope="module")
def exe() -> Any:
    return tvmconv.build(networks.small(), target="llvm", batch=2)


# --- the measures ---------------------------------------------------------------------------
def test_measures_of_a_pair_worked_out_by_hand() -> None:
    found = errors([3, 5], [3, 4])
    assert found.relative_l2 == pytest.approx(1 / 5)
    assert found.max_abs == 1
    assert found.cosine == pytest.approx((9 + 20) / (math.sqrt(34) * 5))
    assert found.finite
    assert found.note == ""
    assert found.passed(0.2)
    assert not found.passed(0.19)


def test_the_largest_difference_is_found_below_zero_too() -> None:
    assert errors([1, -7], [1, 2]).max_abs == 9


def test_sums_do_not_overflow_in_the_outputs_dtype() -> None:
    ours, reference = np.full(1000, 6e4, "f2"), np.full(1000, 5.9e4, "f2")
    expected = float(ours[0]) / float(reference[0]) - 1
    assert difference("y", ours, reference).relative_l2 == pytest.approx(expected)


def test_a_zero_reference_has_no_relative_error_and_says_so() -> None:
    same, other = errors([0, 0], [0, 0]), errors([0, 1e-6], [0, 0])
    assert same.relative_l2 is other.relative_l2 is None
    assert "all zeros" in same.note
    assert "all zeros" in str(report(other))
    assert same.passed(5e-3)
    assert not other.passed(5e-3)
    assert report(same).relative_l2 == 0
    assert report(other).relative_l2 == math.inf


def test_a_reference_near_zero_is_noted() -> None:
    assert "near zero" in errors([1e-6, 1e-6], [1e-6, 1.1e-6]).note
    assert errors([1e-3, 0, 0], [1e-3, 0, 0]).note == ""


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(wrong: float) -> None:
    for found in (errors([1, wrong], [1, 2]), errors([1, wrong], [1, wrong])):
        assert not found.finite
        assert not found.passed(math.inf)
        assert report(found).relative_l2 == math.inf
        assert "NO" in str(report(found))
    assert "not finite" in errors([1, 2], [1, wrong]).note
    assert not errors([1, 2], [1, wrong]).passed(math.inf)


def test_the_report_speaks_for_its_worst_output() -> None:
    found = report(errors([1, 1], [1, 1]), errors([1, 1.1], [1, 1]))
    assert found.relative_l2 == found.outputs[1].relative_l2
    assert found.passed(0.1)
    assert not found.passed(0.05)


def test_json_has_no_nan() -> None:
    found = report(errors([1, math.nan], [1, 2]), errors([1], [2]))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["outputs"][0]["relative_l2"] is None
    assert json.loads(text)["outputs"][1]["relative_l2"] == 0.5


# --- against onnxruntime --------------------------------------------------------------------
def test_a_built_network_agrees_with_onnxruntime(exe: Any) -> None:
    found = tvmconv.compare(networks.small(), exe)
    assert [(out.name, out.shape) for out in found.outputs] == [
        ("wide/y", (2, 16, 6, 6)),
        ("pooled", (2, 16)),
    ]
    assert found.passed(), str(found)
    assert 0 < found.relative_l2 < 5e-3
    assert all(out.cosine and out.cosine > 0.9999 for out in found.outputs)
    assert "wide/y" in str(found)
    assert "2x16x6x6" in str(found)


def test_other_answers_are_seen(exe: Any) -> None:
    assert not tvmconv.compare(networks.small(relu=False), exe).passed()
    assert not tvmconv.compare(networks.small(seed=1), exe).passed()


def test_feeds_decide_what_is_compared(exe: Any) -> None:
    small = {"x:0": np.full((2, 3, 12, 12), 1e-3, "f4")}
    large = {"x:0": np.full((2, 3, 12, 12), 10, "f4")}
    errors = [
        tvmconv.compare(networks.small(), exe, feeds).outputs[0].max_abs for feeds in (small, large)
    ]
    assert errors[1] > 5 * errors[0]


@pytest.mark.parametrize("form", ["path", "bytes", "proto"])
def test_a_model_is_taken_as_build_takes_it(exe: Any, form: str, tmp_path: Any) -> None:
    onnx.save(networks.small(), tmp_path / "model.onnx")
    model = {
        "path": tmp_path / "model.onnx",
        "bytes": networks.small().SerializeToString(),
        "proto": networks.small(),
    }[form]
    assert tvmconv.compare(model, exe).passed()


def test_shapes_are_those_of_the_executable_where_build_overrode_the_models() -> None:
    model = networks.small(batch=1)
    exe = tvmconv.build(model, target="llvm", shapes={"x:0": (3, 3, 9, 7)})
    found = tvmconv.compare(model, exe)
    assert found.outputs[0].shape == (3, 16, 5, 4)
    assert found.passed(), str(found)


def test_an_executable_of_another_model_is_told(exe: Any) -> None:
    renamed = networks.small()
    renamed.graph.output[1].name = renamed.graph.node[-1].output[0] = "other"
    with pytest.raises(ModelError, match=r"'other'.*no such output"):
        tvmconv.compare(renamed, exe)
    finer = networks.small()
    (strides,) = (a for a in finer.graph.node[2].attribute if a.name == "strides")
    strides.ints[:] = [1, 1]
    with pytest.raises(ModelError, match=r"'wide/y'.*\(2, 16, 12, 12\).*\(2, 16, 6, 6\)"):
        tvmconv.compare(finer, exe)


def test_feeds_that_do_not_fit_are_refused_by_the_executable(exe: Any) -> None:
    with pytest.raises(FeedError, match="expected"):
        tvmconv.compare(networks.small(), exe, {"x:0": np.zeros((1, 3, 12, 12), "f4")})


def test_what_is_no_model_is_refused(exe: Any) -> None:
    with pytest.raises(ModelError, match="not an ONNX model"):
        tvmconv.compare(b"not a model at all", exe)
