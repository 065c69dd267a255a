"""The table of planted faults holds for the code as it is. `make test-faults` plants them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from schedules.families.simulated.family import HmmaSimFamily
from schedules.registry import FAMILIES
from tests.faults.run import SUITES
from tests.faults.table import FAULTS, Fault

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.name)
def test_its_text_is_there_once_and_so_are_its_tests(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
    assert fault.new != fault.old
    assert fault.suite in SUITES
    assert all((ROOT / one.partition("::")[0]).exists() for one in fault.selection if "/" in one)


def test_names_are_unique() -> None:
    assert len({one.name for one in FAULTS}) == len(FAULTS) >= 30


def test_every_family_and_every_pass_has_one() -> None:
    broken = {one.breaks for one in FAULTS}
    families = {f"family {one.name}" for one in (*FAMILIES, HmmaSimFamily())}
    passes = {f"pass {name}" for name in _generate().pass_docs()}
    assert families | passes <= broken
    claimed = {one for one in broken if one.startswith(("family ", "pass "))}
    assert claimed <= families | passes


def _generate() -> Any:
    """The script that writes docs/passes.md: it knows the passes of a build."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module
