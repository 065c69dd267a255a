"""`tvmconv simulate`: what it prints, and how it fails."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support import networks
from tests.support.shell import Command


@pytest.fixture
def command(command: Command) -> Command:
    """`tvmconv simulate` with these arguments."""
    return partial(command, "simulate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, and two images in images."""
    folder = tmp_path_factory.mktemp("simulate")
    onnx.save(networks.small(), folder / "model.onnx")
    (folder / "images").mkdir()
    for name, array in zip("ab", np.random.default_rng(0).random((2, 3, 12, 12)), strict=True):
        np.save(folder / "images" / f"{name}.npy", array.astype(np.float32))
    return folder


def test_a_network(command: Command, folder: Path) -> None:
    arguments = (folder / "model.onnx", "--numerics", "v100", "--images", folder / "images")
    code, out, err = command(*arguments)
    assert code == 0, err
    assert "simulating image 2" in err
    assert out.startswith("simulated: v100, fp16 activations, 2 images")
    code, out, err = command(*arguments, "--activations", "float32", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["numerics"], found["activations"], found["images"]) == ("v100", "float32", 2)
    assert [one["name"] for one in found["layers"]] == ["first", "wide/y"]
    assert [one["instructions"] for one in found["layers"]] == [16 * 9 * 3, 16 * 3 * 9]
    assert all(0 < one["f_2"] < 0.2 for one in found["outputs"])


def test_a_trace_of_a_layer(command: Command, folder: Path) -> None:
    arguments = (folder / "model.onnx", "--trace", "--layer", "wide/y", "--tile", "2,0")
    images = ("--images", folder / "images")
    code, out, err = command(*arguments, *images, "--lane", 7, "--k", 4)
    assert code == 0, err
    assert "tile 2,0: output pixels (0, 5, 2) to (padding); channels 0 to 15" in out
    assert "WMMA 4 of 9: tap (1, 1)" in out
    exe = tvmconv.build(folder / "model.onnx", "hmma-sim", batch=1)
    feeds = {"x:0": np.load(folder / "images" / "a.npy")[None]}
    assert out == f"{tvmconv.trace_layer(exe, feeds, 'wide/y', (2, 0), lane=7, wmma=4)}\n"
    code, out, err = command(*arguments, "--json")
    assert code == 0
    assert "the input is random" in err
    assert np.shape(json.loads(out)["d"]) == (16, 16)


def test_a_trace_of_an_example(command: Command) -> None:
    code, out, err = command("--trace", "--lane", 5)
    assert code == 0, err
    assert out == f"{tvmconv.trace_example(lane=5)}\n"
    assert len(json.loads(command("--trace", "--json")[1])["listing"]) > 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no model to simulate"),
        (("model.onnx",), "no images to simulate"),
        (("model.onnx", "--images", "nowhere"), "is no folder"),
        (("model.onnx", "--images", "."), "no images in"),
        (("model.onnx", "--images", "images", "--numerics", "b200"), "no numerics 'b200'"),
        (("model.onnx", "--images", "images", "--activations", "int8"), "can't be 'int8'"),
        (("model.onnx", "--layer", "first", "--tile", "0,0"), "add --trace"),
        (("--trace", "--layer", "first"), "name the model"),
        (("model.onnx", "--images", ".", "--lane", 3, "--k", 1), "--k and --lane are options"),
        (
            ("model.onnx", "--trace", "--layer", "x", "--tile", "0,0", "--lane", 40),
            "no lane 40",
        ),
        (("--trace", "--images", "images", "--k", 0), "--k and --images are options of a model"),
        (("--trace", "--lane", 40), "no lane 40"),
        (("--trace", "--numerics", "h100"), "no listing with h100"),
        (("model.onnx", "--trace", "--layer", "first"), "--tile I,J"),
        (("model.onnx", "--trace", "--layer", "first", "--tile", "0"), "is not a tile"),
        (("model.onnx", "--trace", "--layer", "first", "--tile", "9,0"), "I is 0 to 8"),
        (("model.onnx", "--trace", "--layer", "no", "--tile", "0,0"), "one of first, wide/y"),
    ],
)
def test_errors(
    command: Command,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err
