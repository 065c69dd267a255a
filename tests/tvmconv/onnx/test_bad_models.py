"""Input that can't be built gets a typed error that says what, and never a crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.support.models import Graph, residual_net
from tvmconv import errors
from tvmconv.compiler import cubins
from tvmconv.runtime import gpu

GOOD = residual_net(1).SerializeToString()


def message(error: pytest.ExceptionInfo[errors.TvmconvError]) -> str:
    assert str(error.value).startswith(error.value.what)
    return str(error.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"PK\x03\x04" + bytes(200), GOOD[: len(GOOD) // 2], GOOD[:-1], bytes(64)],
    ids=["empty", "text", "zip", "half", "one byte short", "zeros"],
)
def test_not_an_onnx_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    for model in (data, path):
        with pytest.raises(errors.ModelError) as error:
            tvmconv.build(model, target="llvm")
        assert error.value.note or error.value.hint


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelError) as error:
        tvmconv.build(tmp_path / "nothing.onnx", target="llvm")
    assert "nothing.onnx" in message(error)
    assert error.value.note or error.value.hint


@pytest.mark.parametrize("model", [None, 5, ["model.onnx"], np.zeros(3)])
def test_not_a_model_at_all(model: Any) -> None:
    with pytest.raises(errors.ModelError) as error:
        tvmconv.build(model, target="llvm")
    assert type(model).__name__ in message(error)


def test_all_unsupported_operators_are_listed_with_counts() -> None:
    g = Graph([1, 4, 8, 8])
    x = g.op("NonZero", g.op("Det", "input"))
    y = g.op("Det", g.op("Relu", "input"))
    model = g.model(x, y)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(errors.UnsupportedOperatorError) as error:
        tvmconv.build(model, target="llvm")
    assert "Det x2" in message(error)
    report = tvmconv.inspect(model, target="llvm")
    assert report.unsupported["Det"] == 2
    assert "Det x2" in str(report)


@pytest.mark.parametrize(
    ("operator", "attributes", "says"),
    [
        (
            "ConvTranspose",
            {"output_shape": [8, 8, 8]},
            "ConvTranspose (3-D, with output_shape) x1",
        ),
        ("BatchNormalization", {"training_mode": 1}, "BatchNormalization (in training mode) x1"),
    ],
)
def test_what_would_be_wrong_is_refused(
    operator: str, attributes: dict[str, Any], says: str
) -> None:
    g = Graph([1, 4, 8, 8, 8] if operator == "ConvTranspose" else [1, 4, 8, 8])
    if operator == "ConvTranspose":
        x = g.op(operator, "input", g.constant(np.ones((4, 4, 2, 2, 2), "f")), **attributes)
    else:
        ones = [g.constant(np.ones(4, "f")) for _ in range(4)]
        x = g.op(operator, "input", *ones, **attributes)
        g.nodes[-1].output.extend(["mean", "variance"])
    with pytest.raises(errors.UnsupportedOperatorError) as error:
        tvmconv.build(g.model(x), target="llvm")
    assert says in message(error)


def test_open_dimensions_are_named() -> None:
    with pytest.raises(errors.ShapeError) as error:
        tvmconv.build(Graph(["batch", 3, "height", 12]).model("input"), target="llvm", batch=1)
    assert "'input' axis 2 ('height')" in message(error)
    assert "batch" not in message(error).splitlines()[0]
    with pytest.raises(errors.ShapeError) as error:
        tvmconv.build(residual_net("n"), target="llvm")
    assert "'input' axis 0 ('n')" in message(error)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch": 4}, "fixed first dimension of 1, batch is 4"),
        ({"shapes": {"image": (1, 3, 12, 12)}}, "no input 'image'"),
        ({"shapes": {"input": (1, 3, 12)}}, "4 dimensions"),
        ({"shapes": {"input": (1, 3, 0, 12)}}, "can't have the shape"),
    ],
)
def test_shapes_that_do_not_fit(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.ShapeError) as error:
        tvmconv.build(residual_net(1), target="llvm", **arguments)
    assert says in message(error)


def test_channels_that_do_not_fit() -> None:
    with pytest.raises(errors.ModelError, match="channel"):
        tvmconv.build(residual_net(1), target="llvm", shapes={"input": (1, 5, 12, 12)})


def test_batch_of_nothing() -> None:
    with pytest.raises(errors.ShapeError, match="at least one"):
        tvmconv.build(residual_net("batch"), target="llvm", batch=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": "vulkan"}, "no target 'vulkan'"),
        ({"target": "cuda", "arch": "sm_9"}, "no CUDA architecture 'sm_9'"),
        ({"target": "llvm", "arch": "z80"}, "no CPU 'z80'"),
    ],
)
def test_targets_that_do_not_exist(arguments: dict[str, str], says: str) -> None:
    with pytest.raises(errors.TargetError) as error:
        tvmconv.build(residual_net(1), **arguments)
    assert says in message(error)


def test_precision_that_does_not_exist() -> None:
    with pytest.raises(errors.TvmconvError, match="no precision 'int3'"):
        tvmconv.build(residual_net(1), target="llvm", precision="int3")


def test_no_gpu_and_no_arch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "detect_arch", lambda: None)
    with pytest.raises(errors.TargetError) as error:
        tvmconv.build(residual_net(1), target="cuda")
    assert 'arch="sm_90"' in message(error)


NO_COMPILER = """
import sys
sys.modules["cuda.bindings.nvrtc"] = None  # as where the cuda extra is not installed
import tvmconv
from tests.support.models import residual_net
try:
    tvmconv.build(residual_net(1), target="cuda", arch="sm_90")
except tvmconv.errors.ToolchainError as error:
    print(error)
"""


def test_no_cuda_compiler(tmp_path: Path) -> None:
    """In a process of its own: there is no compiler to be found where it looks."""
    environment = {k: v for k, v in os.environ.items() if k != "TVM_CUDA_COMPILE_MODE"}
    environment |= {"PATH": "", "CUDA_HOME": str(tmp_path)}
    child = subprocess.run(
        [sys.executable, "-c", NO_COMPILER],
        cwd=Path(__file__).parents[3],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.startswith("no CUDA compiler was found")
    assert "Hint: put nvcc on PATH" in child.stdout


def test_source_only_code_is_never_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As TVM gives it where its CUDA runtime is not loaded, without a word."""
    monkeypatch.setattr(cubins, "find_cubins", lambda path: {})
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    with pytest.raises(errors.ToolchainError, match="no machine code for sm_90"):
        tvmconv.build(residual_net(1), target="cuda", arch="sm_90")


def test_invalid_graph() -> None:
    model = residual_net(1)
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(errors.ModelError) as error:
        tvmconv.build(model, target="llvm")
    assert "nobody" in error.value.note
    assert error.value.hint


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, [1, 4, 8, 8])],
    )
    g = Graph([1, 4, 8, 8])
    total = g.op("ReduceSum", "input", keepdims=0)
    condition = g.op("Cast", total, to=TensorProto.BOOL)
    x = g.op("If", condition, then_branch=branch, else_branch=branch)
    with pytest.raises(errors.UnsupportedOperatorError, match="If x1"):
        tvmconv.build(g.model(x), target="llvm")


def test_model_without_convolutions() -> None:
    g = Graph([2, 4])
    exe = tvmconv.build(g.model(g.op("Relu", "input")), target="llvm")
    assert np.array_equal(exe(-np.ones((2, 4), "f")), np.zeros((2, 4), "f"))
    assert exe.report.convs == ()
    assert str(exe.report)


def test_model_without_nodes() -> None:
    model = Graph([2, 3]).model("input")
    exe = tvmconv.build(model, target="llvm")
    feed = np.ones((2, 3), "f")
    assert np.array_equal(exe(feed), feed)
