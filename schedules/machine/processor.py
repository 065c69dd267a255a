"""A CPU that runs what is built for llvm, as a machine with rates of its own.

    peak = cores * clock * fp32 lanes of a core * 2

Cores and clock are as the system tells; lanes follow from the vector extensions that the code may
use. Kernels reach a share of the peak that was measured. Memory is assumed by the core. So a floor
is a floor, and an estimate is right by a factor of two or so. Plain Python.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from schedules.machine.footprint import FP32, MMA

#: Fp32 lanes of a core that multiply and add in one clock, by vector extension, the first that
#: there is: two units of 512 or 256 bits, which the fastest cores have. Without, two of 128 bits.
LANES = {"avx512f": 32, "avx2": 16}
LEAST_LANES = 8
#: Share of the peak that kernels reached, one thread by its processor time, on an EPYC of Zen 4
#: with AVX-512 at 2.6 GHz: emulated tensor cores 39 to 59 GFLOP/s (the convolutions of ResNets),
#: fp32 arithmetic 27 to 34 (`direct`) and 75 (`depthwise`).
SHARES = {MMA: 0.33, FP32: 0.2}
#: 1e9 bytes a second that a core reads and writes, and all cores together. There a copy in one
#: thread made 40 while the other of its two cores was at work.
MEMORY_OF_CORE, MOST_MEMORY = 20.0, 400.0
#: Microseconds of a convolution of one pixel there.
LEAST_US = 1.0
#: In 1e9 a second, where the system does not tell.
CLOCK_GHZ = 2.5
MAX_KHZ, CPUINFO = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"), "/proc/cpuinfo"


@dataclass(frozen=True)
class Processor:
    """One CPU. A `schedules.machine.cost.Machine`."""

    #: As LLVM calls it.
    name: str
    cores: int
    #: In 1e9 a second.
    clock_ghz: float
    #: Fp32 multiply-adds of a core in one clock.
    lanes: int

    @property
    def source(self) -> str:
        """How the rates are known."""
        return (
            f"{self.cores} cores of {self.clock_ghz:.3g} GHz, assumed: {self.lanes} fp32 "
            f"multiply-adds a clock, {self.memory_gbps:.0f} GB/s"
        )

    @property
    def memory_gbps(self) -> float:
        """1e9 bytes a second, read and written."""
        return min(self.cores * MEMORY_OF_CORE, MOST_MEMORY)

    @property
    def least_us(self) -> float:
        """Microseconds of the shortest kernel."""
        return LEAST_US

    def tflops(self, unit: str, operand: str) -> float:
        """What kernels reach, in 1e12 operations a second, with emulated tensor cores or without.
        Operands of any element type are converted to fp32.

        Raises ``LookupError`` for a unit that is not emulated.
        """
        if unit not in SHARES:
            raise LookupError(f"a CPU emulates no {unit}")
        return self.peak_tflops(operand) * SHARES[unit]

    def peak_tflops(self, operand: str) -> float:
        """What no kernel passes, in 1e12 operations a second."""
        return self.cores * self.clock_ghz * self.lanes * 2 / 1e3


def processor(name: str, features: Collection[str]) -> Processor:
    """Returns this machine's CPU, as code runs on it that uses some of its vector extensions.

    name: of the CPU that the code is built for, as LLVM has it. features: vector extensions of
    that, such as ``avx512f``.
    """
    lanes = next((lanes for known, lanes in LANES.items() if known in features), LEAST_LANES)
    return Processor(name, _cores(), _clock_ghz(), lanes)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _clock_ghz() -> float:
    """The highest clock that Linux names for the first core, else the present one."""
    try:
        return int(MAX_KHZ.read_text()) / 1e6
    except (OSError, ValueError):
        pass
    try:
        lines = Path(CPUINFO).read_text().splitlines()
        return next(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")) / 1e3
    except (OSError, ValueError, StopIteration):
        return CLOCK_GHZ
