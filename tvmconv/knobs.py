"""Every environment variable that changes what tvmconv does.

Our own are read here; those of TVM and CUDA by them, and by `tvmconv.runtime.toolchain`, which
completes them where it finds a compiler.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Knob:
    """An environment variable, its default in words, and its effect."""

    name: str
    default: str
    meaning: str


KNOBS: tuple[Knob, ...] = (
    Knob("TVM_NUM_THREADS", "all cores", "CPU threads that run a network built for llvm"),
    Knob("TVM_BIND_THREADS", "0", "1 pins TVM's threads, and the caller's, to cores"),
    Knob("TVM_CUDA_COMPILE_MODE", "nvcc, else nvrtc", "the CUDA compiler: nvcc or nvrtc"),
    Knob("TVM_CUDA_NVCC_NO_FAST_MATH", "1", "empty lets nvcc use fast, less exact arithmetic"),
    Knob("TVM_CUDA_PTXAS_REG_LEVEL", "5", "how hard ptxas saves registers, 0 to 10"),
    Knob("CUDA_HOME", "/usr/local/cuda", "where nvcc is looked for, when it is not on PATH"),
    Knob("CUDA_PATH", "NVIDIA's wheels", "where NVRTC finds its headers"),
    Knob("TVM_CUDA_NVRTC_EXTRA_OPTS", "exact arithmetic", "further options for NVRTC"),
    Knob("CC", "gcc", "C compiler, to link libraries and to stand in for a missing GPU driver"),
    Knob(
        "TVMCONV_PAIR",
        "what costs less",
        "1 computes a depthwise and the 1x1 convolution after it in one kernel wherever it can, "
        "0 never; on llvm never",
    ),
    Knob(
        "TVMCONV_RECORDS",
        "~/.local/share/tvmconv/records",
        "folder of your own tuning records, one file for each architecture",
    ),
    Knob("TVMCONV_DUMP", "", "folder for the module after every pass; of buckets, the smallest's"),
)


def dump_folder() -> Path | None:
    """The folder where a build writes its module after every pass, or None."""
    folder = os.environ.get("TVMCONV_DUMP", "")
    return Path(folder) if folder else None


def records_folder() -> Path:
    """The folder of a user's own records, in the data folder of the XDG specification."""
    if folder := os.environ.get("TVMCONV_RECORDS", ""):
        return Path(folder)
    data = os.environ.get("XDG_DATA_HOME", "") or Path.home() / ".local" / "share"
    return Path(data) / "tvmconv" / "records"


def pair() -> bool | None:
    """True or False if pairs of convolutions always or never become one kernel, None for what is
    estimated to cost less. See `tvmconv.passes.plan.pair_convs`."""
    return {"1": True, "0": False}.get(os.environ.get("TVMCONV_PAIR", ""))


def cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _set_defaults() -> None:
    """TVM by itself takes half the cores it sees and pins the caller's thread to one of them."""
    os.environ.setdefault("TVM_NUM_THREADS", str(cores()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


_set_defaults()
