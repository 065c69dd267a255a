"""The time of a kernel on a GPU and its limit, predicted from its footprint.

    us = launch + (sum over all terms of term ** sharp) ** (1 / sharp)

This is a smooth maximum, as the parts of a kernel overlap but not completely. The terms:

    for each part of the busiest multiprocessor    its blocks * work of one / rate
    for L2 and memory                              bytes of all blocks / bandwidth
    latency                                        blocks in sequence * time of one block alone

A block alone takes its start, then its steps in sequence. A step takes as long as its chain of
dependent instructions, plus the part of the copy's latency that was not started ahead.

After the roofline model (Williams, Waterman and Patterson 2009), with a term for exposed latency
(Volkov 2016). It ranks; measurement decides. Plain Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schedules.machine.footprint import FP32, Footprint
from schedules.machine.gpus import SCHEDULERS, Card, Limits
from schedules.machine.hardware import Hardware

ISSUE, TENSOR, SHARED, L2 = "instruction issue", "tensor pipe", "shared memory", "L2"
DRAM, LATENCY, WAVES = "DRAM", "latency", "waves"
#: Possible limits of a kernel. Waves: multiprocessors have less to do than the busiest one.
LIMITS = (ISSUE, TENSOR, SHARED, L2, DRAM, LATENCY, WAVES)
#: Parts of a multiprocessor; and the share of idle time in the busiest part's from which on the
#: limit is waves.
PARTS, LOST = (ISSUE, TENSOR, SHARED, L2), 1 / 3
#: Registers of a thread are allocated in multiples of this.
REGISTER_STEP = 8


@dataclass(frozen=True)
class Fitted:
    """Constants that no single kernel measures, fitted by `benchmarks.model_samples` on an H200."""

    sharp: float = 2.4
    #: The same for kernels with producer warps.
    sharp_apart: float = 8.0
    #: Clocks from one instruction of a warp to its next.
    pace: float = 2.3
    #: Clocks to begin and end a block.
    start: float = 200.0
    #: Shares: of a round's latency that is exposed, of the issue and memory rates that are reached.
    seen: float = 0.3
    issue: float = 1.0
    dram: float = 1.0
    #: Microseconds of a kernel beyond an empty one.
    begin_us: float = 0.3


FITTED = Fitted()


@dataclass(frozen=True)
class Prediction:
    """Microseconds in a CUDA graph, the main one of `LIMITS`, and all terms in microseconds."""

    us: float
    limit: str
    #: The terms of the multiprocessor's parts include the cost of waves, which is also a term.
    terms: Mapping[str, float]
    #: True if predictions for this GPU were compared with measured times: of WMMA and depthwise
    #: kernels by samples, of the other families by tuning.
    validated: bool


def resident(f: Footprint, limits: Limits) -> int:
    """Returns the number of blocks that a multiprocessor holds at a time, at least one."""
    threads = f.warps * 32
    registers = -(-f.registers // REGISTER_STEP) * REGISTER_STEP * threads
    room = [limits.sm_blocks, limits.sm_threads // threads, limits.registers // registers]
    if f.shared_bytes:
        room.append(limits.sm_shared // (f.shared_bytes + limits.reserved))
    return max(1, min(room))


def time_of(f: Footprint, hardware: Hardware, fitted: Fitted = FITTED) -> Prediction:
    """Predicts the time of a kernel on a GPU, together with those launched after it."""
    card = hardware.card
    terms = _terms(f, hardware, fitted)
    hard = {name: us for name, us in terms.items() if name != WAVES}
    sharp = fitted.sharp_apart if f.apart else fitted.sharp
    slowest = sum(us**sharp for us in hard.values()) ** (1 / sharp)
    us = card.clocks.launch_us + fitted.begin_us + slowest
    if f.then is not None:
        after = time_of(f.then, hardware, fitted)
        us += after.us
        terms = {name: terms[name] + after.terms[name] for name in LIMITS}
    return Prediction(us, _limit(terms), terms, card.validated)


def _limit(terms: Mapping[str, float]) -> str:
    largest = max((name for name in LIMITS if name != WAVES), key=lambda name: terms[name])
    lost = largest in PARTS and terms[WAVES] > LOST * terms[largest]
    return WAVES if lost else largest


def _terms(f: Footprint, hardware: Hardware, fitted: Fitted) -> dict[str, float]:
    """Returns each term in microseconds, by the names of `LIMITS`."""
    card, clocks = hardware.card, hardware.card.clocks
    clocks_us = card.clock_ghz * 1e3
    most = -(-f.blocks // card.multiprocessors)
    moved = f.read_bytes + f.written_bytes
    macs = _macs_a_clock(f, card)
    parts = {
        ISSUE: f.instructions / (clocks.issue * fitted.issue),
        TENSOR: f.macs / macs if f.unit != FP32 else 0.0,
        SHARED: f.shared_traffic / clocks.shared_rate,
        L2: moved / clocks.l2_rate,
    }
    terms = {name: most * count / clocks_us for name, count in parts.items()}
    busiest = max(terms.values())
    terms[L2] = max(terms[L2], f.blocks * moved / (card.l2_gbps * 1e3))
    terms[DRAM] = f.dram_bytes / (card.memory_gbps * fitted.dram * 1e3)
    waits = -(-most // resident(f, hardware.limits))
    terms[LATENCY] = waits * _alone(f, card, macs, fitted) / clocks_us
    terms[WAVES] = busiest * (1 - f.blocks / card.multiprocessors / most)
    return terms


def _macs_a_clock(f: Footprint, card: Card) -> float:
    """Returns the multiply-adds of one multiprocessor per clock, by the footprint's unit."""
    tflops = card.tflops(f.unit, f.operand)
    return tflops * 1e3 / 2 / card.multiprocessors / card.clock_ghz


def _alone(f: Footprint, card: Card, macs: float, fitted: Fitted) -> float:
    """Returns the clocks of a block that runs alone."""
    clocks = card.clocks
    moved = f.blocks * (f.read_bytes + f.written_bytes)
    first = min(1.0, f.dram_bytes / moved)
    fetch = max(f.fetch, clocks.l2_latency + first * (clocks.dram_latency - clocks.l2_latency))
    busy = min(1.0, f.warps / SCHEDULERS)
    multiply = f.macs / f.steps / (macs * busy) if f.unit != FP32 else 0.0
    others = f.instructions / f.steps / f.warps * fitted.pace
    rounds = f.rounds * (clocks.shared_latency + clocks.mma_latency) * fitted.seen
    chain = clocks.barrier + rounds + multiply + others
    step = max(chain, fetch / f.ahead) if f.ahead else chain + fetch
    return fitted.start + f.pause + clocks.dram_latency + f.steps * step
