"""What a network in parts refuses, each with a typed error that says why and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import tvmconv
from tests.support.fallbacks import NETWORKS, SHAPE, best, cumulated, detector, of_domain
from tests.support.models import Graph, random_feed, residual_net
from tvmconv.errors import (
    ArtifactError,
    ConfigError,
    FeedError,
    TvmconvError,
    UnsupportedOperatorError,
)
from tvmconv.runtime.executable import Executable


@pytest.fixture(scope="module")
def exe() -> Executable:
    return tvmconv.build(best(), target="llvm")


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_fallback_it_is_refused_as_before(name: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"can't be built: .*x1") as error:
        tvmconv.build(NETWORKS[name][0](), target="llvm", fallback="none")
    assert name in error.value.what
    report = tvmconv.inspect(NETWORKS[name][0](), target="llvm", fallback="none")
    assert not report.buildable
    assert any(listed.startswith(name) for listed in report.unsupported)
    assert not report.plan.parts


@pytest.mark.parametrize("call", [tvmconv.build, tvmconv.inspect])
@pytest.mark.parametrize("fallback", ["tensorrt", "", "ONNXRUNTIME"])
def test_an_unknown_fallback(call: Callable[..., Any], fallback: str) -> None:
    with pytest.raises(TvmconvError, match="no fallback") as error:
        call(residual_net(), target="llvm", fallback=fallback)
    assert "onnxruntime, none" in error.value.hint


def test_a_domain_that_nobody_knows() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"com\.example\.Own x1") as error:
        tvmconv.build(of_domain("com.example", "Own"), target="llvm")
    assert "onnxruntime does not take them either" in error.value.note
    report = tvmconv.inspect(of_domain("com.example", "Own"), target="llvm")
    assert report.unsupported == {"com.example.Own": 1}


def test_nothing_left_to_compile() -> None:
    g = Graph(SHAPE)
    x = g.op("CumSum", g.op("Relu", "input"), g.constant(np.array(3, np.int64)))
    with pytest.raises(UnsupportedOperatorError, match=r"CumSum .*x1") as error:
        tvmconv.build(g.model(x), target="llvm")
    assert "no convolution or product" in error.value.note
    assert "onnxruntime run the whole" in error.value.hint


def test_a_convolution_behind_an_open_shape_is_none_that_is_left() -> None:
    g = Graph(SHAPE)
    where = g.op("Cast", g.op("NonZero", "input"), to=TensorProto.FLOAT)
    rows = g.op("Unsqueeze", where, g.constant(np.array([0], np.int64)))
    model = g.model(g.op("Conv", rows, g.constant(np.ones((8, 4, 1), "f"))))
    with pytest.raises(UnsupportedOperatorError, match="NonZero") as error:
        tvmconv.build(model, target="llvm")
    assert "no convolution or product of known shape" in error.value.note


@pytest.mark.parametrize("call", [tvmconv.build, tvmconv.inspect])
def test_several_batches(call: Callable[..., Any]) -> None:
    model = best()
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if call is tvmconv.inspect:
        assert call(model, target="llvm", batch=[1, 2]).unsupported
        return
    with pytest.raises(UnsupportedOperatorError, match="TopK") as error:
        call(model, target="llvm", batch=[1, 2])
    assert "several batches" in error.value.note
    assert "batch=1" in error.value.hint


def test_inputs_and_outputs_of_strings() -> None:
    g = Graph(SHAPE)
    model = g.model(g.op("Cast", g.conv("input", 3, 8), to=TensorProto.STRING, name="text"))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(UnsupportedOperatorError, match="string") as error:
        tvmconv.build(model, target="llvm")
    assert "'text'" in error.value.note


def test_an_output_that_is_a_constant_without_elements() -> None:
    g = Graph(SHAPE)
    model = g.model(g.conv("input", 3, 8), g.constant(np.zeros((0, 3), "f")))
    with pytest.raises(UnsupportedOperatorError, match="outputs without elements x1"):
        tvmconv.build(model, target="llvm")


@pytest.mark.parametrize(
    "options", [{"io_dtype": "float16"}, {"io_layout": "NHWC"}, {"io_dtype": "uint8"}]
)
def test_another_form_of_what_onnxruntime_reads(options: dict[str, str]) -> None:
    g = Graph(SHAPE)
    x = g.op("CumSum", "input", g.constant(np.array(3, np.int64)))
    with pytest.raises(TvmconvError, match="onnxruntime reads or gives") as error:
        tvmconv.build(g.model(g.conv(x, 3, 8)), target="llvm", **options)
    assert "io_dtype" in error.value.hint


def test_a_form_of_what_is_compiled_is_honoured() -> None:
    model = cumulated()
    plain = tvmconv.build(model, target="llvm")
    exe = tvmconv.build(model, target="llvm", io_dtype="float16", io_layout="NHWC")
    assert [str(spec) for spec in (*exe.inputs, *exe.outputs)] == [
        "input: float16[1, 12, 12, 3]",
        "conv_2: float16[1, 12, 12, 8]",
    ]
    image = random_feed(SHAPE)["input"].astype(np.float16)
    got = exe(np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
    right = plain(image.astype(np.float32)).transpose(0, 2, 3, 1)
    assert np.linalg.norm(got - right) < 2e-3 * np.linalg.norm(right)


def test_a_form_of_an_output_that_onnxruntime_reads_as_well() -> None:
    with pytest.raises(TvmconvError, match=r"'boxes'|'found'"):
        tvmconv.build(detector(), target="llvm", io_dtype="float16")


def test_a_configuration_of_a_layer_of_one_part_and_of_none() -> None:
    model = cumulated()
    config = {"family": "direct", "config": {}}
    exe = tvmconv.build(model, target="llvm", configs={"conv_2": config})
    assert [conv.family for conv in exe.report.convs][1] == "direct"
    for call in (tvmconv.build, tvmconv.inspect):
        with pytest.raises(ConfigError, match="'conv_9'"):
            call(model, target="llvm", configs={"conv_9": config})


def test_what_needs_one_graph(exe: Executable) -> None:
    for refused in (exe.bind, lambda: exe.traced(lambda *_: 0)):
        with pytest.raises(TvmconvError, match="onnxruntime runs a part") as error:
            refused()
        assert "run" in error.value.hint


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"other": np.zeros(SHAPE, "f")},
        {"input": np.zeros((1, 3, 12, 11), "f")},
        {"input": np.zeros(SHAPE)},
        {"input": "image"},
    ],
)
def test_feeds_that_do_not_fit(exe: Executable, feeds: dict[str, Any]) -> None:
    with pytest.raises(FeedError):
        exe.run(feeds)


def test_values_that_onnxruntime_fails_on() -> None:
    """A Gather whose indices follow from the image: out of range for one of large numbers."""
    g = Graph(SHAPE)
    x = g.op("ReduceMax", g.conv("input", 3, 8), keepdims=0)
    where = g.op("NonZero", g.op("Unsqueeze", x, g.constant(np.array([0], np.int64))))
    last = g.op("ReduceSum", where, keepdims=0)
    index = g.op("Add", last, g.op("Cast", x, to=TensorProto.INT64))
    made = g.op("Gather", g.constant(np.arange(40, dtype="f")), index, name="made")
    exe = tvmconv.build(g.model(made), target="llvm")
    assert exe(np.zeros(SHAPE, "f")).shape == ()
    with pytest.raises(TvmconvError, match="could not run its part") as error:
        exe(np.full(SHAPE, 1e3, "f"))
    assert "out of" in error.value.note


def _changed(path: Path, change: Callable[[dict[str, Any]], object], model: bytes) -> None:
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    members["manifest.json"] = json.dumps(manifest).encode()
    members["models/0000.onnx"] = model or members["models/0000.onnx"]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(format=9),
        lambda manifest: manifest.update(models=2),
        lambda manifest: manifest.update(models=0),
        lambda manifest: manifest.update(codes=0),
        lambda manifest: manifest["entries"][0].pop("steps"),
        lambda manifest: manifest["entries"][0]["steps"].pop(),
        lambda manifest: manifest["entries"][0]["steps"][1].pop("inputs"),
        lambda manifest: manifest["entries"][0]["steps"][0].update(weights=[99]),
        lambda manifest: manifest["report"]["parts"][0].pop("side"),
    ],
)
def test_damaged_files(
    exe: Executable, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    exe.save(tmp_path / "saved")
    _changed(tmp_path / "saved", change, b"")
    with pytest.raises(ArtifactError):
        tvmconv.load(tmp_path / "saved")


def test_a_damaged_model_inside_of_a_file(exe: Executable, tmp_path: Path) -> None:
    exe.save(tmp_path / "saved")
    _changed(tmp_path / "saved", lambda manifest: None, b"no model")
    loaded = tvmconv.load(tmp_path / "saved")
    with pytest.raises(ArtifactError, match="does not take a part"):
        loaded.run(random_feed(SHAPE))


PROGRAM = """
import sys
import numpy as np
from tvmconv.runtime.loading import load
exe = load(sys.argv[1])
if sys.argv[2] == "hidden":
    sys.modules["onnxruntime"] = None
exe.run({"input": np.zeros(tuple(exe.inputs[0].shape), "float32")})
print("onnxruntime" in sys.modules)
"""


def _ran(path: Path, how: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", PROGRAM, str(path), how]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_onnxruntime_is_imported_where_a_part_needs_it_alone(
    exe: Executable, tmp_path: Path
) -> None:
    exe.save(tmp_path / "parts")
    tvmconv.build(residual_net(), target="llvm").save(tmp_path / "whole")
    assert _ran(tmp_path / "whole", "").stdout.strip() == "False"
    assert _ran(tmp_path / "parts", "").stdout.strip() == "True"
    missing = _ran(tmp_path / "parts", "hidden")
    assert "TargetError: a part of this network runs in onnxruntime" in missing.stderr


def test_a_network_that_needs_no_fallback_is_the_same() -> None:
    built = [
        tvmconv.build(residual_net(), target="llvm", fallback=one)
        for one in ("onnxruntime", "none")
    ]
    assert not any(one.in_parts or one.report.parts for one in built)
    first, second = (one.entries for one in built)
    for one, other in zip(first, second, strict=True):
        assert all(map(np.array_equal, one.weights, other.weights))
        assert len(one.weights) == len(other.weights) > 0
    assert built[0].report.convs == built[1].report.convs


def test_constants_that_leave_nothing_of_an_operator_need_no_fallback() -> None:
    """A NonZero of a constant is folded, so that the network is whole."""
    g = Graph(SHAPE)
    where = g.op("NonZero", g.constant(np.array([0, 1, 1], "f")))
    shift = g.op("ReduceSum", g.op("Cast", where, to=TensorProto.FLOAT), keepdims=0)
    model = g.model(g.op("Add", g.conv("input", 3, 8), shift))
    exe = tvmconv.build(model, target="llvm", fallback="none")
    assert tvmconv.compare(model, exe).passed()
    report = tvmconv.inspect(model, target="llvm", fallback="none")
    assert report.buildable
    assert all(one.supported for one in report.operators)


def test_the_callers_model_is_untouched() -> None:
    model = detector()
    before = model.SerializeToString(deterministic=True)
    tvmconv.build(model, target="llvm")
    assert model.SerializeToString(deterministic=True) == before
    assert isinstance(model, onnx.ModelProto)
