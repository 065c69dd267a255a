"""Layer and group normalization in every form, against onnxruntime or NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmconv
from tests.support import cuda_text
from tests.support.checks import DIRECT, all_right
from tests.support.models import Array, Graph

RNG = np.random.default_rng(7)
#: Shape of scale and bias, and the first axis that is normalized, of (2, 4, 6).
FORMS: list[tuple[tuple[int, ...], int]] = [
    ((6,), -1), ((1, 1, 6), -1), ((1,), -1), ((), -1),
    ((6,), 1), ((4, 6), 1), ((4, 1), 1), ((1, 4, 6), 1), ((2, 4, 6), 0), ((4, 6), -3),
]  # fmt: skip


def layer_norm(
    shape: Sequence[int], axis: int, *, bias: bool = True, computed: bool = False
) -> onnx.ModelProto:
    """computed: scale and bias are no constants."""
    g = Graph([2, 4, 6])
    factors = [g.constant(RNG.random(shape, np.float32)) for _ in range(2 if bias else 1)]
    if computed:
        total = g.op("ReduceL2", "input", keepdims=0)
        factors = [g.op("Mul", one, total) for one in factors]
    return g.model(g.op("LayerNormalization", "input", *factors, axis=axis, epsilon=1e-3))


@pytest.mark.parametrize("computed", [False, True])
def test_layer_normalization_with_scales_that_broadcast(computed: bool) -> None:
    models = {
        f"{shape} from {axis}{'' if bias else ', no bias'}": layer_norm(
            shape, axis, bias=bias, computed=computed
        )
        for shape, axis in FORMS
        for bias in (True, False)
    }
    all_right(models, bound=1e-5)


def test_a_mean_that_is_large_beside_the_deviation() -> None:
    """mean(x^2) - mean(x)^2 has no digit left of such."""
    x = (3000 + RNG.standard_normal((2, 4, 6))).astype("f")
    model = layer_norm((6,), -1, bias=False)
    (got,) = tvmconv.build(model, target="llvm").run({"input": x}).values()
    scale = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(got, normalized(x, -1, 1e-3) * scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 1, 6), (2, 4, 1)])
def test_a_scale_of_axes_that_are_not_normalized(shape: tuple[int, ...]) -> None:
    """One for each row, which ONNX allows."""
    g = Graph([2, 4, 6])
    scale, bias = (RNG.random(shape, np.float32) for _ in range(2))
    y = g.op("LayerNormalization", "input", g.constant(scale), g.constant(bias))
    x = RNG.standard_normal((2, 4, 6)).astype("f")
    (got,) = tvmconv.build(g.model(y), target="llvm").run({"input": x}).values()
    np.testing.assert_allclose(got, normalized(x, -1) * scale + bias, rtol=1e-4, atol=1e-5)


def normalized(x: Array, axes: Any, epsilon: float = 1e-5) -> Array:
    wide = x.astype("d")
    centered = wide - wide.mean(axes, keepdims=True)
    return np.asarray(centered / np.sqrt(wide.var(axes, keepdims=True) + epsilon))


def group_norm(opset: int, shape: Sequence[Any], groups: int, dtype: str = "float32") -> Any:
    """The model, its scales and biases: one for each channel, before opset 21 for each group."""
    g = Graph(shape, dtype=dtype)
    count = groups if opset < 21 else shape[1]
    scale, bias = (RNG.random(count).astype(dtype) for _ in range(2))
    y = g.op("GroupNormalization", "input", g.constant(scale), g.constant(bias), num_groups=groups)
    model = g.model(g.op("Sigmoid", y), opset=opset)
    model.ir_version = 10
    return model, *(np.repeat(one, shape[1] // count) for one in (scale, bias))


@pytest.mark.parametrize("opset", [18, 21, 22])
@pytest.mark.parametrize("shape", [(2, 8, 6, 5), (1, 8, 7), (2, 8, 3, 4, 5)])
def test_group_normalization(opset: int, shape: tuple[int, ...]) -> None:
    for groups in (1, 2, 8):
        model, scale, bias = group_norm(opset, shape, groups)
        x = RNG.standard_normal(shape).astype("f") * 3 + 1
        (got,) = tvmconv.build(model, target="llvm").run({"input": x}).values()
        y = normalized(x.reshape(shape[0], groups, -1), -1).reshape(shape)
        by_channel = (-1, *[1] * (len(shape) - 2))
        y = y * scale.reshape(by_channel) + bias.reshape(by_channel)
        np.testing.assert_allclose(got, 1 / (1 + np.exp(-y)), rtol=1e-4, atol=1e-5)


def test_group_normalization_of_any_batch_and_of_fp16() -> None:
    model, *_ = group_norm(21, ("n", 8, 6, 5), 2)
    assert tvmconv.build(model, target="llvm", batch=[1, 3]).batches == (1, 3)
    model, scale, bias = group_norm(21, (2, 8, 6, 5), 2, "float16")
    x = RNG.standard_normal((2, 8, 6, 5)).astype("float16")
    (got,) = tvmconv.build(model, target="llvm").run({"input": x}).values()
    y = normalized(x.reshape(2, 2, -1), -1).reshape(x.shape)
    y = y * scale.reshape(-1, 1, 1).astype("d") + bias.reshape(-1, 1, 1)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-y)), rtol=2e-3, atol=1e-3)


def test_group_normalization_between_convolutions() -> None:
    g = Graph([1, 8, 6, 5])
    scale, bias = (g.constant(RNG.random(8, np.float32)) for _ in range(2))
    x = g.op("GroupNormalization", g.conv("input", 8, 8), scale, bias, num_groups=4)
    all_right({"": g.model(g.conv(x, 8, 8), opset=21)}, families=DIRECT)


def test_both_are_scheduled_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = cuda_text.without_compiler(monkeypatch)
    for model in (group_norm(21, (1, 8, 6, 6), 2)[0], layer_norm((4, 1), 1, computed=True)):
        tvmconv.build(model, target="cuda", arch="sm_90a")
    assert all("__global__" in text for text in texts)


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    model, *_ = group_norm(21, (1, 8, 6, 6), 3)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.FLOAT, [1, 8, 6, 6])
    )
    with pytest.raises(tvmconv.errors.ModelError) as error:
        tvmconv.build(model, target="llvm")
    assert error.value.hint
