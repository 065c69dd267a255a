"""Checks and times kernels: what runs in a process of its own, which a kernel may bring down.

Each candidate is compared with the convolution's definition before anything times it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from schedules.choose import family
from schedules.conv.gemm import pack_channels
from schedules.conv.workload import ConvWorkload, Layout
from schedules.families.depthwise_projection.family import pack_prologue
from schedules.family import Family
from tvmconv.errors import TuningError
from tvmconv.runtime import gpu
from tvmconv.tuning import race
from tvmconv.tuning.kernels import SUMS, UNTOUCHED, Target, by_definition, references
from tvmconv.tuning.stopwatch import Place, Tracker, launches_for, place

Array = NDArray[Any]

#: Relative l2 error of a kernel that is still timed: sums in fp32, the result rounded to fp16.
BOUND = 2e-3
#: Period of the random numbers: prime, so that no row or image is like another.
PERIOD = 1_000_003
#: How often a kernel is timed to see what it takes about, each time alone.
GLANCES = 3


@dataclass(frozen=True)
class Setup:
    """What is measured, where, and the libraries it is checked with."""

    workload: ConvWorkload
    target: Target
    #: Of `kernels.references`, in order.
    references: tuple[str, ...]
    difference: str
    tracker: Tracker | None = None


@dataclass(frozen=True)
class Entry:
    """A candidate's kernel."""

    family: str
    config: Any
    path: str


@dataclass(frozen=True)
class Checked:
    """A kernel's relative l2 error, and about what a launch takes, in microseconds."""

    relative_l2: float
    us: float


@dataclass(frozen=True)
class Operands:
    """x (N, H, W, C) and weight (K, C/groups, R, S), residual: fp16; bias and slope (K,): fp32.
    `first`: of a prologue, whose x is read.

    The values are of order one at every stage, so that errors relative to the output mean
    something, and random, as a GPU draws less power, and is faster, where bits do not change.
    """

    x: Array
    weight: Array
    bias: Array | None
    slope: Array | None
    residual: Array | None
    first: Operands | None = None

    @classmethod
    def random(cls, w: ConvWorkload) -> Operands:
        noise = np.random.default_rng(0).standard_normal(PERIOD, np.float32)

        def draw(shape: tuple[int, ...], dtype: Any, scale: float = 1.0) -> Array:
            return np.resize((noise * scale).astype(dtype), shape)

        fan_in = w.group_c * w.r * w.s
        rows, columns = (w.window.rows, w.window.columns) if w.window else (w.p, w.q)
        epilogue = w.epilogue
        return cls(
            draw((w.n, w.h, w.w, w.c), np.float16),
            draw((w.k, w.group_c, w.r, w.s), np.float16, 1 / math.sqrt(fan_in)),
            draw((w.k,), np.float32) if epilogue.bias else None,
            draw((w.k,), np.float32) if epilogue.activation.kind == "prelu" else None,
            draw((w.n, rows, columns, w.k), np.float16) if epilogue.residual else None,
            None if w.prologue is None else cls.random(w.prologue),
        )


class _Bench:
    """One workload's operands on the device, with its reference result."""

    def __init__(self, setup: Setup) -> None:
        self.setup, w = setup, setup.workload
        on_gpu = setup.target.kind == "cuda" and setup.tracker is None
        # Also loads TVM's CUDA runtime, where `import tvm` could not.
        if on_gpu and gpu.detect_arch() is None:
            raise TuningError("no NVIDIA GPU can be used here any more")
        self.place: Place = place(setup.target.kind, setup.tracker)
        self._operands = Operands.random(w)
        self._shared = self._placed(w, self._operands)
        self._blank = self._tensor(np.full(w.buffer_shape, UNTOUCHED, w.epilogue.out_dtype))
        self.y = self._tensor(np.empty(w.buffer_shape, w.epilogue.out_dtype))
        self._difference = self.place.load(setup.difference)["main"]
        self._sums = [self._tensor(np.zeros(SUMS, np.float32)) for _ in range(2)]
        self._expected = self._reference()

    def _reference(self) -> Any:
        """What the kernels have to give, by definition: the convolutions of a pair one after
        another, then a pool."""
        first, x = self._operands.first, None
        given = [self._operands] if first is None else [first, self._operands]
        wanted = references(self.setup.workload)
        for w, operands, path in zip(wanted, given, self.setup.references, strict=True):
            out = self._tensor(np.full(w.buffer_shape, UNTOUCHED, w.epilogue.out_dtype))
            before, after = self._placed(w, operands)
            weight = self._packed(*by_definition(w, self.setup.target.hardware), w, operands)
            self.place.load(path)["main"](before[0] if x is None else x, weight, *after, out)
            x = out
        self.place.device.sync()
        pool = self.setup.workload.epilogue.pool
        return x if pool is None or x is None else self._tensor(pool.apply(x.numpy()))

    def _tensor(self, array: Array) -> Any:
        return tvm.runtime.tensor(np.ascontiguousarray(array), self.place.device)

    def _placed(self, w: ConvWorkload, operands: Operands) -> tuple[list[Any], list[Any]]:
        """What comes before the weight, and after it."""
        vectors = [v for v in (operands.bias, operands.slope) if v is not None]
        after = [self._tensor(pack_channels(w, vector)) for vector in vectors]
        if operands.residual is not None:
            after.append(self._tensor(_laid(operands.residual, w.epilogue.residual_layout)))
        first = operands.first
        if first is None or w.prologue is None:
            return [self._tensor(_laid(operands.x, w.in_layout))], after
        packed = pack_prologue(w.prologue, first.weight, first.bias)
        return [self._tensor(_laid(first.x, w.prologue.in_layout)), self._tensor(packed)], after

    def _packed(self, one: Family, config: Any, w: ConvWorkload, operands: Operands) -> Any:
        return self._tensor(one.pack(w, config, operands.weight))

    def arguments(self, one: Family, config: Any, out: Any) -> list[Any]:
        """Of a kernel of that family, its weight packed as it reads it."""
        weight = self._packed(one, config, self.setup.workload, self._operands)
        before, after = self._shared
        return [*before, weight, *after, out]

    def checked(self, entry: Entry) -> tuple[float, Any, list[Any]]:
        """Relative l2 error of what the kernel writes; the kernel, and its arguments."""
        module = self.place.load(entry.path)
        arguments = self.arguments(family(entry.family), entry.config, self.y)
        self._blank.copyto(self.y)
        module["main"](*arguments)
        self._difference(self.y, self._expected, *self._sums)
        difference, size = (one.numpy().astype(np.float64).sum() for one in self._sums)
        return float(np.sqrt(difference / max(size, 1e-30))), module, arguments


def _laid(array: Array, layout: Layout) -> Array:
    """The (N, H, W, C) array in that layout, zeros where it has no element."""
    if not layout.packed:
        return array
    laid = np.zeros(layout.shape(*array.shape), array.dtype)
    at: Any = np.indices(array.shape, sparse=True)
    laid[layout.index(*at)] = array
    return laid


#: Kept from one candidate of a workload to the next.
_KEPT: list[_Bench] = []


def _bench(setup: Setup) -> _Bench:
    """The last is let go before another is made: it holds memory, and a machine of a tracker's."""
    if not _KEPT or _KEPT[0].setup != setup:
        _KEPT.clear()
        _KEPT.append(_Bench(setup))
    return _KEPT[0]


# ---------------------------------------------------------------- called in the process


def describe(target: Target, tracker: Tracker | None) -> str:
    """What the device there calls itself; a CPU what LLVM calls it."""
    if target.kind == "llvm":
        return target.arch
    if tracker is None:
        gpu.detect_arch()
    device = place(target.kind, tracker).device
    return str(device.device_name)


def check(setup: Setup, entry: Entry) -> Checked:
    """Runs the kernel once and compares; of one that is right also takes a glance at its time.

    Raises whatever TVM raises where it can't be run.
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
    """Times all of them, in microseconds, in a race of `seconds` about. `rough_us`: what the
    fastest takes about. Each has passed `check`, and passes it again here."""
    bench = _bench(setup)
    samplers = []
    for entry in entries:
        error, module, arguments = bench.checked(entry)
        if not error <= BOUND:
            raise TuningError(f"{entry.family}, {entry.config}: right once, then wrong by {error}")
        samplers.append(bench.place.sampler(module, arguments, launches_for(rough_us)))
    return race.run(samplers, rules, _after(seconds))


def _after(seconds: float) -> Callable[[], bool]:
    until = perf_counter() + seconds
    return lambda: perf_counter() >= until
