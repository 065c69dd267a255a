"""What is shipped, what it needs, and what `make` offers."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import tvmconv

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SHIPPED = ("intrinsics", "schedules", "tvmconv")
EMULATOR = ROOT / "schedules" / "threads" / "emulator"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]

# Modules that are not called as the package that brings them.
PACKAGES = {
    "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
    "google": "protobuf",
    "cuda": "cuda-bindings",
    "PIL": "pillow",
    "ml_dtypes": "ml-dtypes",
}


def names(requirements: list[str]) -> set[str]:
    """The packages that requirements are about."""
    return {re.split(r"[\[=<>~! ]", requirement)[0] for requirement in requirements}


def imports(folder: str) -> set[str]:
    """The packages that must be installed for what is imported anywhere in ``folder``."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    ours = {*SHIPPED, "benchmarks", *sys.stdlib_module_names}
    return {PACKAGES.get(module, module) for module in found - ours}


# --- what is shipped, and what it needs -----------------------------------------------------
def test_the_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"tvmconv-{tvmconv.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    about = f"tvmconv-{tvmconv.__version__}.dist-info"
    folders = {name.split("/")[0] for name in shipped}
    assert folders == {*SHIPPED, about}
    sources = {str(p.relative_to(ROOT)) for d in SHIPPED for p in (ROOT / d).rglob("*.py")}
    sources |= {str(p.relative_to(ROOT)) for p in EMULATOR.glob("*.[ch]*")}
    assert {name for name in shipped if name.endswith((".py", ".h", ".cpp"))} == sources
    assert f"{about}/licenses/LICENSE" in shipped
    assert "tvmconv/records/sm_90a.jsonl" in shipped


def test_what_the_shipped_code_imports_is_required() -> None:
    required = names(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    optional = names(extras["cuda"] + extras["pictures"])
    imported = set().union(*(imports(folder) for folder in SHIPPED))
    assert required <= imported, "required, and used nowhere"
    assert imported <= required | optional


def test_what_the_benchmarks_import_is_in_their_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    at_hand = names(PROJECT["dependencies"] + extras["bench"] + extras["cuda"]) | {"torch"}
    assert imports("benchmarks") <= at_hand


def test_the_console_script_exists() -> None:
    assert PROJECT["scripts"] == {"tvmconv": "tvmconv.cli.app:main"}
    from tvmconv.cli.app import main

    assert callable(main)


# --- the TVM pair ---------------------------------------------------------------------------
PAIR = [f"{name}=={version}" for name, version in tvmconv.TVM_PAIR.items()]


def import_with(versions: dict[str, str | None]) -> subprocess.CompletedProcess[str]:
    """`import tvmconv` where the packages claim these versions; None: has no metadata."""
    code = f"""
import sys
from importlib import metadata
claimed, real = {versions!r}, metadata.version
def version(name):
    if name in claimed and claimed[name] is None:
        raise metadata.PackageNotFoundError(name)
    return claimed.get(name) or real(name)
metadata.version = version
try:
    import tvmconv
finally:
    print("tvm was loaded" if "tvm" in sys.modules else "tvm was not loaded")
"""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_pinned_pair_is_the_checked_pair() -> None:
    assert set(PAIR) <= set(PROJECT["dependencies"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"apache-tvm-ffi": "0.1.15.post2"},
        {"apache-tvm": "0.26.0"},
        {"apache-tvm": "0.26.0", "apache-tvm-ffi": "0.1.15.post2"},
    ],
    ids=str,
)
def test_a_wrong_pair_is_refused_before_tvm_is_loaded(wrong: dict[str, str | None]) -> None:
    done = import_with(wrong)
    assert done.returncode == 1, done
    assert "tvm was not loaded" in done.stdout
    message = done.stderr[done.stderr.rindex("ImportError:") :]
    for name, version in wrong.items():
        assert f"{name} {version}" in message
    assert "segmentation fault" in message
    hint = re.search(r"pip install (.*)", message)
    assert hint, message
    assert hint[1].replace("'", "").split() == PAIR


def test_a_tvm_without_metadata_is_accepted() -> None:
    done = import_with(dict.fromkeys(tvmconv.TVM_PAIR))
    assert done.returncode == 0, done.stderr


# --- make -----------------------------------------------------------------------------------
MAKEFILE = (ROOT / "Makefile").read_text()
(PHONY,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
TARGETS = PHONY.split()


def make(*arguments: str) -> str:
    """What `make` prints; a `make test` around this test hands nothing down to it."""
    environment = {k: v for k, v in os.environ.items() if k in ("HOME", "PATH")}
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_explains_every_target() -> None:
    lines = [line.split(maxsplit=1) for line in make("help").splitlines()]
    assert [line[0] for line in lines] == TARGETS
    assert all(len(line) == 2 for line in lines)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_made(target: str) -> None:
    assert make("-n", target)


@pytest.mark.parametrize("target", ["bench", "test"])
def test_bench_and_test_set_themselves_up(target: str) -> None:
    assert "-m venv" in make("-n", "VENV=build/no-such-venv", target)


def test_bench_takes_models_batches_and_a_target() -> None:
    command = make("-n", "bench", "MODELS=resnet18,resnet50", "BATCHES=1,8", "TARGET=llvm")
    assert "--models resnet18,resnet50 --batches 1,8 --target llvm" in command


def test_an_interpreter_of_ones_own_needs_no_setup() -> None:
    assert make("-n", "test-gpu", "PY=python3").strip() == "python3 -m pytest -m gpu"


def test_an_old_python_is_refused_in_words(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1); $2"\n'
    )
    old.chmod(0o755)
    with pytest.raises(AssertionError, match=r"Python 3\.9 will not do"):
        make(f"VENV={tmp_path / 'venv'}", f"PYTHON={old}", "setup")


def test_the_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
