"""For all tests: few threads, and no GPU test where there is no GPU."""

from __future__ import annotations

import functools
import os

import pytest

from tests.support.shell import Command, command_in

# Before TVM is imported, which reads them once. Tests share a machine, with each other and with
# whoever works on it: threads that are few and not pinned keep out of the way.
os.environ.setdefault("TVM_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TVM_BIND_THREADS", "0")
# What whoever runs the tests has tuned decides nothing in them.
os.environ["TVMCONV_RECORDS"] = os.devnull


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
