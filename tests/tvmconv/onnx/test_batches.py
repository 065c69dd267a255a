"""Networks built for several batches: their reports, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper

import tvmconv
from tests.support import networks
from tests.support.models import Graph, random_feed, residual_net
from tvmconv.cli import app as cli
from tvmconv.errors import FeedError, ModelError, ShapeError, UnsupportedOperatorError

IMAGES = random_feed((40, 3, 12, 12))["input"]
QUICK = {"warmup_ms": 1.0, "min_runs": 2, "min_seconds": 0.0}


@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return tvmconv.build(residual_net("batch"), target="llvm", batch=[8, 1, 32])


# --- the reports ----------------------------------------------------------------------------
def test_the_report_has_every_bucket(exe: tvmconv.Executable) -> None:
    report = exe.report
    assert [one.batch for one in (*report.smaller, report)] == [1, 8, 32]
    peaks = [one.peak_activation_bytes for one in (*report.smaller, report)]
    assert sorted(peaks) == peaks
    assert 0 < peaks[0] < peaks[-1]
    assert all(one.build_seconds > 0 for one in (*report.smaller, report))
    assert report.convs[0].shape.startswith("32x12x12x3")
    lines = str(report).splitlines()
    rows = [line.split() for line in lines if line[:3].strip() in ("1", "8", "32")]
    rows = [row for row in rows if row[2] == "of"]  # not of the reasons, "1 x NHWC: ..."
    assert [row[:4] for row in rows] == [[str(b), "5", "of", "5"] for b in (1, 8, 32)]
    assert type(report).from_json(json.loads(json.dumps(report.to_json()))) == report


def test_inspect_agrees_with_build(exe: tvmconv.Executable) -> None:
    seen = tvmconv.inspect(residual_net("batch"), target="llvm", batch=[32, 8, 1])
    assert [one.batch for one in seen.smaller] == [1, 8]
    assert seen.convs == exe.report.convs
    assert seen.smaller[0].convs == exe.report.smaller[0].convs
    assert "MiB" not in str(seen)


def test_compare_is_of_every_bucket(exe: tvmconv.Executable) -> None:
    model = residual_net("batch")
    for feeds in (None, {"input": IMAGES[:3]}):
        found = tvmconv.compare(model, exe, feeds)
        assert [one.shape for one in found.outputs] == [(1, 10), (8, 10), (32, 10)]
        assert found.passed(2e-3), str(found)


def test_compare_sees_one_bucket_that_is_wrong(exe: tvmconv.Executable) -> None:
    first, eight, largest = exe.entries
    a, b, *_ = (one for one in exe.weights if one.shape == (1, 9, 1, 2, 16, 16))
    swap = {id(a): b, id(b): a}
    wrong = eight.with_weights(lambda array: swap.get(id(array), array))
    found = tvmconv.compare(residual_net("batch"), replace(exe, entries=(first, wrong, largest)))
    assert [output.passed(2e-3) for output in found.outputs] == [True, False, True]
    assert not found.passed(2e-3)


def test_bench_is_of_every_bucket(exe: tvmconv.Executable) -> None:
    for feeds in (None, {"input": IMAGES[:3]}, {"input": tvm.runtime.tensor(IMAGES[:3])}):
        found = tvmconv.bench(exe, feeds, relative_l2=1e-3, **QUICK)
        assert [one.batch for one in (*found.smaller, found)] == [1, 8, 32]
        assert all(one.compute.runs >= 2 for one in found.smaller)
    assert all(f"batch {batch} on llvm" in str(found) for batch in exe.batches)
    assert [one["batch"] for one in found.to_json()["smaller"]] == [1, 8]
    with pytest.raises(FeedError):
        tvmconv.bench(exe, {"input": IMAGES[:0]}, **QUICK)


# --- what is refused ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ([], "empty list"),
        ([1, 8, 1], "listed twice"),
        ([8, 0], "at least one element, not 0"),
        ([-1], "at least one element, not -1"),
        ([True, 2], "not True"),
        ([1, None], "not None"),
        ([1.0, 2], "not 1.0"),
        ("18", "not '18'"),
    ],
)
@pytest.mark.parametrize("call", [tvmconv.build, tvmconv.inspect])
def test_bad_buckets(call: Any, batch: Any, says: str) -> None:
    with pytest.raises(ShapeError) as error:
        call(residual_net("batch"), target="llvm", batch=batch)
    assert says in str(error.value)


def reshaped() -> onnx.ModelProto:
    """Its output has the batch in the second dimension."""
    g = Graph(["batch", 8, 6, 6])
    return g.model(g.op("Transpose", g.conv("input", 8, 8), perm=[1, 0, 2, 3], name="turned"))


def summed() -> onnx.ModelProto:
    """Its output is one for all images."""
    g = Graph(["batch", 8, 6, 6])
    x = g.op("Flatten", g.conv("input", 8, 8))
    return g.model(g.op("ReduceMean", x, axes=[0], keepdims=1, name="mean"))


def unbatched_input() -> onnx.ModelProto:
    g = Graph(["batch", 8, 6, 6])
    g.inputs.append(helper.make_tensor_value_info("gain", 1, [8, 1, 1]))
    return g.model(g.op("Mul", g.conv("input", 8, 8), "gain"))


@pytest.mark.parametrize(
    ("model", "batch", "says"),
    [
        (reshaped(), [1, 4], "output 'turned' does not have the images as its first dimension"),
        (reshaped(), [8], "output 'turned' does not"),
        (summed(), [1, 4], "output 'mean' does not"),
        (summed(), [1], "output 'mean' does not"),
        (residual_net(1), [1, 4], "input 'input' has a fixed first dimension of 1, batch is 4"),
        (unbatched_input(), [1, 8], "input 'gain' has a fixed first dimension of 8, batch is 1"),
    ],
)
def test_networks_whose_batch_is_not_first(
    model: onnx.ModelProto, batch: Sequence[int], says: str
) -> None:
    with pytest.raises(ShapeError) as error:
        tvmconv.build(model, target="llvm", batch=batch)
    assert says in str(error.value)


def centred() -> onnx.ModelProto:
    """Subtracts the mean over the batch from every image."""
    g = Graph(["batch", 8, 6, 6])
    x = g.conv("input", 8, 8)
    return g.model(g.op("Sub", x, g.op("ReduceMean", x, axes=[0], keepdims=1), name="centred"))


def running() -> onnx.ModelProto:
    """Softmax over the batch."""
    g = Graph(["batch", 8, 6, 6])
    return g.model(g.op("Softmax", g.conv("input", 8, 8), axis=0, name="weighed"))


@pytest.mark.parametrize(("model", "name"), [(centred(), "centred"), (running(), "weighed")])
@pytest.mark.parametrize("call", [tvmconv.build, tvmconv.inspect])
def test_networks_whose_images_affect_each_other(
    call: Any, model: onnx.ModelProto, name: str
) -> None:
    with pytest.raises(ModelError, match=f"images of one batch affect each other in .*'{name}'"):
        call(model, target="llvm", batch=[1, 4])
    # For one batch it is what the model says.
    built = tvmconv.build(model, target="llvm", batch=4)
    assert tvmconv.compare(model, built).passed()


def test_unsupported_operators_are_told_before_anything_is_tried() -> None:
    g = Graph(["batch", 8, 6, 6])
    model = g.model(g.op("Unique", g.conv("input", 8, 8), axis=0))
    with pytest.raises(UnsupportedOperatorError, match="Unique"):
        tvmconv.build(model, target="llvm", batch=[1, 2])


def test_shapes_are_those_of_the_largest_bucket() -> None:
    exe = tvmconv.build(
        residual_net(1), target="llvm", batch=[1, 4], shapes={"input": (4, 3, 14, 10)}
    )
    assert [entry.inputs[0].shape for entry in exe.entries] == [(1, 3, 14, 10), (4, 3, 14, 10)]
    with pytest.raises(ShapeError, match="the largest bucket is 4"):
        tvmconv.build(
            residual_net(1), target="llvm", batch=[1, 4], shapes={"input": (1, 3, 14, 10)}
        )


# --- the command line -----------------------------------------------------------------------
@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Works in a folder of model.onnx, whose input is "x:0", and x.npy of five images."""
    monkeypatch.chdir(tmp_path)
    onnx.save(networks.small(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", IMAGES[:5])
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tvmconv", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_commands_take_buckets(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(arguments: str) -> Any:
        assert call(monkeypatch, f"{arguments} --json") == 0
        return json.loads(capsys.readouterr().out)

    model, batch = "model.onnx --target llvm", "--batch 3,1"
    assert said(f"inspect {model} {batch}")["plan"]["smaller"][0]["batch"] == 1
    assert said(f"build {model} {batch} -o built")["batch"] == 3
    assert tvmconv.load("built").batches == (1, 3)
    outputs = said("run built --input x:0=x.npy")["outputs"]
    assert [one["shape"][0] for one in outputs] == [5, 5]
    outputs = said("compare model.onnx built --input x:0=x.npy")["outputs"]
    assert [one["shape"][0] for one in outputs] == [1, 1, 3, 3]
    effort = "--warmup-ms 1 --min-runs 2 --min-seconds 0"
    found = said(f"bench built --check model.onnx --input x:0=x.npy {effort}")
    assert (found["smaller"][0]["batch"], found["batch"]) == (1, 3)


@pytest.mark.parametrize("text", ["1,", "1 8", "eight", "1.5", ""])
def test_commands_say_what_is_no_batch(
    text: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, f"inspect model.onnx --target llvm --batch={text}".strip()) != 0
    assert "Error" in capsys.readouterr().err
