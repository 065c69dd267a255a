"""Imports go one way, and folders stay small.

Which package may import which is said by the contracts of import-linter in pyproject.toml, which
`make lint` holds as well. What they can't say is here.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("intrinsics", "schedules", "tvmconv", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: Python files that one folder may hold.
MOST_FILES = 20
#: Imports inside functions, each with its reason: (file, function, module).
LATE: dict[tuple[str, str, str], str] = {
    ("tvmconv/images.py", "_picture", "PIL"): "an extra, which only pictures need",
    (
        "tvmconv/runtime/onnx_step.py",
        "__init__",
        "tvmconv.runtime.session",
    ): "only parts of a network need it",
}


#: In a process of its own, since import-linter finds a package that is imported where that lies.
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"


def broken(folder: Path) -> str:
    """Says which contracts do not hold for the packages in a folder; empty if all hold."""
    command = [sys.executable, "-c", LINT, "--no-cache"]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def test_the_contracts_hold() -> None:
    assert broken(ROOT) == ""


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("schedules/errors.py", "import tvmconv.errors", "Packages import to the left"),
        (
            "tvmconv/runtime/gpu.py",
            "import tvmconv.compiler.build",
            "The wings of tvmconv import downwards",
        ),
        (
            "tvmconv/reports/data/report.py",
            "import tvmconv.runtime.cuda",
            "The wings of tvmconv import downwards",
        ),
        (
            "schedules/conv/layout.py",
            "import schedules.choose",
            "The folders of schedules import downwards",
        ),
        ("tvmconv/specs.py", "import tvmconv.cli.app", "The wings of tvmconv import downwards"),
        (
            "tvmconv/passes/regions/region.py",
            "import tvmconv.passes.regions.absorb_pad",
            "No folder holds a circle of imports",
        ),
        (
            "schedules/families/wmma/config.py",
            "import schedules.families.wgmma.config",
            "Families do not know each other",
        ),
        ("schedules/conv/layout.py", "import tvm", "Descriptions need no TVM"),
        (
            "schedules/conv/layout.py",
            "import schedules.expressions.compute",
            "Descriptions need no TVM",
        ),
        ("intrinsics/wgmma.py", "import tvm_ffi", "Two files of intrinsics speak to TVM"),
        ("tvmconv/runtime/loading.py", "import onnx", "A network runs without ONNX"),
    ],
)
def test_an_import_that_goes_wrong_is_noticed(
    file: str, line: str, contract: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        python = shutil.ignore_patterns("__pycache__", "*.jsonl", "*.npz")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=python)
    with (tmp_path / file).open("a") as planted:
        planted.write(f"{line}\n")
    assert f"{contract} BROKEN" in broken(tmp_path)


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_are_small(package: str) -> None:
    counts = Counter(path.parent for path in FILES if path.relative_to(ROOT).parts[0] == package)
    assert counts
    assert {str(folder): n for folder, n in counts.items() if n > MOST_FILES} == {}


def late_imports() -> set[tuple[str, str, str]]:
    """Every import inside a function: its file, the function, the module."""
    return {
        (path.relative_to(ROOT).as_posix(), function.name, module)
        for path in FILES
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }


def test_imports_are_at_the_top() -> None:
    """An import inside a function hides what a file needs, and a circle with it."""
    assert late_imports() == set(LATE)
