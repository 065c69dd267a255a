"""The machine and software of a measurement, without which figures cannot be compared."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from time import process_time, sleep
from typing import Any

import tvm

import tvmconv

_LIBRARIES = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy", "torch")
_GPU = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")


def facts(commit: str | None = None) -> dict[str, Any]:
    """Returns commit, processor, threads, versions, and GPUs with drivers and clocks.

    Clocks are those at the time of the call, so call it while the GPU is warm. Unknown facts are
    None. The host's name is left out. ``commit`` overrides git's, as a tree that was sent to
    another machine may have no git or an old one.
    """
    head = _output("git", "rev-parse", "HEAD")
    changed = _output("git", "status", "--porcelain")
    return {
        "commit": commit or (head + (" with changes" if changed else "") if head else None),
        "cpu": _cpu(),
        "threads": tvm.runtime.num_threads(),
        "python": platform.python_version(),
        "tvmconv": tvmconv.__version__,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "gpus": _gpus(),
    }


def busy(seconds: float = 0.3) -> float | None:
    """Returns the share of processor time, 0 to 1, of other programs while this one sleeps.

    None if there is no ``/proc/stat``.
    """
    before, own = _jiffies(), process_time()
    sleep(seconds)
    after, own = _jiffies(), process_time() - own
    if before is None or after is None:
        return None
    total, idle = (later - sooner for later, sooner in zip(after, before, strict=True))
    # Threads of this process that still spin do not count.
    ours = own * os.sysconf("SC_CLK_TCK")
    return max(0.0, 1 - (idle + ours) / total) if total else 0.0


def _jiffies() -> tuple[int, int] | None:
    """Returns all time and idle time since boot of all processors, in the kernel's ticks."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already
    ticks = [int(count) for count in first.split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def _gpus() -> list[dict[str, str]]:
    listed = _output("nvidia-smi", f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader")
    rows = [line.split(", ") for line in (listed or "").splitlines()]
    return [dict(zip(_GPU, row, strict=True)) for row in rows if len(row) == len(_GPU)]


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """Returns what a command prints, run in the source tree; None if it is missing or fails."""
    root = Path(__file__).parents[1]
    try:
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
