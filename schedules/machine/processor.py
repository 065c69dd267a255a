"""The CPU that runs code built for llvm, as a machine with its own rates.

    peak = cores * clock * fp32 lanes of a core * 2

Cores and clock come from the operating system, lanes from the vector extensions that the code may
use. The share of the peak that kernels reach was measured. Memory bandwidth is assumed per core. So
floors are floors, and estimates are right within a factor of about two. Plain Python.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from intrinsics.dtypes import INT8, UINT8
from schedules.machine.footprint import FP32, MMA
from schedules.machine.hardware import VNNI

#: fp32 multiply-adds of a core per clock, by vector extension; the first that is present counts.
#: The fastest cores have two units of 512 or 256 bits; without an extension, two of 128 bits.
LANES = {"avx512f": 32, "avx2": 16}
LEAST_LANES = 8
#: 8-bit multiply-adds of a core per clock with 512-bit VNNI: 4 for each fp32 one.
BYTE_PRODUCTS = 4
#: Share of the peak that kernels reach, by processor time of one thread on a Zen 4 EPYC with
#: AVX-512 at 2.6 GHz: emulated tensor cores 39 to 59 GFLOP/s (the convolutions of ResNets),
#: fp32 arithmetic 27 to 34 (`direct`) and 75 (`depthwise`).
SHARES = {MMA: 0.33, FP32: 0.2}
#: The same of emulated tensor cores with VNNI: 130 to 250 GOP/s, while other processes ran.
VNNI_SHARE = 0.28
#: Dtypes of x that VNNI multiplies with int8 weights.
BYTES = (INT8.name, UINT8.name)
#: Bandwidth of a core and of all cores, in 1e9 bytes per second, read and written. On that CPU a
#: copy in one thread reached 40 while another core was busy.
MEMORY_OF_CORE, MOST_MEMORY = 20.0, 400.0
#: Time of a convolution of one pixel on that CPU, in microseconds.
LEAST_US = 1.0
#: Clock in GHz, if the operating system does not tell.
CLOCK_GHZ = 2.5
MAX_KHZ, CPUINFO = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"), "/proc/cpuinfo"


@dataclass(frozen=True)
class Processor:
    """One CPU; implements `schedules.machine.cost.Machine`."""

    #: LLVM's name of it.
    name: str
    cores: int
    #: In GHz.
    clock_ghz: float
    #: fp32 multiply-adds of a core per clock.
    lanes: int
    #: True if it multiplies 8-bit integers by 512-bit VNNI.
    vnni: bool = False

    @property
    def source(self) -> str:
        """Source of the rates, for reports."""
        products = f"{self.lanes} fp32 multiply-adds per clock"
        if self.vnni:
            products += f", with VNNI {BYTE_PRODUCTS * self.lanes} of 8 bits"
        return (
            f"{self.cores} cores of {self.clock_ghz:.3g} GHz, assumed: {products}, "
            f"{self.memory_gbps:.0f} GB/s"
        )

    @property
    def memory_gbps(self) -> float:
        """Memory bandwidth, in 1e9 bytes per second, read and written."""
        return min(self.cores * MEMORY_OF_CORE, MOST_MEMORY)

    @property
    def least_us(self) -> float:
        """Microseconds of the shortest kernel."""
        return LEAST_US

    def tflops(self, unit: str, operand: str) -> float:
        """Returns the rate that kernels reach, in 1e12 operations per second.

        unit: emulated tensor cores or fp32 arithmetic, to which operands are converted but for
        those that VNNI multiplies. Raises ``LookupError`` for a unit that is not emulated.
        """
        if unit not in SHARES:
            raise LookupError(f"a CPU does not emulate {unit}")
        if unit == MMA and self._by_vnni(operand):
            return self.peak_tflops(operand) * VNNI_SHARE
        return self._fp32_tflops * SHARES[unit]

    def peak_tflops(self, operand: str) -> float:
        """Returns the rate that no kernel exceeds, in 1e12 operations per second."""
        return self._fp32_tflops * (BYTE_PRODUCTS if self._by_vnni(operand) else 1)

    @property
    def _fp32_tflops(self) -> float:
        return self.cores * self.clock_ghz * self.lanes * 2 / 1e3

    def _by_vnni(self, operand: str) -> bool:
        return self.vnni and operand in BYTES


def processor(name: str, features: Collection[str]) -> Processor:
    """Returns this machine's CPU.

    name: LLVM's name of the CPU that code is built for. features: the vector extensions that the
    code may use, such as ``avx512f``.
    """
    lanes = next((lanes for known, lanes in LANES.items() if known in features), LEAST_LANES)
    return Processor(name, _cores(), _clock_ghz(), lanes, VNNI in features)


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _clock_ghz() -> float:
    """Returns the highest clock of the first core, or else its present clock, or `CLOCK_GHZ`."""
    try:
        return int(MAX_KHZ.read_text()) / 1e6
    except (OSError, ValueError):
        pass
    try:
        lines = Path(CPUINFO).read_text().splitlines()
        return next(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")) / 1e3
    except (OSError, ValueError, StopIteration):
        return CLOCK_GHZ
