"""The notebooks run: their cells in order, as a program of its own, where nothing is shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    return [
        "".join(cell["source"])
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == kind
    ]


def outputs(name: str, folder: Path, edits: dict[str, str] | None = None) -> str:
    """What a notebook prints, with some of its text replaced first."""
    pytest.importorskip("matplotlib")
    text = "\n\n".join(cells(ROOT / "notebooks" / f"{name}.ipynb", "code"))
    for old, new in (edits or {}).items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    program = folder / "program.py"
    program.write_text(text)
    environment = {
        **os.environ,
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["inside_a_tensor_core", "tune_a_convolution"]


@pytest.mark.slow
def test_tune_a_convolution(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    printed = outputs("tune_a_convolution", tmp_path)
    assert "chosen by the model: wmma_nhwc" in printed
    assert "swizzle 7 does not divide" in printed
    assert printed.splitlines()[-2].startswith("by hand ")
    assert "inf" not in printed, "something was not measured"


def test_inside_a_tensor_core(tmp_path: Path) -> None:
    printed = outputs("inside_a_tensor_core", tmp_path)
    assert "the product is right: True" in printed
    assert "lane 17, R14: bc004000 -> 56404000" in printed
    steps = re.findall(r"^set (\d) step (\d): lane", printed, re.MULTILINE)
    assert steps == [("3", "0"), ("3", "2")]
    assert "16 results differ, 16 were reached" in printed
    assert "A[5,8] = 2.0, A[5,9] = 100.0" in printed
    means = dict(re.findall(r"^(\w+) +mean (\S+),", printed, re.MULTILINE))
    assert abs(float(means["exact"])) < 0.1
    assert float(means["v100"]) < float(means["a100"]) < float(means["h100"]) < -0.5
    left = re.findall(r"(\d) x 2\^-13", printed)
    assert left == ["3", "3", "0", "2", "3"]


@pytest.mark.parametrize(
    "edits",
    [
        {'program(F32, a_layout="row", b_layout="col")': 'program(F16, "col", "row")'},
        {"column, value = A, 5, 9, 100.0": "column, value = B, 14, 3, -7.0"},
        {"column, value = A, 5, 9, 100.0": "column, value = A, 0, 0, np.nan"},
    ],
    ids=["fp16", "of B", "NaN"],
)
def test_inside_a_tensor_core_with_what_a_reader_may_change(
    edits: dict[str, str], tmp_path: Path
) -> None:
    printed = outputs("inside_a_tensor_core", tmp_path, edits)
    found = re.search(r"(\d+) results differ, 16 were reached", printed)
    assert found is not None
    assert int(found[1]) > 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
