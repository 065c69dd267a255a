"""The README keeps its promises: every command and every snippet in it runs.

A fenced block says by its first line what it is:

    ```python        runs as a program of its own, in a folder that has model.onnx
    ```python cuda   the same, where there is a CUDA compiler
    ```python gpu    the same, on a GPU: `make test-gpu`
    ```bash          its `tvmconv` commands run in order in such a folder, which has image.npy too;
                     of `make` and `pip` only what they are asked for is checked
    ```text          is output
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support.shell import Command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
KINDS = ("python", "python cuda", "python gpu", "bash", "text")
HAS_NVRTC = importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bindings")
HAS_CUDA_COMPILER = bool(shutil.which("nvcc") or HAS_NVRTC)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    line: int
    kind: str
    text: str

    @property
    def where(self) -> str:
        return f"line {self.line}"


def blocks(text: str) -> list[Block]:
    found = re.finditer(r"^```(.+)\n((?:(?!```).*\n)*)```$", text, re.MULTILINE)
    return [Block(text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in found]


def of_kind(kind: str) -> pytest.MarkDecorator:
    chosen = [block for block in blocks(README) if block.kind == kind]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.where)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader of the README is assumed to have: a network, and an image for it."""
    # Imported here, as GPU machines with few packages collect this file too.
    import onnx

    rng = np.random.default_rng(0)
    weights = {"w0": (16, 3, 7, 7), "w1": (32, 16, 3, 3), "w2": (10, 32)}
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[batch, 3, 224, 224] input) => (float[batch, 10] output) {
            conv1 = Conv <strides = [4, 4], pads = [3, 3, 3, 3]> (input, w0)
            r0 = Relu(conv1)
            c1 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (r0, w1)
            r1 = Relu(c1)
            p = GlobalAveragePool(r1)
            f = Flatten(p)
            output = Gemm <transB = 1> (f, w2)
        }
        """
    )
    model.graph.node[0].name = "conv1"  # as of the ResNet-18 that a reader has
    for name, shape in weights.items():
        array = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "image.npy", rng.random((1, 3, 224, 224), np.float32))
    return tmp_path


def run(command: list[str], folder: Path) -> None:
    """Run what a reader would, who has this project installed. No `make` is above it."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    environment["PYTHONPATH"] = path
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


def test_every_block_says_what_it_is() -> None:
    found = blocks(README)
    assert 2 * len(found) == README.count("```"), "a fence that opens or closes nothing"
    assert {block.kind for block in found} <= set(KINDS)


#: Runs texts one after the other, each as a program: read out of JSON, from where in the README to
#: the text. One process, as each takes seconds to import what it needs.
PROGRAMS = """
import json, sys, traceback
for where, text in json.loads(sys.argv[1]).items():
    try:
        exec(compile(text, where, "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        sys.exit(f"the block at {where} failed")
"""


def run_all(kind: str, folder: Path) -> None:
    texts = {block.where: block.text for block in blocks(README) if block.kind == kind}
    assert texts
    run([sys.executable, "-c", PROGRAMS, json.dumps(texts)], folder)


def test_python(folder: Path) -> None:
    run_all("python", folder)


@pytest.mark.skipif(not HAS_CUDA_COMPILER, reason="neither nvcc nor NVRTC")
def test_python_for_cuda_without_a_gpu(folder: Path) -> None:
    run_all("python cuda", folder)


@of_kind("python gpu")
@pytest.mark.gpu
def test_python_on_a_gpu(block: Block, folder: Path) -> None:
    if "import torch" in block.text:
        pytest.importorskip("torch")
    run([sys.executable, "-c", block.text], folder)


@of_kind("bash")
def test_bash(
    block: Block, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["tvmconv"]:
            done = command(*words[1:])
            assert done.code == 0, line + done.err
        elif words[:1] == ["make"]:
            run(["make", "-n", *words[1:]], ROOT)
        elif words[:2] == ["pip", "install"]:
            check_installs(words[2:])
        else:
            assert not words, f"this test does not know how to check {line!r}"


def check_installs(what: list[str]) -> None:
    """`pip install` is asked for this project, with extras that it has."""
    (requirement,) = what
    match = re.fullmatch(r"\.(?:\[(.+)\])?", requirement)
    assert match, requirement
    extras = (match[1] or "").split(",") if match[1] else []
    pyproject = (ROOT / "pyproject.toml").read_text()
    for extra in extras:
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), f"no extra {extra!r}"


def test_the_output_shown_is_that_of_the_program() -> None:
    text = README[README.index("<!-- bench output -->") : README.index("<!-- end of bench")]
    header = next(line for line in text.splitlines() if line.startswith("network"))
    for column in ("batch", "ms", "onnxruntime, CPU ms", "ours / it", "relative l2", "tensorized"):
        assert column in header
    assert sum(line.startswith("resnet18") for line in text.splitlines()) == 2


def test_figures_are_those_of_the_recorded_run() -> None:
    runs = [ROOT / path for path in re.findall(r"\((benchmarks/results/h200/bench[^)]+)\)", README)]
    assert len(runs) > 1
    for cell in [cell for run in runs for cell in json.loads(run.read_text())["cells"]]:
        ours = cell["latency"]["compute"]["median_ms"]
        theirs = cell["peers"]["torch.compile"]["median_ms"]
        row = re.search(
            rf"^\| {cell['model']} \| {cell['batch']} \| (.+) \|$", README, re.MULTILINE
        )
        assert row is not None
        *shown, share = (float(text.rstrip("%")) for text in row[1].split(" | "))
        # Three digits are shown; of shares, whole percents.
        assert shown == pytest.approx([ours, theirs, theirs / ours], rel=5e-3)
        assert share == pytest.approx(100 * cell["floor_share"], abs=0.5)


def test_figures_of_convolutions_are_those_of_the_recorded_run() -> None:
    run = json.loads((ROOT / "benchmarks/results/h200/convs.json").read_text())
    told = re.search(
        r"(\S+) times as fast at batch 1, (\S+) at 16 and at 128 .*? at (\d+) TFLOP/s", README
    )
    assert told is not None
    first, both, tutorial = map(float, told.groups())
    assert first == pytest.approx(run["speed_ups"]["1"], abs=5e-3)
    for batch in ("16", "128"):
        assert both == pytest.approx(run["speed_ups"][batch], abs=5e-3)
    (row,) = (row for row in run["rows"] if row["name"] == "tutorial" and row["chosen"])
    assert tutorial == pytest.approx(row["tflops"], abs=0.5)


def test_errors_of_simulated_networks_are_those_of_the_recorded_run() -> None:
    (path,) = re.findall(r"\((benchmarks/results/simulated/[^)]+)\)", README)
    found = json.loads((ROOT / path).read_text())
    assert {(one["numerics"], one["activations"], one["images"]) for one in found.values()} == {
        ("v100", "float32", 10)
    }
    errors = [output["f_2"] for one in found.values() for output in one["outputs"]]
    (paragraph,) = (line for line in README.splitlines() if path in line)
    assert all(f"{error:.4f} %" in paragraph for error in errors), errors


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_files_named_exist(page: str) -> None:
    path = ROOT / page
    linked = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    files = r"`((?:tvmconv|schedules|intrinsics|benchmarks|docs|tests)/[^`]*)`"
    named = re.findall(files, path.read_text())
    assert linked
    assert named
    missing = [name for name in linked if not (path.parent / name).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"{page} names what is not there"


def test_every_file_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = ("intrinsics", "intrinsics/volta", "schedules", "tvmconv", "benchmarks")
    files = {str(p.relative_to(ROOT)) for f in folders for p in (ROOT / f).glob("*.py")}
    unnamed = {file for file in files if f"`{file}`" not in text and "__init__" not in file}
    assert not unnamed


def test_zoo_networks_named_exist() -> None:
    from benchmarks.zoo import zoo

    for names in re.findall(r"MODELS=(\S+)", README):
        assert set(names.split(",")) <= set(zoo.names())
