"""Imports go one way: intrinsics <- schedules <- tvmconv <- benchmarks."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Each may import itself and those before it.
ORDER = ("intrinsics", "schedules", "tvmconv", "benchmarks")
FILES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))

#: Plain Python, NumPy and its dtypes: files that a machine with TVM's runtime alone can import.
PLAIN = {
    *(
        f"intrinsics/{name}.py"
        for name in ("__init__", "dtypes", "emulate", "errors", "record", "wmma")
    ),
    *(
        f"schedules/{name}.py"
        for name in (
            *("__init__", "errors", "conv/__init__", "conv/activations", "conv/layout"),
            "conv/precision",
            *("conv/max_pool", "conv/workload", "machine/__init__", "machine/footprint"),
            *("machine/gpus", "machine/hardware", "machine/processor"),
        )
    ),
}
#: Imports inside functions, each with the reason that makes it none of the cycles mended in secret
#: that the rule is against: (file, function, what is imported).
LATE: dict[tuple[str, str, str], str] = {
    ("tvmconv/simulation/pictures.py", "_picture", "PIL"): "an extra, which only pictures need",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST, typing: bool = True) -> Iterator[tuple[ast.stmt, str]]:
    """Every import statement at any depth, with the module each imports from. typing: also those
    for type checkers alone."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    unread = {
        inner
        for block in blocks
        if ast.unparse(block.test) == "TYPE_CHECKING"
        for inner in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in unread and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            assert node.module is not None
            yield node, node.module


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def test_there_are_files_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ORDER)
    assert {name_of(path) for path in FILES} >= PLAIN


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_imports_to_its_right(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = ORDER[: ORDER.index(package) + 1]
    for node, module in imports(parse(path)):
        top = module.partition(".")[0]
        assert top not in ORDER or top in allowed, f"line {node.lineno}: {package} imports {module}"
        assert top != "tests", f"line {node.lineno}: what is tested imports its tests"


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path) in PLAIN], ids=name_of)
def test_plain_files_import_no_tvm(path: Path) -> None:
    for node, module in imports(parse(path), typing=False):
        top = module.partition(".")[0]
        plain = top in sys.stdlib_module_names or top in ("ml_dtypes", "numpy", *ORDER[:2])
        assert plain, f"line {node.lineno}: imports {module}"
        if top in ORDER[:2] and "." in module:
            assert module.replace(".", "/") + ".py" in PLAIN, f"line {node.lineno}: {module}"


def test_one_file_of_intrinsics_speaks_to_tvm() -> None:
    speakers = [
        name_of(path)
        for path in (ROOT / "intrinsics").rglob("*.py")
        if any(module.split(".")[0] in ("tvm", "tvm_ffi") for _, module in imports(parse(path)))
    ]
    assert speakers == ["intrinsics/lower.py"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_are_at_the_top(path: Path) -> None:
    """An import inside a function hides what a file needs, and a cycle with it."""
    for function in ast.walk(parse(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node, module in imports(function):
                allowed = (name_of(path), function.name, module) in LATE
                assert allowed, f"line {node.lineno}: {function.name} imports {module}"
    # An exception that is none any more is taken off the list.
    for file, name, module in LATE:
        if file == name_of(path):
            functions = [f for f in ast.walk(parse(path)) if getattr(f, "name", None) == name]
            assert any(module == found for f in functions for _, found in imports(f))
