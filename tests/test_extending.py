"""docs/extending.md is followed: its Python runs, its tables hold, its commands are there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schedules import choose
from schedules.conv.precision import INT8, SCALE
from schedules.conv.workload import ConvWorkload
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from tests.support.models import Graph
from tests.support.shell import Command
from tests.support.workloads import pair, quantised_pair

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
DEPTHWISE = ConvWorkload(
    128, 56, 56, 144, 144, 3, 3, padding=(1, 1, 1, 1), groups=144,
    precision=replace(INT8, result="int8", scales=(SCALE,)),
)  # fmt: skip
PAIR = quantised_pair(pair((128, 56, 56, 144), 24, 3, 3), "uint8", "uint8", "int8")
#: Machines and layers for which a family of the page is chosen, by the first name that it offers.
LAYERS = {
    "ROWS": ("sm_90a", ConvWorkload(32, 14, 14, 256, 256, 3, 3, padding=(1, 1, 1, 1))),
    "GPU_TILES": ("sm_80", ConvWorkload(1, 14, 14, 256, 256, 3, 3, padding=(1, 1, 1, 1))),
    "GPU_WARPS": ("sm_75", ConvWorkload(8, 14, 14, 256, 256, 3, 3, padding=(1, 1, 1, 1))),
    "WORDS": ("sm_80", DEPTHWISE),
    "TILES": ("sm_90a", PAIR),
    "CPU_ROWS": ("llvm", ConvWorkload(1, 14, 14, 256, 256, 3, 3, padding=(1, 1, 1, 1))),
}


def rows() -> list[tuple[str, list[str], str]]:
    """Family, names of what it offers, and file, of the table of default tiles."""
    found = re.findall(
        r"^\| `(\w+)` \| .* \| (.*) \| `(schedules/\S+\.py)` \|$", PAGE, re.MULTILINE
    )
    return [(family, re.findall(r"`(\w+)`", names), file) for family, names, file in found]


def hardware(name: str) -> Hardware:
    return next(one for one in (CPU, *CUDA_ARCHS) if name in (one.name, one.kind))


@pytest.mark.parametrize(("family", "names", "file"), rows(), ids=lambda x: str(x)[:20])
def test_what_is_offered_decides_the_default(
    family: str, names: list[str], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    arch, w = LAYERS[names[0]]
    machine = hardware(arch)
    choose.forget()
    before = choose.choose(w, machine)
    assert before.family.name == family
    changed = []
    for name in names:
        offered: Any = getattr(module, name)
        kept = list(offered)
        for one in kept:
            only = {one: offered[one]} if isinstance(offered, dict) else (one,)
            monkeypatch.setattr(module, name, only)
            choose.forget()
            after = choose.choose(w, machine)
            changed.append((after.family.name, after.config) != (family, before.config))
        monkeypatch.setattr(module, name, offered)
    choose.forget()
    assert any(changed), f"{names} decide nothing"


def test_every_row_of_the_page_has_a_layer() -> None:
    assert {names[0] for _, names, _ in rows()} == LAYERS.keys()


@pytest.mark.skipif(importlib.util.find_spec("cloudpickle") is None, reason="no tune extra")
def test_the_page_runs(tmp_path: Path) -> None:
    """All blocks of Python, as one program."""
    g = Graph([8, 16, 14, 14])
    y = g.op("Relu", g.conv("input", 16, 64, name="c0"))
    (tmp_path / "model.onnx").write_bytes(g.model(g.conv(y, 64, 64, name="c1")).SerializeToString())
    g = Graph(["n", 16, 10, 10])
    (tmp_path / "small.onnx").write_bytes(
        g.model(g.op("Relu", g.conv("input", 16, 16, name="c0"))).SerializeToString()
    )
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    program = tmp_path / "page.py"
    program.write_text('if __name__ == "__main__":\n' + _indented("\n".join(blocks)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TVMCONV_RECORDS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.split("\n"))


def test_its_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    g = Graph([8, 16, 14, 14])
    y = g.op("Relu", g.conv("input", 16, 64, name="c0"))
    (tmp_path / "model.onnx").write_bytes(g.model(g.conv(y, 64, 64, name="c1")).SerializeToString())
    monkeypatch.chdir(tmp_path)
    commands = [line for line in PAGE.splitlines() if line.startswith("tvmconv ")]
    assert len(commands) == 4
    for line in commands:
        said = command(*shlex.split(line)[1:])
        assert said.code == 0, said.err
        assert "Hint" not in said.err, said.err
    assert "pinned" in said.out
