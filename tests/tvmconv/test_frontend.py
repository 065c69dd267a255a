"""What the frontend makes of a model: right, or refused by name, and never wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.models import Graph, residual_net
from tvmconv import errors, frontend, model_file, onnx_model
from tvmconv import resize as resize_forms

SCALES = (1, 2, 3, 6)


def right(model: Any, bound: float = 5e-3) -> None:
    exe = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, exe).relative_l2 <= bound


def refused(model: onnx.ModelProto, says: str) -> None:
    with pytest.raises(errors.UnsupportedOperatorError) as error:
        tvmconv.build(model, target="llvm")
    assert says in error.value.what
    assert error.value.hint


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


# --- Resize and Upsample -----------------------------------------------------------------------
def resize(
    scales: Any = None, sizes: Any = None, opset: int = 17, size: int = 7, **attributes: Any
) -> onnx.ModelProto:
    g = Graph([1, 8, size, size])
    x = g.conv("input", 8, 8)
    nothing = g.constant(np.zeros(0, "f"))  # how an input is left out before opset 13
    roi = "" if opset >= 13 else nothing
    if sizes is None:
        given = [roi, g.constant(np.array(scales, "f"))]
    else:
        given = [roi, "" if opset >= 13 else nothing, g.constant(np.array(sizes, "q"))]
    x = g.op("Resize", x, *(given[1:] if opset == 10 else given), **attributes)
    return g.model(g.conv(x, 8, 8), opset=opset)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("coordinates", "rounding"), sorted(resize_forms.REPEATS))
def test_resize_that_repeats_pixels(coordinates: str, rounding: str, scale: int) -> None:
    opset = 11 if coordinates.startswith("tf") else 17
    how = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    right(resize([1, 1, scale, 2], opset=opset, size=31 if scale == 3 else 6, **how))


@pytest.mark.parametrize("opset", [10, 11, 13, 18])
def test_resize_by_scales_of_every_opset(opset: int) -> None:
    right(resize([1, 1, 2, 3], opset=opset))


@pytest.mark.parametrize("opset", [11, 13])
def test_resize_to_sizes(opset: int) -> None:
    right(resize(sizes=[1, 8, 14, 21], opset=opset))


def test_resize_to_sizes_that_are_computed() -> None:
    g = Graph([1, 8, 6, 6])
    small = g.conv("input", 8, 8, strides=[2, 2])
    right(g.model(g.op("Resize", small, "", "", g.op("Shape", "input"), mode="nearest")))


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("scale", SCALES)
def test_upsample(opset: int, scale: int) -> None:
    g = Graph([1, 8, 6, 6])
    x, scales = g.conv("input", 8, 8), [1.0, 1.0, scale, 2.0]
    if opset < 9:
        x = g.op("Upsample", x, scales=scales)
    else:
        x = g.op("Upsample", x, g.constant(np.array(scales, "f")))
    right(g.model(x, opset=opset))


@pytest.mark.parametrize("shape", [(1, 4, 6), (1, 4, 3, 4, 5)])
def test_resize_of_other_ranks(shape: tuple[int, ...]) -> None:
    g = Graph(shape)
    scales = g.constant(np.array([1, 1, *range(2, len(shape))], "f"))
    right(g.model(g.op("Relu", g.op("Resize", "input", "", scales, mode="nearest"))))


@pytest.mark.slow
@pytest.mark.parametrize("mode", resize_forms.MODES)
@pytest.mark.parametrize("coordinates", resize_forms.COORDINATES)
def test_resize_in_every_mode(coordinates: str, mode: str) -> None:
    opset = 11 if coordinates.startswith("tf") else 19
    how = {"mode": mode, "coordinate_transformation_mode": coordinates}
    for scales, size in (([1, 1, 1.5, 2], 8), ([1, 1, 0.5, 0.75], 8), ([1, 1, 2.5, 0.5], 6)):
        right(resize(scales, size=size, opset=opset, **how))


@pytest.mark.parametrize("rounding", resize_forms.ROUNDINGS)
def test_resize_nearest_with_every_rounding(rounding: str) -> None:
    for coordinates in ("asymmetric", "half_pixel", "align_corners"):
        how = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        right(resize([1, 1, 0.6, 1.7], size=10, **how))


@pytest.mark.parametrize(
    "arguments",
    [
        {"sizes": [1, 8, 10, 13], "mode": "linear"},
        {"sizes": [1, 8, 10, 3], "mode": "cubic"},
        {"sizes": [1, 8, 10, 3], "mode": "cubic", "exclude_outside": 1},
        {"sizes": [1, 8, 10, 14], "mode": "cubic", "cubic_coeff_a": -0.5},
        {"scales": [2.5, 0.5], "axes": [2, 3], "opset": 18, "size": 6, "mode": "linear"},
        {"scales": [0.5, 2.5], "axes": [3, 2], "opset": 18, "size": 6},
        {"scales": [1, 1, 2.5, 1], "opset": 10, "size": 6, "mode": "linear"},
    ],
    ids=str,
)
def test_resize_with_other_attributes(arguments: dict[str, Any]) -> None:
    right(resize(**arguments))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scales": [1, 1, 2, 2], "antialias": 1, "opset": 18}, "Resize (with antialias) x1"),
        (
            {"sizes": [1, 8, 9, 9], "keep_aspect_ratio_policy": "not_larger", "opset": 18},
            "Resize (with keep_aspect_ratio_policy) x1",
        ),
        (
            {
                "scales": [1, 1, 1.5, 2],
                "mode": "linear",
                "coordinate_transformation_mode": "align_corners",
            },
            "Resize (align_corners by scales to no whole size) x1",
        ),
    ],
)
def test_resize_that_is_refused(arguments: dict[str, Any], says: str) -> None:
    refused(resize(**arguments), says)


def test_resize_over_channels() -> None:
    g = Graph([1, 8, 6, 6])
    x = g.op("Resize", "input", "", g.constant(np.array([1, 2, 1, 1], "f")), mode="nearest")
    right(g.model(g.conv(x, 16, 8)))


def test_resize_by_scales_that_are_computed_is_refused() -> None:
    g = Graph([1, 4, 6, 6])
    scales = g.op("ReduceMax", "input", axes=[0, 2, 3], keepdims=0)
    model = g.model(g.op("Resize", "input", "", scales, mode="nearest"))
    refused(model, "Resize (its input 2 is no constant) x1")


# --- operators lowered our own way -------------------------------------------------------------
@pytest.mark.parametrize("operator", ["Sum", "Max", "Min", "Mean"])
@pytest.mark.parametrize("shape", [None, (8, 1, 1), (8,), ()])
def test_operators_of_many_inputs(operator: str, shape: tuple[int, ...] | None) -> None:
    g = Graph([2, 8, 8, 8])
    x, y = g.conv("input", 8, 8), g.conv("input", 8, 8)
    more = [] if shape is None else [g.constant(g.rng.standard_normal(shape).astype("f"))]
    right(g.model(g.conv(g.op(operator, x, y, *more), 8, 8)))
    g = Graph([2, 8, 8, 8])
    right(g.model(g.op("Relu", g.op(operator, g.conv("input", 8, 8)))))


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
    with pytest.raises(errors.ModelError, match="output 'own_0' has no shape") as error:
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
