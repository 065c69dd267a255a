"""Every public name says what it is, and begins with that."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("intrinsics", "schedules", "tvmconv", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: Answers to questions that nobody printed.
ANSWER = re.compile(r"(Of|What|Where|Whether|Who|How)\b")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(
    node: Documented, name: str = "", public: bool = True
) -> Iterator[tuple[Documented, str, bool]]:
    """A module's own classes and functions, and theirs: each with its name, and if it is public.

    Functions inside functions are left out.
    """
    yield node, name, public
    if isinstance(node, ast.Module | ast.ClassDef):
        for one in node.body:
            if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                visible = public and not one.name.startswith("_")
                yield from documented(one, f"{name}.{one.name}".strip("."), visible)


def complaints(text: str) -> list[str]:
    """Says what is wrong with the docstrings of a file."""
    found = []
    for node, name, public in documented(ast.parse(text)):
        line, docstring = getattr(node, "lineno", 1), ast.get_docstring(node)
        if docstring is None and public and text:
            found.append(f"line {line}: {name or 'the module'} has no docstring")
        if docstring is not None and (begins := ANSWER.match(docstring)):
            found.append(f"line {line}: {name or 'the module'} begins with {begins[1]!r}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings(path: Path) -> None:
    assert complaints(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import os", "line 1: the module has no docstring"),
        ('"""A."""\ndef f(): pass', "line 2: f has no docstring"),
        ('"""A."""\nclass C:\n  """C."""\n  @property\n  def p(self): pass', "line 5: C.p has no"),
        ('"""A."""\ndef _f():\n  """Whether it is."""', "line 2: _f begins with 'Whether'"),
        ('"""Of a thing."""', "line 1: the module begins with 'Of'"),
    ],
)
def test_what_is_missing_is_noticed(text: str, complaint: str) -> None:
    (found,) = complaints(text)
    assert found.startswith(complaint)


def test_private_names_need_no_docstring() -> None:
    assert complaints('"""A."""\ndef _f(): pass\nclass _C:\n  def f(self): pass') == []
