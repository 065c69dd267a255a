"""GPUs as data: the limits of each architecture, and the rates of a card for it.

Three kinds of facts, each with its source:

- `Limits` of an architecture, documented by NVIDIA;
- a `Card`: its size, and the `Rate` of each unit by element type, documented or measured;
- `Clocks`, latencies and rates inside a multiprocessor: measured on an H200, and assumed for every
  other card.

Plain Python.
"""

from __future__ import annotations

from dataclasses import dataclass

from intrinsics import dtypes
from schedules.machine.footprint import FP32, MMA, WGMMA

#: Warp schedulers of a multiprocessor, each with its own warps and its part of the registers.
SCHEDULERS = 4


@dataclass(frozen=True)
class Limits:
    """Limits of an architecture: of a block, and of a multiprocessor.

    Source: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
    """

    #: Shared memory in bytes, of a block and of a multiprocessor.
    block_shared: int
    sm_shared: int
    #: Resident threads and blocks of a multiprocessor.
    sm_threads: int = 2048
    sm_blocks: int = 32
    #: Shared memory that the system reserves for each resident block, in bytes.
    reserved: int = 1024
    #: Blocks of the largest portable cluster; 1 if there are no clusters.
    cluster: int = 8
    #: Threads of a block, and of its third dimension.
    threads: int = 1024
    depth: int = 64
    #: 32-bit registers: of a thread; of a block, and of a multiprocessor.
    thread_registers: int = 255
    registers: int = 65536


def _limits(block_kib: int, sm_kib: int, threads: int, blocks: int, cluster: int = 1) -> Limits:
    reserved = (sm_kib - block_kib) << 10
    return Limits(block_kib << 10, sm_kib << 10, threads, blocks, reserved, cluster)


VOLTA = _limits(96, 96, 2048, 32)
TURING = _limits(64, 64, 1024, 16)
#: GA100, GA10x, and the GPU of Orin.
AMPERE = _limits(163, 164, 2048, 32)
AMPERE_RTX = _limits(99, 100, 1536, 16)
ORIN = _limits(163, 164, 1536, 16)
ADA = _limits(99, 100, 1536, 24)
HOPPER = _limits(227, 228, 2048, 32, cluster=8)
BLACKWELL = _limits(227, 228, 2048, 32, cluster=8)
BLACKWELL_RTX = _limits(99, 100, 1536, 24, cluster=8)


@dataclass(frozen=True)
class Rate:
    """Dense rate of a unit with operands of one dtype, in 1e12 operations per second.

    A multiply-add is two operations. Accumulators have 32 bits.
    """

    unit: str
    operand: str
    tera: float
    source: str


def _rates(unit: str, source: str, **tera: float) -> tuple[Rate, ...]:
    return tuple(Rate(unit, operand, value, source) for operand, value in tera.items())


@dataclass(frozen=True)
class Clocks:
    """Rates and latencies inside a multiprocessor, in its clocks, and launch times.

    Measured on an H200 by single-purpose kernels: a pointer chase, dependent and independent
    mma.sync, barriers, an empty kernel in a CUDA graph.
    """

    #: Instructions per clock.
    issue: float = 4.0
    #: Bandwidth of shared memory and L1, and of L2, in bytes per clock.
    shared_rate: float = 128.0
    l2_rate: float = 64.0
    #: Latencies in clocks: of a load from L2, memory or shared memory; between two dependent
    #: mma.sync; of a barrier of 128 threads.
    l2_latency: float = 330.0
    dram_latency: float = 670.0
    shared_latency: float = 35.0
    mma_latency: float = 25.0
    barrier: float = 21.0
    #: Duration of an empty kernel in a CUDA graph, in microseconds.
    launch_us: float = 0.75
    #: The same of the shortest kernel that reads and writes memory.
    least_us: float = 2.0


CLOCKS = Clocks()


#: Dtypes that tensor cores multiply at the rate of another, which documents give for both.
SAME_RATE = {dtypes.UINT8.name: dtypes.INT8.name}


@dataclass(frozen=True)
class Card:
    """One GPU; implements `schedules.machine.cost.Machine`."""

    name: str
    multiprocessors: int
    #: Boost clock, in GHz.
    clock_ghz: float
    #: Bandwidth of memory and of L2, in 1e9 bytes per second; size of L2 in bytes.
    memory_gbps: float
    l2_gbps: float
    l2_bytes: int
    rates: tuple[Rate, ...]
    #: Source of its figures: measured, documented or assumed.
    source: str
    #: True if predictions were compared with times measured on the card.
    validated: bool = False
    clocks: Clocks = CLOCKS

    @property
    def least_us(self) -> float:
        """Microseconds of the shortest kernel."""
        return self.clocks.least_us

    def tflops(self, unit: str, operand: str) -> float:
        """Returns a unit's rate with operands of a dtype, in 1e12 operations per second.

        fp32 arithmetic converts its operands first; tensor cores multiply uint8 as they do int8.
        Raises ``LookupError`` if the card has no such unit or its rate is unknown.
        """
        multiplied = dtypes.FP32.name if unit == FP32 else SAME_RATE.get(operand, operand)
        for rate in self.rates:
            if rate.unit == unit and rate.operand == multiplied:
                return rate.tera
        raise LookupError(f"no rate of {unit} with {operand} operands is known for {self.name}")

    def peak_tflops(self, operand: str) -> float:
        """Returns the fastest unit's rate, in 1e12 operations per second: no kernel is faster.

        Operands of a dtype that no tensor core takes are multiplied in fp32.
        """
        same = SAME_RATE.get(operand, operand)
        found = [rate.tera for rate in self.rates if rate.operand == same]
        return max(found) if found else self.tflops(FP32, operand)

    def scaled(self, count: int) -> int:
        """Returns a number of threads or blocks for this card's multiprocessors.

        count: the number that was found on an H200.
        """
        return -(-count * self.multiprocessors // H200.multiprocessors)


#: L2 bandwidth: of the V100 and the T4 as measured by Jia et al. (2018, 2019); of the A100 a share
#: of the documented rate; of other cards assumed to be as on an H200, 0.6 of 64 bytes per clock and
#: multiprocessor.
L2_SHARE = 0.6


def _l2_gbps(multiprocessors: int, clock_ghz: float) -> float:
    return multiprocessors * CLOCKS.l2_rate * clock_ghz * L2_SHARE


#: Bandwidth between a GPU and the host, in 1e9 bytes per second: PCIe 4.0 with 16 lanes of 16 GT/s
#: in 128b/130b has 31.5 (PCI Express base specification 4.0); 25 is assumed to be left for data.
HOST_GBPS = 25.0

MEASURED, DATA_SHEET = "measured", "data sheet, dense"
#: `Card.source` of a card with documented figures.
DOCUMENTED = "documented, predictions not validated"

V100 = Card(
    "V100 SXM2", 80, 1.53, 900.0, 2155.0, 6 << 20,
    _rates(MMA, DATA_SHEET, float16=125.0) + _rates(FP32, DATA_SHEET, float32=15.7),
    DOCUMENTED,
)  # fmt: skip
T4 = Card(
    "T4", 40, 1.59, 320.0, 1270.0, 4 << 20,
    _rates(MMA, DATA_SHEET, float16=65.0, int8=130.0) + _rates(FP32, DATA_SHEET, float32=8.1),
    DOCUMENTED,
)  # fmt: skip
A100 = Card(
    "A100 SXM 40 GB", 108, 1.41, 1555.0, 7219.0 * L2_SHARE, 40 << 20,
    _rates(MMA, DATA_SHEET, float16=312.0, bfloat16=312.0, tfloat32=156.0, int8=624.0)
    + _rates(FP32, DATA_SHEET, float32=19.5),
    DOCUMENTED,
)  # fmt: skip
A10 = Card(
    "A10", 72, 1.695, 600.0, _l2_gbps(72, 1.695), 6 << 20,
    _rates(MMA, DATA_SHEET, float16=125.0, bfloat16=125.0, tfloat32=62.5, int8=250.0)
    + _rates(FP32, DATA_SHEET, float32=31.2),
    DOCUMENTED,
)  # fmt: skip
AGX_ORIN = Card(
    "Jetson AGX Orin", 16, 1.3, 205.0, _l2_gbps(16, 1.3), 4 << 20,
    _rates(MMA, "technical brief, dense, without the DLAs", float16=43.0, int8=85.0)
    + _rates(MMA, "of float16 by the Ampere white paper", bfloat16=43.0, tfloat32=21.5)
    + _rates(FP32, "technical brief", float32=5.3),
    DOCUMENTED,
)  # fmt: skip
L4 = Card(
    "L4", 58, 2.04, 300.0, _l2_gbps(58, 2.04), 48 << 20,
    _rates(
        MMA, DATA_SHEET,
        float16=121.0, bfloat16=121.0, tfloat32=60.0,
        float8_e4m3fn=242.0, float8_e5m2=242.0, int8=242.0,
    )
    + _rates(FP32, DATA_SHEET, float32=30.3),
    DOCUMENTED,
)  # fmt: skip
H200 = Card(
    "H200", 132, 1.83, 4300.0, 9500.0, 50 << 20,
    _rates(MMA, MEASURED, float16=635.0, int8=1285.0)
    + _rates(MMA, "as float16, by the data sheet", bfloat16=635.0)
    + _rates(WGMMA, "measured, the best of matrix products", float16=790.0, bfloat16=790.0)
    + _rates(
        WGMMA, DATA_SHEET, tfloat32=494.5, float8_e4m3fn=1979.0, float8_e5m2=1979.0, int8=1979.0
    )
    + _rates(FP32, DATA_SHEET, float32=67.0),
    "tensor cores, memory and waits measured, fp32 documented", validated=True,
)  # fmt: skip
B200 = Card(
    "B200", 148, 1.85, 8000.0, _l2_gbps(148, 1.85), 126 << 20,
    # mma.sync is slower; NVIDIA does not document by how much.
    _rates(
        MMA, "data sheet, dense, through tcgen05",
        float16=2250.0, bfloat16=2250.0, tfloat32=1125.0,
        float8_e4m3fn=4500.0, float8_e5m2=4500.0, int8=4500.0,
    )
    + _rates(FP32, DATA_SHEET, float32=75.0),
    DOCUMENTED,
)  # fmt: skip
RTX_5090 = Card(
    "RTX 5090", 170, 2.41, 1792.0, _l2_gbps(170, 2.41), 96 << 20,
    _rates(
        MMA, "RTX Blackwell white paper, dense",
        float16=209.0, bfloat16=209.0, tfloat32=105.0,
        float8_e4m3fn=419.0, float8_e5m2=419.0, int8=838.0,
    )
    + _rates(FP32, "RTX Blackwell white paper", float32=105.0),
    DOCUMENTED,
)  # fmt: skip

#: By the compiler's name of an architecture: its limits, and the card that costs are computed for.
ARCHITECTURES: dict[str, tuple[Limits, Card]] = {
    "sm_70": (VOLTA, V100),
    "sm_75": (TURING, T4),
    "sm_80": (AMPERE, A100),
    "sm_86": (AMPERE_RTX, A10),
    "sm_87": (ORIN, AGX_ORIN),
    "sm_89": (ADA, L4),
    "sm_90": (HOPPER, H200),
    "sm_90a": (HOPPER, H200),
    "sm_100": (BLACKWELL, B200),
    "sm_120": (BLACKWELL_RTX, RTX_5090),
}
