"""Fed and answering in other dtypes and layouts than the model's: the same function."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

import tvmconv
from benchmarks.zoo import zoo
from schedules.machine.hardware import CPU
from tests.support.models import Array, Graph, residual_net
from tests.support.thinned import thinned
from tvmconv.compiler import build as compiler
from tvmconv.errors import FeedError, TvmconvError
from tvmconv.onnx.prepare import prepare
from tvmconv.passes import graph
from tvmconv.passes.kernels.lower_convs import lower_convs
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.runtime.io_form import IoForm, feeds_from_model
from tvmconv.specs import TensorSpec

#: All dtypes with all layouts, for a network that answers with all that there is; the others with
#: each of them, and each network in the form that convolutions read.
FORMS = list(itertools.product((None, "float32", "float16"), (None, "NHWC")))
#: fp16 operands, activations and results over a few layers.
BOUND = 2e-3


def conv_last() -> onnx.ModelProto:
    g = Graph([2, 6, 7, 5])
    return g.model(g.op("Relu", g.conv("input", 6, 9)))


def several_outputs() -> onnx.ModelProto:
    """An image, a pooled one, a matrix, and the input itself."""
    g = Graph([1, 8, 6, 4])
    x = g.conv("input", 8, 8)
    y = g.op("MaxPool", g.op("Relu", x), kernel_shape=[3, 3], pads=[1] * 4)
    z = g.op("Flatten", g.op("GlobalAveragePool", y))
    return g.model(x, y, z, "input")


def no_convolution_first() -> onnx.ModelProto:
    g = Graph([1, 8, 5, 6])
    x = g.op("Sigmoid", g.op("Transpose", "input", perm=[0, 1, 3, 2]))
    return g.model(g.op("Softmax", g.conv(x, 8, 4), axis=1))


def half_model() -> onnx.ModelProto:
    g = Graph([1, 3, 8, 8], dtype="float16")
    return g.model(g.conv(g.op("Relu", g.conv("input", 3, 16)), 16, 4))


def several_inputs() -> onnx.ModelProto:
    """An image, a row and a mask of another dtype, all of which reach the output."""
    g = Graph([1, 8, 4, 6])
    g.inputs.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, [6]))
    g.inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT64, [1, 8, 4, 6]))
    mask = g.op("Cast", "mask", to=TensorProto.FLOAT)
    return g.model(g.conv(g.op("Mul", g.op("Add", "input", "row"), mask), 8, 8))


CASES = [
    *((several_outputs, *form) for form in FORMS),
    *((half_model, *form) for form in ((None, None), ("float32", None), ("float16", "NHWC"))),
    (residual_net, "float16", "NHWC"),
    (conv_last, None, "NHWC"), (conv_last, "float16", None),
    (no_convolution_first, "float16", "NHWC"), (no_convolution_first, None, "NHWC"),
    (several_inputs, "float16", "NHWC"), (several_inputs, "float16", None),
]  # fmt: skip


def nhwc(array: Array, wanted: bool) -> Array:
    return array.transpose(0, 2, 3, 1) if wanted and array.ndim == 4 else array


@pytest.mark.parametrize(("network", "dtype", "layout"), thinned(CASES, 3))
def test_every_form(network: object, dtype: str | None, layout: str | None) -> None:
    model = network()  # type: ignore[operator]
    exe = tvmconv.build(model, target="llvm", io_dtype=dtype, io_layout=layout)
    rng, last = np.random.default_rng(3), layout == "NHWC"
    session = onnxruntime.InferenceSession(model.SerializeToString())
    fed, reference = {}, {}
    for spec, wanted in zip(exe.inputs, session.get_inputs(), strict=True):
        own = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(wanted.type)
        if own is None:
            reference[spec.name] = rng.integers(0, 2, wanted.shape)
            fed[spec.name] = reference[spec.name]
            assert (spec.dtype, spec.shape) == ("int64", tuple(wanted.shape))
            continue
        # What fp16 can hold, so that both get the same.
        array = rng.standard_normal(wanted.shape).astype("float16")
        reference[spec.name] = array.astype(own)
        fed[spec.name] = np.ascontiguousarray(nhwc(array, last)).astype(dtype or own)
        assert spec.dtype == (dtype or own)
        assert spec.shape == fed[spec.name].shape
    results = exe.run(fed)
    expected = dict(
        zip((one.name for one in session.get_outputs()), session.run(None, reference), strict=True)
    )
    assert list(results) == list(expected)
    for spec in exe.outputs:
        found, wanted = results[spec.name], nhwc(expected[spec.name], last)
        assert (str(found.dtype), found.shape) == (spec.dtype, spec.shape)
        assert spec.dtype == (dtype or expected[spec.name].dtype)
        assert found.shape == wanted.shape
        error = np.linalg.norm(found.astype("f8") - wanted)
        assert error <= BOUND * np.linalg.norm(wanted.astype("f8")), spec
    report = tvmconv.compare(model, exe, fed)
    assert report.passed(BOUND), str(report)


@pytest.mark.parametrize("options", [{"io_dtype": "bfloat16"}, {"io_layout": "nhwc"}])
@pytest.mark.parametrize("function", [tvmconv.build, tvmconv.inspect])
def test_unknown_forms(function: object, options: dict[str, str]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(TvmconvError) as error:
        function(residual_net(1), target="llvm", **options)  # type: ignore[operator]
    assert f"there is no {name} '{value}'" in str(error.value)
    assert "one of" in str(error.value)


def test_what_does_not_fit_the_form_is_refused() -> None:
    exe = tvmconv.build(conv_last(), target="llvm", io_dtype="float16", io_layout="NHWC")
    with pytest.raises(FeedError, match=r"got float32\[2, 6, 7, 5\], expected float16\[2, 7, 5, 6"):
        exe.run({"input": np.zeros((2, 6, 7, 5), "f")})
    with pytest.raises(FeedError, match="expected float16"):
        tvmconv.compare(conv_last(), exe, {"input": np.zeros((2, 6, 7, 5), "f")})


def test_buckets_and_files_keep_the_form(tmp_path: Path) -> None:
    model = residual_net("batch")
    exe = tvmconv.build(model, target="llvm", batch=[1, 4], io_dtype="float16", io_layout="NHWC")
    assert exe.inputs == (TensorSpec("input", (4, 12, 12, 3), "float16", "NHWC"),)
    assert exe.outputs == (TensorSpec("output", (4, 10), "float16"),)
    assert exe.bucket(1).inputs[0].shape == (1, 12, 12, 3)
    exe.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    assert (loaded.inputs, loaded.outputs) == (exe.inputs, exe.outputs)
    report = tvmconv.compare(model, loaded)
    assert [one.shape for one in report.outputs] == [(1, 10), (4, 10)]
    assert report.passed(BOUND), str(report)
    image = np.random.default_rng(0).standard_normal((6, 12, 12, 3)).astype("float16")
    assert np.array_equal(loaded(image)[5:], loaded(image[5:]))


def test_nchw_is_the_models_own() -> None:
    plain, asked = (
        tvmconv.build(conv_last(), target="llvm", io_layout=layout) for layout in (None, "NCHW")
    )
    assert (plain.inputs, plain.outputs) == (asked.inputs, asked.outputs)
    feed = np.ones((2, 6, 7, 5), "f")
    assert np.array_equal(plain(feed), asked(feed))


def test_feeds_of_the_model_are_converted() -> None:
    array = np.arange(24, dtype="f").reshape(1, 2, 3, 4)
    spec = TensorSpec("x", (1, 3, 4, 2), "float16", "NHWC")
    (found,) = feeds_from_model([spec], {"x": array}).values()
    assert (found.shape, found.dtype) == (spec.shape, np.float16)
    assert found.flags.c_contiguous
    assert found[0, 2, 1, 1] == array[0, 1, 2, 1]


# --- no kernel converts ---------------------------------------------------------------------
def lowered(model: onnx.ModelProto, form: IoForm, batch: int | None = None) -> tvm.IRModule:
    """After the convolutions are lowered."""
    (given,) = prepare(model, batch, None, form).graphs
    plans = compiler._plan(given, Chooser(CPU), {})
    return lower_convs(plans.convs)(plans.mod)


def readers_of_the_input(mod: tvm.IRModule) -> list[str]:
    (x,) = mod["main"].params
    return [
        value.args[0].name_hint
        if graph.op_name(value) == "relax.call_tir"
        else graph.op_name(value)
        for value in (binding.value for binding in graph.bindings(mod))
        if any(var.same_as(x) for var in relax.analysis.free_vars(value))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_first_convolution_reads_what_is_fed(name: str) -> None:
    model = zoo.load(name)
    mod = lowered(model, IoForm("float16", "NHWC"), 1)
    (reader,) = readers_of_the_input(mod)
    assert reader.startswith("conv_")
    ops = [graph.op_name(binding.value) for binding in graph.bindings(mod)]
    assert "relax.permute_dims" not in ops
    report = tvmconv.inspect(model, arch="sm_90", batch=1, io_dtype="float16", io_layout="NHWC")
    assert report.plan.conversions == ()
    assert not readers_of_the_input(lowered(model, IoForm(), 1))[0].startswith("conv_")


def test_the_last_convolution_writes_what_is_asked_for() -> None:
    mod = lowered(conv_last(), IoForm("float16", "NHWC"))
    ops = [graph.op_name(binding.value) for binding in graph.bindings(mod)]
    assert [op for op in ops if op] == ["relax.call_tir"]  # and a name for its result
