"""Hints at the shell are in its syntax: those in Python's are given twice."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from tvmconv.cli.options import build_options
from tvmconv.compiler.build import build
from tvmconv.errors import TvmconvError
from tvmconv.quantization.quantize import quantize

PACKAGE = Path(__file__).parents[3] / "tvmconv"
FILES = sorted(PACKAGE.rglob("*.py"))
#: Arguments that have an option at the shell. `configs` has none.
ARGUMENTS = sorted(
    {*inspect.signature(build).parameters, *inspect.signature(quantize).parameters} - {"configs"}
)
PYTHON = re.compile(rf"\b({'|'.join(ARGUMENTS)})=")


def in_python_alone(text: str) -> list[str]:
    """Hints of a file that name an argument as Python does, with nothing for the shell."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: word.value for word in node.keywords}
        if "hint" in given and "shell" not in given:
            hint = ast.unparse(given["hint"])
            found += [hint] if PYTHON.search(hint) else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_hint_in_python_has_one_for_the_shell(path: Path) -> None:
    assert in_python_alone(path.read_text()) == []


def test_one_that_has_none_is_noticed() -> None:
    assert in_python_alone('raise E("x", hint=f"give batch={n}")') == ["f'give batch={n}'"]
    assert not in_python_alone('raise E("x", hint="give batch=1", shell="give --batch 1")')
    assert {"batch", "shapes", "keep"} <= set(ARGUMENTS)
    assert "shape" in inspect.signature(build_options).parameters


def test_an_error_tells_the_shell_its_own_hint() -> None:
    both = TvmconvError("what", note="why", hint="batch=1", shell="--batch 1")
    assert (str(both), both.hint) == ("what\n  Note: why\n  Hint: batch=1", "batch=1")
    assert both.at_shell() == "what\n  Note: why\n  Hint: --batch 1"
    assert TvmconvError("what", hint="the same").at_shell() == "what\n  Hint: the same"
