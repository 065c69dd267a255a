"""For all tests: few threads, and no GPU test where there is no GPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.support.shell import Command, command_in

# Before TVM is imported, which reads them once. Tests share a machine, with each other and with
# whoever works on it: threads that are few and not pinned keep out of the way.
os.environ.setdefault("TVM_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TVM_BIND_THREADS", "0")
# What whoever runs the tests has tuned decides nothing in them.
os.environ["TVMCONV_RECORDS"] = os.devnull

# The same examples in each run, so that a change and nothing else makes a test fail.
# `make test ARGS=--hypothesis-profile=default` looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


#: Tests whose subject is the graph: importing, passes, reports, batches. What LLVM makes faster
#: there is half of the time of a small build, and no subject of theirs. Kernels, instructions,
#: simulation, loading and running, tuning and whole networks are compiled as users get them, and
#: so is all that is slow.
UNOPTIMIZED = (
    *(
        f"tests/tvmconv/{folder}/"
        for folder in (
            "cli", "compiler", "integrations", "onnx", "passes", "quantization", "reports"
        )
    ),
    "tests/tvmconv/runtime/test_buckets.py",
    "tests/tvmconv/runtime/test_io_form.py",
    "tests/tvmconv/runtime/test_sizes.py",
    "tests/tvmconv/runtime/test_any_shape.py",
)  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Before fixtures of any scope are set up, which may build as well."""
    if not item.nodeid.startswith(UNOPTIMIZED) or item.get_closest_marker("slow"):
        return (yield)
    from tests.support import unoptimized  # imports TVM

    with unoptimized.llvm():
        return (yield)


@functools.cache
def gpu_arch() -> str | None:
    from tvmconv.runtime import gpu  # not before the variables above are set

    return gpu.detect_arch()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and gpu_arch() is None:
        pytest.skip("no NVIDIA GPU can be used here")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`tvmconv` with these arguments, in this process: exit code, stdout, stderr."""
    return command_in(monkeypatch, capsys)
