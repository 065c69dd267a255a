"""The time of one launch of a kernel: on this machine's GPU or CPU, or behind a tracker.

Launches follow each other on the same operands, so operands that fit in L2 (50 MB on an H200) are
read from there. In a network this is also true of activations, whose writer has just run, and of
weights if those of the whole network fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import tvm
from tvm.s_tir.meta_schedule.runner import RPCConfig

import tvmconv.runtime.tensor_map  # noqa: F401 - kernels call what it registers
from tvmconv.runtime import cuda as cuda_runtime

#: Rough duration of a sample in microseconds, and largest number of its launches.
SAMPLE_US, MOST_LAUNCHES = 500.0, 200
#: Seconds after which a tracker takes a machine back.
SESSION_S = 600


def launches_for(us: float) -> int:
    """Returns the launches of a sample, so many that starting them is negligible."""
    return max(1, min(MOST_LAUNCHES, math.ceil(SAMPLE_US / max(us, 1e-3))))


@dataclass(frozen=True)
class Tracker:
    """TVM's RPC tracker, and the key of the machines behind it that measure.

    The host code of kernels of the wgmma family calls ours, so their server has to import
    `tvmconv.runtime.tensor_map`.
    """

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"{self.key} at {self.host}:{self.port}"


class Place(Protocol):
    """A device that measures kernels."""

    device: tvm.runtime.Device

    def load(self, path: str) -> tvm.runtime.Module:
        """Returns the compiled kernel as a TVM module with the function ``main``."""

    def sampler(
        self, module: tvm.runtime.Module, arguments: Sequence[tvm.runtime.Tensor], launches: int
    ) -> Callable[[], float]:
        """Returns a function that measures microseconds per launch, the mean of `launches`.

        The kernel has run once before.
        """


class HostPlace:
    """This machine's CPU."""

    def __init__(self) -> None:
        self.device = tvm.cpu()

    def load(self, path: str) -> tvm.runtime.Module:
        """Returns the kernel's module; see `Place`."""
        return tvm.runtime.load_module(path)

    def sampler(
        self, module: tvm.runtime.Module, arguments: Sequence[tvm.runtime.Tensor], launches: int
    ) -> Callable[[], float]:
        """Returns the sampler, by the clock; see `Place`."""
        function = module["main"]

        def sample() -> float:
            start = perf_counter()
            for _ in range(launches):
                function(*arguments)
            return (perf_counter() - start) * 1e6 / launches

        return sample


class CudaPlace:
    """This machine's first GPU. Raises `TargetError` for CUDA's errors."""

    def __init__(self) -> None:
        self.device = tvm.cuda(0)

    def load(self, path: str) -> tvm.runtime.Module:
        """Returns the kernel's module; see `Place`."""
        return tvm.runtime.load_module(path)

    def sampler(
        self, module: tvm.runtime.Module, arguments: Sequence[tvm.runtime.Tensor], launches: int
    ) -> Callable[[], float]:
        """Returns the sampler, by a CUDA graph of all launches; see `Place`."""
        self.device.sync()
        return cuda_runtime.launch_sampler(self.device, module["main"], arguments, launches)


class RemotePlace:
    """A machine behind an RPC tracker, by TVM's time evaluator.

    It launches kernels one by one, without a graph: differences between kernels that are shorter
    than a launch, some microseconds, do not show.
    """

    def __init__(self, tracker: Tracker, kind: str) -> None:
        configuration = RPCConfig(
            tracker.host, tracker.port, tracker.key, session_timeout_sec=SESSION_S
        )
        self._session = configuration.connect_server()
        self._loaded: dict[str, tvm.runtime.Module] = {}
        self.device = self._session.device(kind, 0)

    def load(self, path: str) -> tvm.runtime.Module:
        """Uploads the library and returns the kernel's module; see `Place`."""
        # Once: a loaded library must not be overwritten.
        if path not in self._loaded:
            self._session.upload(path)
            self._loaded[path] = self._session.load_module(Path(path).name)
        return self._loaded[path]

    def sampler(
        self, module: tvm.runtime.Module, arguments: Sequence[tvm.runtime.Tensor], launches: int
    ) -> Callable[[], float]:
        """Returns the sampler, by TVM's time evaluator; see `Place`."""
        evaluator = module.time_evaluator("main", self.device, number=launches, repeat=1)

        def sample() -> float:
            return float(evaluator(*arguments).results[0]) * 1e6

        return sample


def place(kind: str, tracker: Tracker | None) -> Place:
    """Returns the device that measures kernels for target ``kind``, "cuda" or "llvm"."""
    if tracker is not None:
        return RemotePlace(tracker, {"cuda": "cuda", "llvm": "cpu"}[kind])
    return CudaPlace() if kind == "cuda" else HostPlace()
