"""A family of one's own, in a script, a notebook or a module: registered, measured and built."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import schedules
import tvmconv
from schedules import registry
from schedules.families.wmma.family import WmmaFamily
from tests.support import networks
from tvmconv.errors import TuningError
from tvmconv.tuning.measure import require_portable

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cloudpickle") is None, reason="the tune extra is not installed"
)

#: As somebody would write it: the WMMA family with a default tile of one fragment.
FAMILY = """
from dataclasses import replace

import schedules
from schedules.families.wmma.family import WmmaFamily

SMALLEST = dict(warps_m=1, warps_k=1, fragments_m=1, fragments_k=1)


class SmallTile(WmmaFamily):
    def __init__(self):
        super().__init__("small_tile", packed=False)

    def match(self, w, hardware):
        answer = super().match(w, hardware)
        if isinstance(answer, schedules.Reject):
            return answer
        return schedules.Match(self.name, replace(answer.config, **SMALLEST))

    def space(self, w, hardware):
        answer = self.match(w, hardware)
        if isinstance(answer, schedules.Match):
            yield answer.config
            yield replace(answer.config, fragments_m=2)
"""

#: Registers it, tunes with it alone, and builds by what was recorded.
USE = """
import sys
import tvmconv
from tests.support.models import Graph

graph, records = Graph([1, 16, 6, 6]), sys.argv[1]
model = graph.model(graph.op("Relu", graph.conv("input", 16, 16)))
report = tvmconv.tune(
    model, "llvm", batch=1, families=["small_tile"], most=2, jobs=1, records=records
)
assert [layer.status for layer in report.layers] == ["measured"], str(report)
assert all(layer.candidates == 2 for layer in report.layers), str(report)
assert all(layer.choice.startswith("small_tile, ") for layer in report.layers)

exe = tvmconv.build(model, "llvm", batch=1, records=records)
assert {conv.family for conv in exe.report.convs} == {"small_tile"}
assert all(conv.tuned for conv in exe.report.convs)
assert tvmconv.compare(model, exe).passed(5e-3)
print("done")
"""
REGISTER = "\nschedules.register(SmallTile())\n"


def run(*arguments: object, cwd: Path) -> None:
    """A Python of its own, that finds this checkout and its tests."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


@pytest.mark.slow  # the page of `test_extending` is a script too
def test_in_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FAMILY + REGISTER + USE)
    run(script, tmp_path / "r.jsonl", cwd=tmp_path)


@pytest.mark.slow
def test_in_a_notebook(tmp_path: Path) -> None:
    """Cells are executed in `__main__`, which is no file; here one twice, as happens."""
    register = "\nschedules.register(SmallTile(), replace=True)\n"
    cells = [FAMILY, register, FAMILY + register, USE]
    kernel = "import sys, __main__\nfor cell in {!r}:\n    exec(cell, __main__.__dict__)\n"
    run("-c", kernel.format(cells), tmp_path / "r.jsonl", cwd=tmp_path)


@pytest.mark.slow
def test_in_a_module_beside_the_script(tmp_path: Path) -> None:
    """The processes that measure find it where the script does, wherever they are started."""
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "small_tile.py").write_text(FAMILY)
    script = beside / "script.py"
    script.write_text("import schedules\nfrom small_tile import SmallTile\n" + REGISTER + USE)
    run(script, tmp_path / "r.jsonl", cwd=tmp_path)


# --- what can't be sent ---------------------------------------------------------------------
class Locked(WmmaFamily):
    """Holds what no process can be sent."""

    def __init__(self) -> None:
        super().__init__("locked", packed=False)
        self.lock = threading.Lock()


@pytest.fixture
def locked() -> Iterator[Locked]:
    before = schedules.registered()
    yield schedules.register(Locked())
    registry._registered = before


def test_what_can_not_be_sent_is_said_before_anything_is_measured(
    locked: Locked, tmp_path: Path
) -> None:
    with pytest.raises(TuningError, match="family 'locked' can't be sent") as told:
        tvmconv.tune(networks.small(), "llvm", batch=1, families=["locked"], records=tmp_path / "r")
    assert "lock" in told.value.note
    assert "define it in a module" in told.value.hint
    assert not (tmp_path / "r").exists()


def test_those_that_ship_can_be_sent() -> None:
    for one in registry.FAMILIES:
        require_portable(one)


def test_a_record_of_a_family_that_is_not_here_is_left_out_and_said(tmp_path: Path) -> None:
    path, model = tmp_path / "r.jsonl", networks.small()
    before: Any = schedules.registered()
    schedules.register(WmmaFamily("mine", packed=False))
    try:
        tvmconv.set_record(
            model, "first", {"family": "mine", "config": {"warps_m": 1}}, "llvm", batch=1,
            records=path,
        )  # fmt: skip
        (conv, _) = tvmconv.inspect(model, "llvm", batch=1, records=path).plan.convs
        assert conv.family == "mine"
    finally:
        registry._registered = before
    with pytest.warns(UserWarning, match="family mine is not registered"):
        (conv, _) = tvmconv.inspect(model, "llvm", batch=1, records=path).plan.convs
    assert conv.family == "wmma_nhwc"
