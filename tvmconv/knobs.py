"""Environment variables that change the behaviour of tvmconv.

Its own are read here. Those of TVM and CUDA are read by TVM and CUDA; `tvmconv.compiler.toolchain`
sets some of them when it has found a compiler.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from intrinsics.errors import TvmconvError


@dataclass(frozen=True)
class Knob:
    """An environment variable: its name, its default in words, and its meaning."""

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
        "TVMCONV_GATE",
        "on a CPU what costs less, on a GPU 0",
        "1 multiplies by the gate of squeeze-and-excite in the convolution that reads the product "
        "wherever it can, 0 never, auto where it is estimated to cost less",
    ),
    Knob(
        "TVMCONV_RECORDS",
        "~/.local/share/tvmconv/records",
        "folder of your own tuning records, one file for each architecture",
    ),
    Knob(
        "TVMCONV_BUCKETS",
        "beside the artifact",
        "folder for buckets that are compiled when their shapes are first fed",
    ),
    Knob("TVMCONV_BUCKETS_MOST", "32", "buckets kept there, and in memory; then the oldest go"),
    Knob("TVMCONV_DUMP", "", "folder for the module after every pass; of buckets, the smallest's"),
)


def dump_folder() -> Path | None:
    """The folder for a build's module after every pass, or None."""
    folder = os.environ.get("TVMCONV_DUMP", "")
    return Path(folder) if folder else None


def records_folder() -> Path:
    """The folder of the user's tuning records; by default in the XDG data folder."""
    if folder := os.environ.get("TVMCONV_RECORDS", ""):
        return Path(folder)
    data = os.environ.get("XDG_DATA_HOME", "") or Path.home() / ".local" / "share"
    return Path(data) / "tvmconv" / "records"


def buckets_folder() -> Path | None:
    """The folder of buckets that are compiled when they are first fed, if one is named."""
    folder = os.environ.get("TVMCONV_BUCKETS", "")
    return Path(folder) if folder else None


def most_buckets() -> int:
    """The most of those buckets that are kept. Raises `TvmconvError` unless it is 1 or more."""
    text = os.environ.get("TVMCONV_BUCKETS_MOST", "") or "32"
    if not text.isdecimal() or int(text) < 1:
        raise TvmconvError(
            f"TVMCONV_BUCKETS_MOST is {text!r}", hint="give a number of buckets, 1 or more"
        )
    return int(text)


def pair() -> bool | None:
    """True if pairs of convolutions become one kernel, None to choose by estimated cost.

    See `tvmconv.passes.plan.pair_convs`.
    """
    return {"1": True, "0": False}.get(os.environ.get("TVMCONV_PAIR", ""))


def gate(kind: str) -> bool | None:
    """Tells where a convolution multiplies by the gate of squeeze-and-excite before it: wherever
    it can, or never; None for what is estimated to cost less. kind: of target, TVM's name.

    See `tvmconv.passes.plan.absorb_gate`. On a GPU never by default: its cost was not measured on a
    card yet. Raises `TvmconvError` for another value.
    """
    default = "0" if kind == "cuda" else "auto"
    text = os.environ.get("TVMCONV_GATE", "") or default
    if text not in ("0", "1", "auto"):
        raise TvmconvError(f"TVMCONV_GATE is {text!r}", hint="one of 0, 1, auto")
    return {"1": True, "0": False, "auto": None}[text]


def cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _set_defaults() -> None:
    """Sets TVM's threads: by default it takes half of the cores and pins the caller's thread."""
    os.environ.setdefault("TVM_NUM_THREADS", str(cores()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


_set_defaults()
