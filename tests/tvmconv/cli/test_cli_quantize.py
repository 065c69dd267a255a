"""`tvmconv quantize`: what it writes, what it prints, and how it fails."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import tvmconv
from tests.support.calibrated import View, feeds
from tests.support.models import residual_net
from tests.support.shell import Command


@pytest.fixture
def command(command: Command) -> Command:
    """`tvmconv quantize` with these arguments."""
    return partial(command, "quantize")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx; arrays in arrays; pictures in pictures; nothing in empty."""
    folder = tmp_path_factory.mktemp("quantize")
    model = residual_net("batch", 16, 32)
    onnx.save(model, folder / "model.onnx")
    for name in ("arrays", "pictures", "empty"):
        (folder / name).mkdir()
    for at, feed in enumerate(feeds(model, 3)):
        np.save(folder / "arrays" / f"{at}.npy", feed["input"])
        picture = np.random.default_rng(at).integers(0, 255, (48, 40, 3), np.uint8)
        Image.fromarray(picture).save(folder / "pictures" / f"{at}.png")
    return folder


def test_a_network(command: Command, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    done = command(folder / "model.onnx", "--images", folder / "arrays", "-o", path)
    assert done.code == 0, done.err
    assert f"wrote {path}" in done.err
    model = onnx.load(folder / "model.onnx")
    expected = tvmconv.quantize(model, feeds(model, 3))
    assert onnx.load(path) == expected.proto
    assert done.out == f"{expected.report}\n"
    assert "conv_0" in done.out


def test_options_reach_it(command: Command, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    arguments = (folder / "model.onnx", "--images", folder / "pictures", "-o", path, "--json")
    more = ("--method", "minmax", "--keep", "conv_0", "--keep", "conv_3", "--unsigned")
    pictures = ("--mean", "0,0,0", "--std", "1,1,1", "--resize", "1", "--picture-layout", "NCHW")
    done = command(*arguments, *more, *pictures, "--arch", "sm_80", "--max-error", "0.5")
    assert done.code == 0, done.err
    decisions = {layer["name"]: layer["decision"] for layer in done.json["layers"]}
    assert decisions["conv_0"] == decisions["conv_3"] == "float"
    assert decisions["conv_5"] == "int8"
    assert (done.json["method"], done.json["max_error"]) == ("minmax", 0.5)
    assert done.json["machine"].startswith("A100")
    view = View(onnx.load(path))
    assert "input" not in view.scales  # conv_0 alone reads it
    zeros = [n.input[2] for n in view.nodes if n.op_type == "QuantizeLinear"]
    assert {view.values[name].dtype for name in zeros} == {np.dtype(np.uint8)}


@pytest.mark.parametrize(
    ("images", "more", "said"),
    [
        ("nowhere", (), "is no folder"),
        ("empty", (), "no images in"),
        ("arrays", ("--keep", "conv_1"), "'conv_1' is near 'conv_10'"),
        ("arrays", ("--method", "best"), "one of entropy, minmax, percentile"),
        ("arrays", ("--max-error", "1e-9"), "leaves no layer in int8"),
        ("arrays", ("--max-error", "-1"), "max_error can't be -1"),
        ("pictures", ("--mean", "1,2"), "one number for red, green and blue"),
        ("pictures", ("--mean", "red"), "--mean 'red' is not three numbers"),
        ("pictures", ("--std", "1,0,1"), "it divides"),
        ("pictures", ("--picture-layout", "CHWN"), "one of NCHW, NHWC"),
        ("pictures", ("--resize", "0.5"), "resize can't be 0.5"),
        ("pictures", ("--picture-layout", "NHWC"), "pictures have three colours, in NHWC"),
    ],
)
def test_errors(
    command: Command, folder: Path, tmp_path: Path, images: str, more: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "int8.onnx"
    done = command(folder / "model.onnx", "--images", folder / images, "-o", path, *more)
    assert done.code == 1
    assert done.err.startswith("Error: ")
    assert said in done.err
    assert "Traceback" not in done.err
    assert not path.exists()
