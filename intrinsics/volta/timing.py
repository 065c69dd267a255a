"""Cycles of HMMA instructions on Volta: one WMMA, several warps, a whole GEMM.

Measured: the cumulative cycles of one WMMA on a Titan V, beside the disassembled listings of
Raihan, Goli, Aamodt (ISPASS 2019, arXiv 1811.08309), fp32 and fp16 accumulators. `TIMING` is the
simplest model that explains them. docs/tensor-core.md has the table, and the tests check every
number.

Published: a multiprocessor has eight tensor cores, two in each of its four *sub-cores* (a warp
scheduler with its units), of 64 multiply-adds per cycle each (NVIDIA Tesla V100 GPU Architecture,
WP-08608-001, 2017). An instruction with fp32 accumulators is 256 multiply-adds, so it occupies a
sub-core's two for 2 cycles; with fp16 it is 512, so 4. These are also the shortest gaps in the
measured tables.

Assumed, as no measurement was found: a warp that waits longer blocks only itself, so other warps
can use its sub-core (the published peak is reached only so); warps are spread evenly over the
sub-cores; the warp that is ready first issues first, the lowest number among equals.

Unknown: why the last instruction of a WMMA takes longer (`drain`; possibly an artefact of the
measurement). Loads and stores are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.volta.fragments import TILE
from intrinsics.volta.hmma import F16, F32, SETS, Form, Instruction

Array = NDArray[Any]

MULTIPROCESSORS = 80
SUB_CORES = 4
#: Resident warps of a multiprocessor (CUDA C++ Programming Guide, compute capability 7.0).
MAX_WARPS = 64
#: Multiply-adds of a sub-core per cycle: two tensor cores, 64 each.
MULTIPLY_ADDS = 128


@dataclass(frozen=True)
class Timing:
    """The timing of one HMMA form, in cycles."""

    #: From the issue of an instruction until its result can be read.
    latency: int
    #: Issue of each step of a set, after the set's first.
    steps: tuple[int, ...]
    #: From a set to the next; at least the latency, as step 0 reads what the last step 0 wrote.
    set: int
    #: Added to the latency of the last instruction of a WMMA, if nothing follows.
    drain: int

    @property
    def busy(self) -> int:
        """Cycles for which an instruction occupies its sub-core's tensor cores."""
        return TILE**3 // (SETS * len(self.steps)) // MULTIPLY_ADDS

    def issues(self) -> Array:
        """Returns the issue cycles of a WMMA that runs alone, from its first: (set, step)."""
        return self.set * np.arange(SETS)[:, None] + np.array(self.steps)

    def completes(self) -> Array:
        """Returns the completion cycles of a WMMA that runs alone: (set, step)."""
        done = self.issues() + self.latency
        done[-1, -1] += self.drain
        return done

    def gaps(self) -> Array:
        """Returns the cycles from each instruction of a WMMA to its warp's next.

        The last entry is the gap to the next WMMA.
        """
        issues = self.issues().ravel()
        return np.diff(np.append(issues, SETS * self.set))


TIMING = {
    F32: Timing(latency=10, steps=(0, 2, 4, 8), set=10, drain=6),
    F16: Timing(latency=12, steps=(0, 9), set=13, drain=4),
}


def completes(instruction: Instruction) -> int:
    """Returns the completion cycle of one instruction of a WMMA that runs alone."""
    return int(TIMING[instruction.form].completes()[instruction.set - 1, instruction.step])


@dataclass(frozen=True)
class Timeline:
    """Issue and completion cycles of one sub-core's instructions: (warp, WMMA, set, step)."""

    issues: Array
    completes: Array

    @property
    def cycles(self) -> int:
        """Cycles until the last instruction is done; 0 if there are none."""
        return int(self.completes.max(initial=0))


def timeline(form: Form, warps: int, wmmas: int) -> Timeline:
    """Returns the timeline of several warps on one sub-core, WMMAs in sequence.

    It makes no difference whether a warp's WMMAs add to one accumulator: each result is there
    before the next WMMA reads it. Raises ``ValueError`` for negative numbers.
    """
    if warps < 0 or wmmas < 0:
        raise ValueError(f"{warps} warps of {wmmas} WMMAs: neither can be negative")
    timing = TIMING[form]
    gaps = np.tile(timing.gaps(), wmmas).tolist()
    issues = np.zeros((warps, len(gaps)), np.int64)
    ready, done, free = [0] * warps, [0] * warps, 0
    for _ in range(warps * len(gaps)):
        warp = min((w for w in range(warps) if done[w] < len(gaps)), key=lambda w: ready[w])
        at = max(ready[warp], free)
        issues[warp, done[warp]] = at
        ready[warp], free = at + gaps[done[warp]], at + timing.busy
        done[warp] += 1
    completes = issues + timing.latency
    completes[:, -1:] += timing.drain
    shape = (warps, wmmas, SETS, form.steps)
    return Timeline(issues.reshape(shape), completes.reshape(shape))


def multiprocessor_cycles(form: Form, warps: int, wmmas: int) -> int:
    """Returns the cycles of ``warps`` warps of one multiprocessor with ``wmmas`` WMMAs each.

    Every WMMA from the second on adds as many cycles as the second.
    """
    busiest = -(-warps // SUB_CORES)
    if wmmas <= 2:
        return timeline(form, busiest, wmmas).cycles
    one, two = (timeline(form, busiest, n).cycles for n in (1, 2))
    return one + (wmmas - 1) * (two - one)


def gemm_cycles(
    form: Form,
    m: int,
    n: int,
    k: int,
    *,
    warps: int = 8,
    multiprocessors: int = MULTIPROCESSORS,
) -> int:
    """Returns the cycles of the HMMA instructions of an (m, k) by (k, n) product.

    Memory accesses do not count. Each warp computes one 16 x 16 tile of the result at a time, over
    all of k. Tiles are spread evenly over multiprocessors, and each runs ``warps`` at once. Raises
    ``ValueError`` unless all numbers are positive, and for more warps than a multiprocessor holds.
    """
    if min(m, n, k, warps, multiprocessors) <= 0 or warps > MAX_WARPS:
        raise ValueError(
            f"a product {m} x {n} x {k} with {warps} warps on each of {multiprocessors} "
            f"multiprocessors: all are positive, warps at most {MAX_WARPS}"
        )
    tiles = -(-m // TILE) * -(-n // TILE)
    rounds, rest = divmod(-(-tiles // multiprocessors), warps)
    depth = -(-k // TILE)
    cycles = multiprocessor_cycles(form, warps, depth * rounds)
    return cycles + multiprocessor_cycles(form, rest, depth)
