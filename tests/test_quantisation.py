"""docs/quantisation.md is followed: its commands and its Python run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import accuracy, int8
from tests.support.calibrated import feeds
from tests.support.models import residual_net
from tests.support.shell import Command
from tvmconv.quantization.calibration import METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "quantisation.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the reader has: model.onnx, whose layers are conv_0 to conv_10, and images."""
    model = residual_net("batch", 16, 32)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "images").mkdir()
    for at, feed in enumerate(feeds(model, 2)):
        np.save(tmp_path / "images" / f"{at}.npy", feed["input"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(folder: Path, command: Command) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines = [line for line in lines if not line.startswith("make ")]
    assert len(lines) == 5
    for line in lines:
        done = command(*shlex.split(line)[1:])
        assert done.code == 0, line + done.err
        onnx.checker.check_model(onnx.load(folder / "model.int8.onnx"))


def test_python(folder: Path) -> None:
    (block,) = blocks("python")
    exec(compile(block, "page", "exec"), {})
    assert (folder / "model.int8.onnx").exists()


def test_methods_and_files_are_there() -> None:
    listed = re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)
    assert tuple(listed) == METHODS
    linked = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert all((ROOT / "docs" / path).exists() for path in linked)


def test_figures_on_a_gpu_are_those_of_the_recorded_run() -> None:
    (path,) = set(re.findall(r"\(\.\./(benchmarks/results/h200/[^)]+)\)", PAGE))
    document = json.loads((ROOT / path).read_text())
    told = PAGE[PAGE.index("<!-- int8 on an H200 -->") : PAGE.index("<!-- end of int8 on")]
    assert told.partition("\n")[2].strip() == int8.markdown(document)
    assert f"reached {document['int_mm']['tops']:.0f} TOP/s" in PAGE
    for cell in document["cells"]:
        found = cell["int8"]
        assert found["comparison"]["outputs"][0]["relative_l2"] <= found["bound"] < 0.155


def test_figures_are_those_of_the_recorded_run() -> None:
    (path,) = set(re.findall(r"\(\.\./(benchmarks/results/int8/[^)]+)\)", PAGE))
    results = accuracy.read(ROOT / path)
    told = PAGE[PAGE.index("<!-- accuracy -->") : PAGE.index("<!-- end of accuracy -->")]
    assert told.partition("\n")[2].strip() == accuracy.markdown(results)
    (built,) = (one.built for one in results if one.built)
    assert (
        f"an error of {100 * built.relative_l2:.2f} %, and {100 * built.first_class:.1f} %" in PAGE
    )
    assert {(one.calibrated, one.tested) for one in results} == {(16, 40)}
