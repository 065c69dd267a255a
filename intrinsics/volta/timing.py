"""When each HMMA instruction is done, in clock cycles: one WMMA, several warps, a whole GEMM.

Measured: the cumulative cycles of one WMMA on a Titan V, beside the disassembled listings of
Raihan, Goli, Aamodt (ISPASS 2019, arXiv 1811.08309), fp32 and fp16 accumulators. `TIMING` is the
least that explains them; docs/tensor-core.md has the table, and the tests hold it to every number.

Published: eight tensor cores a multiprocessor, two for each of its four *sub-cores* (the warp
scheduler and what it issues to), 64 multiply-adds a cycle each (NVIDIA Tesla V100 GPU Architecture,
WP-08608-001, 2017). An instruction with fp32 accumulators is 256 multiply-adds, so it keeps a
sub-core's two busy for 2 cycles; one with fp16 is 512, so 4. Both are also the least distances in
the measured tables.

Assumed, as no measurement was found: a warp's longer waits keep only itself, not its sub-core, and
so another warp can fill them (with that, and only with that, the published peak is reached); warps
are spread evenly over the sub-cores; the warp that could issue first does, of equals the lowest.
Unknown: why the last instruction of a WMMA takes longer (`drain`; it may be part of how it was
measured), and what loads and stores cost, which are not modelled at all.
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
#: That a multiprocessor holds at once (CUDA C++ Programming Guide, compute capability 7.0).
MAX_WARPS = 64
#: Of a sub-core, in one cycle: two tensor cores' 64 each.
MULTIPLY_ADDS = 128


@dataclass(frozen=True)
class Timing:
    """All in cycles."""

    #: From the issue of an instruction until its result can be read.
    latency: int
    #: When each step of a set is issued, after the set's first.
    steps: tuple[int, ...]
    #: From a set to the next; no shorter than the latency, as step 0 reads what step 0 wrote.
    set: int
    #: What the last instruction of a WMMA takes beyond its latency, when nothing follows.
    drain: int

    @property
    def busy(self) -> int:
        """How long an instruction keeps its sub-core's tensor cores."""
        return TILE**3 // (SETS * len(self.steps)) // MULTIPLY_ADDS

    def issues(self) -> Array:
        """Of a WMMA alone, after its first: (set, step)."""
        return self.set * np.arange(SETS)[:, None] + np.array(self.steps)

    def completes(self) -> Array:
        """Of a WMMA alone: (set, step)."""
        done = self.issues() + self.latency
        done[-1, -1] += self.drain
        return done

    def gaps(self) -> Array:
        """From each instruction of a WMMA to its warp's next; the last is to another WMMA."""
        issues = self.issues().ravel()
        return np.diff(np.append(issues, SETS * self.set))


TIMING = {
    F32: Timing(latency=10, steps=(0, 2, 4, 8), set=10, drain=6),
    F16: Timing(latency=12, steps=(0, 9), set=13, drain=4),
}


def completes(instruction: Instruction) -> int:
    """Cumulative cycle of one instruction of a WMMA that has the tensor cores to itself."""
    return int(TIMING[instruction.form].completes()[instruction.set - 1, instruction.step])


@dataclass(frozen=True)
class Timeline:
    """Cycles at which instructions of one sub-core are issued and done: (warp, WMMA, set, step)."""

    issues: Array
    completes: Array

    @property
    def cycles(self) -> int:
        """Until the last is done; 0 if there is none."""
        return int(self.completes.max(initial=0))


def timeline(form: Form, warps: int, wmmas: int) -> Timeline:
    """Several warps on one sub-core, each issuing its WMMAs one after the other.

    Whether a warp's WMMAs add to one accumulator makes no difference: by the time that the next
    is issued, the first result it reads is there. Raises ``ValueError`` for negative numbers.
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
    """Until ``warps`` warps of one multiprocessor have each done ``wmmas`` WMMAs.

    Every WMMA of each warp adds what the second does.
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
    """The HMMA instructions of an (m, k) by (k, n) product, and nothing else: no loads, no stores.

    Each warp computes a 16 x 16 tile of the result at a time, all of k; tiles are spread evenly,
    and a multiprocessor runs ``warps`` at once, round after round. Raises ``ValueError`` unless all
    are positive, and for more warps than a multiprocessor holds.
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
