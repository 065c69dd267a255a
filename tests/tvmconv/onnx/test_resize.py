"""Resize and Upsample in every form, against onnxruntime, or refused by name."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.checks import DIRECT, all_right, refused, right
from tests.support.models import Graph
from tvmconv.onnx import resize as resize_forms

SCALES = (1, 2, 3, 6)


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


@pytest.mark.parametrize("coordinates", sorted({one for one, _ in resize_forms.REPEATS}))
def test_resize_that_repeats_pixels(coordinates: str) -> None:
    opset = 11 if coordinates.startswith("tf") else 17
    models = {}
    for form, scale in itertools.product(sorted(resize_forms.REPEATS), SCALES):
        if form[0] == coordinates:
            how = {"coordinate_transformation_mode": coordinates, "nearest_mode": form[1]}
            size = 31 if scale == 3 else 6
            models[f"{form[1]} x {scale}"] = resize([1, 1, scale, 2], opset=opset, size=size, **how)
    all_right(models, families=DIRECT)


def test_resize_between_convolutions_of_all_families() -> None:
    right(resize([1, 1, 2, 3]))


@pytest.mark.parametrize("opset", [10, 11, 13, 18])
def test_resize_by_scales_of_every_opset(opset: int) -> None:
    right(resize([1, 1, 2, 3], opset=opset), families=DIRECT)


@pytest.mark.parametrize("size", [7, 8, 9, 10])
def test_nearest_before_opset_11_by_any_scale(size: int) -> None:
    """Rounded up along an axis that becomes smaller, down along one that becomes larger."""
    models = {
        f"{rows} and {columns}": resize([1, 1, rows, columns], opset=10, size=size)
        for rows, columns in [(0.6, 0.7), (0.5, 1.7), (1.3, 0.4), (2.5, 1)]
    }
    all_right(models, families=DIRECT)


@pytest.mark.parametrize("opset", [10, 11, 18])
def test_sizes_are_rounded_down_in_fp32(opset: int) -> None:
    """As onnxruntime does: 7 of 10 by 0.7, where ONNX's shape inference has 6."""
    models = {f"{scale}": resize([1, 1, scale, 1], opset=opset, size=10) for scale in (0.7, 1.3)}
    all_right(models, families=DIRECT)
    exe = tvmconv.build(resize([1, 1, 0.7, 1], opset=opset, size=10), target="llvm")
    assert exe.outputs[0].shape == (1, 8, 7, 10)


@pytest.mark.parametrize("opset", [11, 13])
def test_resize_to_sizes(opset: int) -> None:
    right(resize(sizes=[1, 8, 14, 21], opset=opset), families=DIRECT)


def test_resize_to_sizes_that_are_computed() -> None:
    g = Graph([1, 8, 6, 6])
    small = g.conv("input", 8, 8, strides=[2, 2])
    model = g.model(g.op("Resize", small, "", "", g.op("Shape", "input"), mode="nearest"))
    right(model, families=DIRECT)


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_upsample(opset: int) -> None:
    all_right({f"x {scale}": upsample(opset, scale) for scale in SCALES}, families=DIRECT)


def upsample(opset: int, scale: int) -> onnx.ModelProto:
    g = Graph([1, 8, 6, 6])
    x, scales = g.conv("input", 8, 8), [1.0, 1.0, scale, 2.0]
    if opset < 9:
        x = g.op("Upsample", x, scales=scales)
    else:
        x = g.op("Upsample", x, g.constant(np.array(scales, "f")))
    return g.model(x, opset=opset)


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


@pytest.mark.parametrize(
    "coordinates",
    [
        "asymmetric",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("half_pixel", "align_corners")),
    ],
)
def test_resize_nearest_with_every_rounding(coordinates: str) -> None:
    models = {}
    for rounding in resize_forms.ROUNDINGS:
        how = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        models[rounding] = resize([1, 1, 0.6, 1.7], size=10, **how)
    all_right(models, families=DIRECT)


def test_resize_with_other_attributes() -> None:
    forms: list[dict[str, Any]] = [
        {"sizes": [1, 8, 10, 13], "mode": "linear"},
        {"sizes": [1, 8, 10, 3], "mode": "cubic"},
        {"sizes": [1, 8, 10, 3], "mode": "cubic", "exclude_outside": 1},
        {"sizes": [1, 8, 10, 14], "mode": "cubic", "cubic_coeff_a": -0.5},
        {"scales": [2.5, 0.5], "axes": [2, 3], "opset": 18, "size": 6, "mode": "linear"},
        {"scales": [0.5, 2.5], "axes": [3, 2], "opset": 18, "size": 6},
        {"scales": [1, 1, 2.5, 1], "opset": 10, "size": 6, "mode": "linear"},
    ]
    names = (", ".join(f"{name} {value}" for name, value in one.items()) for one in forms)
    all_right(
        {name: resize(**one) for name, one in zip(names, forms, strict=True)}, families=DIRECT
    )


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
