"""The time of one launch of a kernel: on a GPU here, on a CPU here, or behind a tracker.

Launches follow each other on the same operands. So what fits the second-level cache (50 MB on an
H200) is read from there, as activations are in a network, whose writer has just run; of weights
that is true where those of the whole network fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import tvm
from tvm.s_tir.meta_schedule.runner import RPCConfig

import tvmconv.runtime.tensor_map  # noqa: F401 - kernels call what it registers
from tvmconv.runtime import cuda as cuda_runtime

#: Rough duration of a sample, in microseconds, and its most launches.
SAMPLE_US, MOST_LAUNCHES = 500.0, 200
#: Seconds after which a tracker gives a machine to someone else.
SESSION_S = 600


def launches_for(us: float) -> int:
    """Launches in a sample of a kernel that takes `us`, so that starting them hardly counts."""
    return max(1, min(MOST_LAUNCHES, math.ceil(SAMPLE_US / max(us, 1e-3))))


@dataclass(frozen=True)
class Tracker:
    """TVM's RPC tracker, and the key of the machines behind it that measure.

    Kernels whose host code calls ours, those of the WGMMA family, run only where the server has
    imported `tvmconv.runtime.tensor_map`.
    """

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"{self.key} at {self.host}:{self.port}"


class Place(Protocol):
    """A device that measures kernels."""

    device: Any

    def load(self, path: str) -> Any:
        """The compiled kernel as a TVM module, whose function is ``main``."""

    def sampler(self, module: Any, arguments: Sequence[Any], launches: int) -> Callable[[], float]:
        """Gives, at each call, microseconds of one launch, the mean over `launches` of them. The
        function has run once before."""


class HostPlace:
    """This machine's processor."""

    def __init__(self) -> None:
        self.device = tvm.cpu()

    def load(self, path: str) -> Any:
        """As of `Place`."""
        return tvm.runtime.load_module(path)

    def sampler(self, module: Any, arguments: Sequence[Any], launches: int) -> Callable[[], float]:
        """As of `Place`."""
        function = module["main"]

        def sample() -> float:
            start = perf_counter()
            for _ in range(launches):
                function(*arguments)
            return (perf_counter() - start) * 1e6 / launches

        return sample


class CudaPlace:
    """This machine's first GPU, by `cuda_runtime.launch_sampler`. Raises `TargetError` for CUDA's
    errors."""

    def __init__(self) -> None:
        self.device = tvm.cuda(0)

    def load(self, path: str) -> Any:
        """As of `Place`."""
        return tvm.runtime.load_module(path)

    def sampler(self, module: Any, arguments: Sequence[Any], launches: int) -> Callable[[], float]:
        """As of `Place`, by a CUDA graph of all launches."""
        self.device.sync()
        return cuda_runtime.launch_sampler(self.device, module["main"], arguments, launches)


class RemotePlace:
    """A machine behind an RPC tracker, by TVM's time evaluator.

    It launches one kernel after the other, without a graph: kernels that take less than it takes
    to start them, some microseconds, can't be told apart.
    """

    def __init__(self, tracker: Tracker, kind: str) -> None:
        configuration = RPCConfig(
            tracker.host, tracker.port, tracker.key, session_timeout_sec=SESSION_S
        )
        self._session = configuration.connect_server()
        self._loaded: dict[str, Any] = {}
        self.device = self._session.device(kind, 0)

    def load(self, path: str) -> Any:
        """As of `Place`; uploads the library first."""
        # Once: a library that is loaded must not be written over.
        if path not in self._loaded:
            self._session.upload(path)
            self._loaded[path] = self._session.load_module(Path(path).name)
        return self._loaded[path]

    def sampler(self, module: Any, arguments: Sequence[Any], launches: int) -> Callable[[], float]:
        """As of `Place`."""
        evaluator = module.time_evaluator("main", self.device, number=launches, repeat=1)

        def sample() -> float:
            return float(evaluator(*arguments).results[0]) * 1e6

        return sample


def place(kind: str, tracker: Tracker | None) -> Place:
    """The device that measures kernels for target ``kind``, "cuda" or "llvm"."""
    if tracker is not None:
        return RemotePlace(tracker, {"cuda": "cuda", "llvm": "cpu"}[kind])
    return CudaPlace() if kind == "cuda" else HostPlace()
