"""Refusals name their cause, and nothing but them reaches the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.support.checks import DIRECT, refused
from tests.support.models import Graph
from tvmconv import errors
from tvmconv.onnx import operators


@pytest.mark.parametrize("taken", ["input.wide", "input.wide_", "output.wide"])
def test_an_fp16_model_with_names_like_ours(taken: str) -> None:
    g = Graph([1, 8, 9, 7], dtype="float16")
    x = g.conv(g.op("Relu", "input", name=taken), 8, 8)
    if taken == "input.wide_":
        x = g.op("Add", x, g.op("Neg", "input", name="input.wide"))
    model = g.model(g.op("Relu", x, name="output"))
    exe = tvmconv.build(model, target="llvm", families=DIRECT)
    assert tvmconv.compare(model, exe).relative_l2 <= 5e-3


def test_an_opset_of_which_onnxruntime_lacks_an_operator() -> None:
    """Not its dtypes, which are fp32 and int64."""
    g = Graph([2, 3, 8, 8])
    regions, images = g.constant(np.ones((2, 4), "f")), g.constant(np.array([0, 1]))
    model = g.model(g.op("RoiAlign", "input", regions, images), opset=22)
    model.ir_version = 10
    with pytest.raises(errors.UnsupportedOperatorError) as error:
        tvmconv.build(model, target="llvm")
    assert "RoiAlign (of opset 22, which onnxruntime does not have)" in error.value.what
    assert "before 22" in error.value.hint


@pytest.mark.parametrize(
    "how", [{"batch": 2}, {"batch": [1, 2]}, {"shapes": {"input": (3, 8, 4, 4)}}]
)
def test_a_batch_that_a_reshape_does_not_have(how: dict[str, Any]) -> None:
    g = Graph(["n", 8, 4, 4])
    flat = g.op("Reshape", g.conv("input", 8, 8), g.constant(np.array([1, 128])), name="flat")
    model = g.model(g.op("Relu", flat))
    for build in (tvmconv.build, tvmconv.inspect):
        with pytest.raises(errors.ShapeError) as error:
            build(model, target="llvm", **how)
        assert "Reshape 'flat' can't make (1, 128) of" in error.value.what
        assert error.value.hint
    tvmconv.build(model, target="llvm", batch=1, families=DIRECT)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
def test_negative_pads(operator: str) -> None:
    g = Graph([1, 8, 9, 11])
    kernel = {} if operator.startswith("Conv") else {"kernel_shape": [3, 3]}
    weights = [] if kernel else [g.constant(np.ones((8, 8, 3, 3), "f"))]
    model = g.model(g.op(operator, "input", *weights, pads=[-1, 0, 1, -2], name="last", **kernel))
    refused(model, f"{operator} (with negative pads)")
    with pytest.raises(errors.ModelError) as error:
        tvmconv.inspect(model, target="llvm")
    assert "'last' are [-1, 0, 1, -2]" in error.value.note


# --- nothing of onnxruntime's or TVM's on the terminal -----------------------------------------
def test_a_warning_of_onnxruntime(capfd: pytest.CaptureFixture[str]) -> None:
    """It warns of each RoiAlign of mode max, outside of any session's log."""
    g = Graph([2, 3, 8, 8])
    regions, images = g.constant(np.ones((2, 4), "f")), g.constant(np.array([0, 1]))
    model = g.model(
        g.op("RoiAlign", "input", regions, images, mode="max", sampling_ratio=2), opset=16
    )
    exe = tvmconv.build(model, target="llvm")
    tvmconv.compare(model, exe)
    assert said(capfd) == ""


def test_a_model_that_onnxruntime_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    """As it runs, which is when it finds out."""
    g = Graph([1, 2, 9, 7])
    pool = {"kernel_shape": [1, 1], "strides": [3, 3], "auto_pad": "SAME_UPPER"}
    model = g.model(g.op("MaxPool", "input", **pool))
    exe = tvmconv.build(model, target="llvm")
    with pytest.raises(errors.ModelError, match="onnxruntime cannot run this model"):
        tvmconv.compare(model, exe)
    assert said(capfd) == ""


def test_what_an_import_leaves_when_it_fails(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no reason")

    monkeypatch.setitem(operators.OWN, "LeakyRelu", fails)
    g = Graph([2, 3])
    model = g.model(g.op("LeakyRelu", g.op("Relu", "input")))
    with pytest.raises(errors.ModelError, match="no reason"):
        tvmconv.build(model, target="llvm")
    assert said(capfd) == ""


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """What came to the terminal, but for what loading a second library always says."""
    captured = capfd.readouterr()
    lines = (captured.out + captured.err).splitlines(keepends=True)
    return "".join(line for line in lines if "__tvm_ffi__library_bin get overriden" not in line)
