"""Checks and times kernels in a process of its own, which a kernel may crash.

Each candidate is compared with the convolution's definition before it is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload
from schedules.family import Family
from schedules.tensors import Tensors, inputs
from tvmconv.errors import TuningError
from tvmconv.runtime import gpu
from tvmconv.tuning import race
from tvmconv.tuning.kernels import SUMS, Target, by_definition, references, untouched
from tvmconv.tuning.stopwatch import Place, Tracker, launches_for, place

Array = NDArray[Any]

#: Largest relative l2 error of a kernel that is timed: fp32 accumulators, fp16 result; or of random
#: integers of order 32, of which one in 250 is one step off.
BOUND = 2e-3
#: Samples of a rough timing.
GLANCES = 3


@dataclass(frozen=True)
class Setup:
    """A workload to measure, the target, and the libraries that check its kernels."""

    workload: ConvWorkload
    target: Target
    #: Paths of the kernels of `kernels.references`, in order.
    references: tuple[str, ...]
    difference: str
    tracker: Tracker | None = None


@dataclass(frozen=True)
class Entry:
    """A candidate's kernel: its family and configuration, and the library's path."""

    family: Family
    config: Any
    path: str


@dataclass(frozen=True)
class Checked:
    """A kernel's relative l2 error, and the rough time of a launch in microseconds."""

    relative_l2: float
    us: float


class _Bench:
    """The operands of one workload on the device, and the reference result."""

    def __init__(self, setup: Setup) -> None:
        self.setup, w = setup, setup.workload
        on_gpu = setup.target.kind == "cuda" and setup.tracker is None
        # Also loads TVM's CUDA runtime, if `import tvm` could not.
        if on_gpu and gpu.detect_arch() is None:
            raise TuningError("the NVIDIA GPU can no longer be used")
        self.place: Place = place(setup.target.kind, setup.tracker)
        self._tensors = Tensors.random(w)
        self._blank = self._tensor(_untouched(w))
        self.y = self._tensor(_untouched(w))
        self._difference = self.place.load(setup.difference)["main"]
        self._sums = [self._tensor(np.zeros(SUMS, np.float32)) for _ in range(2)]
        self._expected = self._reference()

    def _reference(self) -> tvm.runtime.Tensor:
        """Returns the reference result: the convolutions of a pair in sequence, then a pool."""
        last, x = replace(self._tensors, first=None), None
        given = [last] if self._tensors.first is None else [self._tensors.first, last]
        wanted = references(self.setup.workload)
        for w, tensors, path in zip(wanted, given, self.setup.references, strict=True):
            out = self._tensor(_untouched(w))
            one, config = by_definition(w, self.setup.target.hardware)
            arguments = [self._tensor(array) for array in inputs(one, w, config, tensors)]
            arguments[0] = arguments[0] if x is None else x
            self.place.load(path)["main"](*arguments, out)
            x = out
        self.place.device.sync()
        pool = self.setup.workload.epilogue.pool
        return x if pool is None or x is None else self._tensor(pool.apply(x.numpy()))

    def _tensor(self, array: Array) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(np.ascontiguousarray(array), self.place.device)

    def arguments(
        self, one: Family, config: Any, out: tvm.runtime.Tensor
    ) -> list[tvm.runtime.Tensor]:
        """Returns the operands of that family's kernel, with `out` as the last."""
        arrays = inputs(one, self.setup.workload, config, self._tensors)
        return [*map(self._tensor, arrays), out]

    def checked(self, entry: Entry) -> tuple[float, tvm.runtime.Module, list[tvm.runtime.Tensor]]:
        """Returns the relative l2 error of a kernel's result, the kernel, and its arguments."""
        module = self.place.load(entry.path)
        arguments = self.arguments(entry.family, entry.config, self.y)
        self._blank.copyto(self.y)
        module["main"](*arguments)
        self._difference(self.y, self._expected, *self._sums)
        difference, size = (one.numpy().astype(np.float64).sum() for one in self._sums)
        return float(np.sqrt(difference / max(size, 1e-30))), module, arguments


def _untouched(w: ConvWorkload) -> Array:
    dtype = w.precision.result
    return np.full(w.buffer_shape, untouched(dtype), dtypes.get(dtype).numpy)


#: The bench of the present workload.
_KEPT: list[_Bench] = []


def _bench(setup: Setup) -> _Bench:
    """Returns the bench of a workload. Frees the last one first, and its tracker's machine."""
    if not _KEPT or _KEPT[0].setup != setup:
        _KEPT.clear()
        _KEPT.append(_Bench(setup))
    return _KEPT[0]


# ---------------------------------------------------------------- entry points


def describe(target: Target, tracker: Tracker | None) -> str:
    """Returns the device's name from its driver, or a CPU's name in LLVM."""
    if target.kind == "llvm":
        return target.arch
    if tracker is None:
        gpu.detect_arch()
    device = place(target.kind, tracker).device
    return str(device.device_name)


def check(setup: Setup, entry: Entry) -> Checked:
    """Runs the kernel once and compares; if it is right, also times it roughly.

    Raises TVM's errors if it cannot be run.
    """
    bench = _bench(setup)
    error, module, arguments = bench.checked(entry)
    if not error <= BOUND:
        return Checked(error, math.inf)
    sample = bench.place.sampler(module, arguments, 1)
    return Checked(error, min(sample() for _ in range(GLANCES)))


def compete(
    setup: Setup, entries: list[Entry], rough_us: float, rules: race.Rules, seconds: float
) -> race.Result:
    """Races all kernels, for about `seconds`; times are in microseconds.

    rough_us: rough time of the fastest. Each kernel has passed `check`. Raises `TuningError` if one
    is wrong now.
    """
    bench = _bench(setup)
    samplers = []
    for entry in entries:
        error, module, arguments = bench.checked(entry)
        if not error <= BOUND:
            name = f"{entry.family.name}, {entry.config}"
            raise TuningError(f"{name}: right at first, then wrong by {error}")
        samplers.append(bench.place.sampler(module, arguments, launches_for(rough_us)))
    return race.run(samplers, rules, _after(seconds))


def _after(seconds: float) -> Callable[[], bool]:
    until = perf_counter() + seconds
    return lambda: perf_counter() >= until
