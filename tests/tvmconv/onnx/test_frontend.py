"""What the frontend makes of a model: right, or refused by name, and never wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.support.checks import DIRECT, all_right, refused, right
from tests.support.models import Graph, residual_net
from tvmconv import errors
from tvmconv.onnx import file as model_file
from tvmconv.onnx import frontend
from tvmconv.onnx import model as onnx_model


# --- tensors in files beside the model ---------------------------------------------------------
@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    how: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0}
    onnx.save_model(residual_net(1), path, location="model.onnx.data", **how)
    assert (tmp_path / "model.onnx.data").exists()
    return path


def test_external_data_beside_the_model_is_loaded(external: Path) -> None:
    right(external)
    right(str(external))


def test_external_data_needs_the_path(external: Path) -> None:
    for model in (external.read_bytes(), onnx.load(external, load_external_data=False)):
        with pytest.raises(errors.ModelError) as error:
            tvmconv.build(model, target="llvm")
        assert "give the path" in error.value.hint


def test_a_missing_data_file_is_named(external: Path) -> None:
    (external.parent / "model.onnx.data").unlink()
    with pytest.raises(errors.ModelError) as error:
        tvmconv.build(external, target="llvm")
    assert "'model.onnx.data'" in error.value.what
    assert error.value.note
    assert error.value.hint


def test_too_large_a_model(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "MAX_BYTES", 5000)
    for model in (external, residual_net(1)):
        with pytest.raises(errors.ModelError, match="too large") as error:
            tvmconv.build(model, target="llvm")
        assert error.value.hint


# --- operators lowered our own way -------------------------------------------------------------
@pytest.mark.parametrize("operator", ["Sum", "Max", "Min", "Mean"])
def test_operators_of_many_inputs(operator: str) -> None:
    models = {}
    for shape in (None, (8, 1, 1), (8,), ()):
        g = Graph([2, 8, 8, 8])
        x, y = g.conv("input", 8, 8), g.conv("input", 8, 8)
        more = [] if shape is None else [g.constant(g.rng.standard_normal(shape).astype("f"))]
        models[f"{shape}"] = g.model(g.conv(g.op(operator, x, y, *more), 8, 8))
    g = Graph([2, 8, 8, 8])
    models["one input"] = g.model(g.op("Relu", g.op(operator, g.conv("input", 8, 8))))
    all_right(models, families=DIRECT)


def test_max_and_min_with_constants_are_a_clip() -> None:
    g = Graph([2, 8, 8, 8])
    x = g.op("Max", g.conv("input", 8, 8), g.constant(np.float32(0)))
    right(g.model(g.conv(g.op("Min", x, g.constant(np.float32(1))), 8, 8)))


def test_dropout_as_the_output() -> None:
    g = Graph([2, 8, 8, 8])
    right(g.model(g.op("Dropout", g.conv("input", 8, 8)), opset=12))


def test_a_convolution_that_nobody_reads() -> None:
    g = Graph([2, 8, 8, 8])
    g.conv("input", 8, 8)
    right(g.model(g.op("Relu", "input")))


@pytest.mark.parametrize("operator", ["TopK", "CumSum", "NonZero"])
def test_operators_that_do_not_build_are_refused(operator: str) -> None:
    g = Graph([2, 8, 8, 8])
    more = {"TopK": [np.array([3])], "CumSum": [np.array(1)]}.get(operator, [])
    x = g.op(operator, g.conv("input", 8, 8), *map(g.constant, more))
    if operator == "TopK":
        g.nodes[-1].output.append("indices")
    refused(g.model(g.op("Cast", x, to=TensorProto.FLOAT)), f"{operator} (not yet lowered) x1")


# --- outputs that no node gives ----------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_outputs_that_are_inputs_or_initializers(dtype: str) -> None:
    g = Graph([1, 8, 6, 6], dtype=dtype)
    weight = g.constant(g.rng.standard_normal((8, 8, 3, 3)).astype(dtype), "weight")
    y = g.op("Conv", "input", weight, pads=[1, 1, 1, 1])
    model = g.model(y, "weight", "input")
    right(model)
    exe = tvmconv.build(model, target="llvm")
    assert [spec.shape for spec in exe.outputs] == [(1, 8, 6, 6), (8, 8, 3, 3), (1, 8, 6, 6)]
    assert {spec.dtype for spec in (*exe.inputs, *exe.outputs)} == {dtype}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_initializers_listed_as_inputs(dtype: str) -> None:
    g = Graph([1, 8, 6, 6], dtype=dtype)
    model = g.model(g.conv("input", 8, 8))
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    right(model)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_output_listed_twice(dtype: str) -> None:
    g = Graph([1, 8, 6, 6], dtype=dtype)
    x = g.conv("input", 8, 8)
    model = g.model(x, x)
    right(model)
    exe = tvmconv.build(model, target="llvm")
    assert [spec.shape for spec in exe.outputs] == [(1, 8, 6, 6)] * 2


def test_an_output_of_no_known_shape() -> None:
    g = Graph([1, 8, 6, 6])
    model = g.model(g.op("Own", "input", domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(errors.UnsupportedOperatorError, match=r"com\.example\.Own x1") as error:
        tvmconv.build(model, target="llvm")
    assert error.value.hint


def test_an_output_whose_rank_only_a_run_decides() -> None:
    """The branches of an If give tensors of two ranks, and the model names no shape."""
    g = Graph([1, 8, 6, 6])
    x = g.conv("input", 8, 8)
    condition = g.op("Cast", g.op("ReduceSum", x, keepdims=0), to=TensorProto.BOOL)
    branches = [
        helper.make_graph(
            [helper.make_node(kind, [x], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, TensorProto.FLOAT, shape)],
        )
        for kind, shape in (("Flatten", [1, 288]), ("Relu", [1, 8, 6, 6]))
    ]
    model = g.model(g.op("If", condition, then_branch=branches[0], else_branch=branches[1]))
    with pytest.raises(errors.ModelError, match="output 'if_3' has no shape") as error:
        tvmconv.build(model, target="llvm")
    assert error.value.hint


# --- versions and arguments --------------------------------------------------------------------
def test_a_model_without_the_standard_operators_version() -> None:
    model = residual_net(1)
    for imports in ([], [helper.make_opsetid("com.example", 1)]):
        del model.opset_import[:]
        model.opset_import.extend(imports)
        with pytest.raises(errors.ModelError, match="version of the standard operators") as error:
            tvmconv.build(model, target="llvm")
        assert error.value.note
        assert error.value.hint


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch": "2"},
        {"batch": True},
        {"batch": 1.0},
        {"shapes": {"input": ("a",)}},
        {"shapes": {"input": "1,3,12,12"}},
        {"shapes": {"input": 3}},
        {"shapes": {"input": (1, 3, 12.0, 12)}},
        {"shapes": [("input", (1, 3, 12, 12))]},
        {"shapes": (1, 3, 12, 12)},
    ],
    ids=str,
)
def test_arguments_of_the_wrong_type(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.ShapeError) as error:
        tvmconv.build(residual_net("n"), target="llvm", **arguments)
    assert error.value.hint


def test_sizes_may_be_numpys() -> None:
    fixed = onnx_model.fix_shapes(
        onnx_model.read(residual_net("n")), shapes={"input": np.array([2, 3, 12, 12])}
    )
    assert onnx_model.specs(fixed.graph.input)[0].shape == (2, 3, 12, 12)


def test_what_onnxruntime_or_tvm_does_not_take_has_a_hint() -> None:
    model = onnx_model.fix_shapes(onnx_model.read(residual_net(1)))
    model.graph.node[0].op_type = "Nonsense"
    for step, who in ((frontend.simplify, "onnxruntime"), (frontend.to_relax, "TVM's importer")):
        with pytest.raises(errors.ModelError, match=f"{who} does not take") as error:
            step(model)
        assert error.value.note
        assert error.value.hint
