"""The class for onnx's backend test, and a few of its cases; the slow suite has all of them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.runner import Runner

from tests.support import onnx_suite
from tests.support.models import residual_net
from tvmconv.errors import FeedError, TargetError, UnsupportedOperatorError
from tvmconv.integrations.onnx_backend import TvmconvBackend

#: Cases by the module that has them; a module is imported in no time, all of them in five seconds.
SPREAD = {
    "averagepool": ["averagepool_2d_ceil", "averagepool_2d_same_lower", "averagepool_3d_default"],
    "batch_normalization": ["batchnorm_epsilon"],
    "clip": ["clip_default_int8_max", "clip_splitbounds"],
    "concat": ["concat_3d_axis_negative_2"],
    "conv": ["conv_with_autopad_same", "conv_with_strides_and_asymmetric_padding"],
    "dropout": ["dropout_default_mask_ratio"],
    "gemm": ["gemm_all_attributes"],
    "lrn": ["lrn_default"],
    "max": ["max_example", "max_uint8"],
    "maxpool": ["maxpool_2d_ceil", "maxpool_2d_dilations", "maxpool_1d_default"],
    "meanvariancenormalization": ["mvn"],
    "mish": ["mish"],
    "pad": ["edge_pad", "constant_pad_axes"],
    "pow": ["pow_types_float32_int64", "pow_types_int64_float32"],
    "prelu": ["prelu_broadcast"],
    "reducemax": ["reduce_max_negative_axes_keepdims_random"],
    "reducemean": ["reduce_mean_negative_axes_keepdims_random"],
    "reshape": ["reshape_negative_extended_dims"],
    "slice": ["slice_neg_steps"],
    "softmax": ["softmax_axis_1"],
    "split": ["split_variable_parts_2d_opset18"],
    "squeeze": ["squeeze_negative_axes"],
    "unsqueeze": ["unsqueeze_unsorted_axes"],
}


@pytest.mark.parametrize("module", SPREAD)
def test_a_spread_of_onnxs_cases(module: str) -> None:
    importlib.import_module(f"{node_cases.__name__}.{module}")
    by_name = {case.name: case for case in node_cases._NodeTestCases}
    for name in SPREAD[module]:
        case = by_name[f"test_{name}"]
        prepared = TvmconvBackend.prepare(case.model, "CPU")
        tolerance: dict[str, Any] = onnx_suite.tolerances(case)
        for fed, expected in onnx_suite.data_sets(case):
            Runner.assert_similar_outputs(expected, prepared.run(fed), **tolerance)


def reshaping(operator: str = "Reshape", first: Any = (2, 6)) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, first),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    node = helper.make_node(operator, ["x", "shape"], ["y"])
    graph = helper.make_graph([node], "reshaping", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_value_that_decides_a_shape_is_frozen_and_another_builds_anew() -> None:
    prepared = TvmconvBackend.prepare(reshaping())
    x = np.arange(12, dtype="f").reshape(2, 6)
    for shape in ((3, 4), (4, 3), (3, 4)):
        (y,) = prepared.run([x, np.array(shape)])
        np.testing.assert_array_equal(y, x.reshape(shape))
    assert len(prepared._built) == 2


def test_open_dimensions_are_fixed_by_what_is_fed() -> None:
    prepared = TvmconvBackend.prepare(residual_net("n"))
    for batch in (1, 2):
        image = np.random.default_rng(0).random((batch, 3, 12, 12), np.float32)
        assert prepared.run([image])[0].shape[0] == batch


def test_nothing_is_run_by_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("onnxruntime ran the model")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", never)
    x = np.ones((2, 6), "f")
    assert TvmconvBackend.run_model(reshaping(), [x, np.array([12, 1])])[0].shape == (12, 1)


def test_inputs_are_not_frozen_where_none_would_be_left() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in "abc"]
    output = helper.make_tensor_value_info("y", TensorProto.INT64, [None])
    node = helper.make_node("Range", ["a", "b", "c"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "range", values, [output]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with pytest.raises(UnsupportedOperatorError, match="Range \\(its input 0 is no constant\\)"):
        TvmconvBackend.prepare(model)


def test_what_the_backend_refuses() -> None:
    with pytest.raises(TargetError, match="runs on the CPU"):
        TvmconvBackend.prepare(reshaping(), "CUDA")
    assert not TvmconvBackend.supports_device("CUDA:0")
    with pytest.raises(FeedError, match="got 1 inputs"):
        TvmconvBackend.prepare(reshaping()).run([np.ones((2, 6), "f")])
