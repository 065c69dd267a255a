"""What each GPU gives a kernel: rates of its parts, and how long one waits for what.

Rates of arithmetic and of memory are `Hardware`'s. Those of sm_90 were measured on an H200, by
single-purpose kernels (clocks of a pointer chase, of dependent and independent mma.sync, of
barriers; bytes a second out of L2), or, where the list says so, fitted to times of whole kernels.
Of other GPUs the units are the documented ones, the times to wait those of sm_90: not validated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from schedules.machine.hardware import Hardware


@dataclass(frozen=True)
class Machine:
    """Of one card. Clocks are the multiprocessor's; bytes and multiply-adds a clock are of one."""

    multiprocessors: int
    #: In 1e9 a second, boosted.
    clock_ghz: float
    #: Of a multiprocessor, for all its blocks.
    shared_bytes: int
    threads: int
    blocks: int = 32
    registers: int = 65536
    #: Instructions a clock.
    issue: float = 4.0
    #: To and from shared memory and first-level cache, bytes a clock.
    shared_rate: float = 128.0
    #: Out of L2: bytes a clock into one multiprocessor, and 1e9 bytes a second into all, which is
    #: the most that a kernel was seen to take; plain loads reached 8400.
    l2_rate: float = 64.0
    l2_gbps: float = 9500.0
    l2_bytes: int = 50 << 20
    #: A kernel that does nothing, in a CUDA graph.
    launch_us: float = 0.75
    #: Clocks until a load from L2, memory, or shared memory is there; until the next of two
    #: dependent mma.sync starts; until a barrier lets a block of 128 threads go.
    l2_latency: float = 330.0
    dram_latency: float = 670.0
    shared_latency: float = 35.0
    mma_latency: float = 25.0
    barrier: float = 21.0
    #: What wgmma reaches, 1e12 operations a second; 0 where there is none.
    wgmma_tflops: float = 0.0
    #: Whether predictions were held to measured times on this card.
    validated: bool = False
    source: str = ""


H200 = Machine(
    132, 1.83, 228 << 10, 2048, wgmma_tflops=800.0, validated=True, source="H200, measured"
)


def _documented(card: str, *facts: float, blocks: int = 32) -> Machine:
    """Multiprocessors, GHz, KiB of shared memory, threads; L2's GB/s and MiB."""
    count, clock, shared, threads, l2_gbps, l2_mib = facts
    return replace(
        H200,
        multiprocessors=int(count),
        clock_ghz=clock,
        shared_bytes=int(shared) << 10,
        threads=int(threads),
        l2_gbps=l2_gbps,
        l2_bytes=int(l2_mib * 2**20),
        wgmma_tflops=0.0,
        validated=False,
        source=f"{card}, documented, not validated",
        blocks=blocks,
    )


#: NVIDIA's architecture white papers and data sheets; L2 of the V100 and the T4 as measured by
#: Jia et al. (2018, 2019). Where nobody says, out of L2 comes the share of 64 bytes a clock and
#: multiprocessor that it is on an H200.
L2_SHARE = 0.6
MACHINES: dict[int, Machine] = {
    70: _documented("V100 SXM2", 80, 1.53, 96, 2048, 2155.0, 6),
    75: _documented("T4", 40, 1.59, 64, 1024, 1270.0, 4, blocks=16),
    80: _documented("A100 SXM", 108, 1.41, 164, 2048, 7219.0 * L2_SHARE, 40),
    86: _documented("A10", 72, 1.695, 100, 1536, 72 * 64 * 1.695 * L2_SHARE, 6, blocks=16),
    87: _documented("Jetson AGX Orin", 16, 1.3, 164, 1536, 16 * 64 * 1.3 * L2_SHARE, 4, blocks=16),
    89: _documented("L4", 58, 2.04, 100, 1536, 58 * 64 * 2.04 * L2_SHARE, 48, blocks=24),
    90: H200,
    100: _documented("B200", 148, 1.85, 228, 2048, 148 * 64 * 1.85 * L2_SHARE, 126),
    120: _documented("RTX 5090", 170, 2.41, 100, 1536, 170 * 64 * 2.41 * L2_SHARE, 96, blocks=24),
}


def machine(hardware: Hardware) -> Machine:
    """That of `hardware`'s compute capability, or else of the next older one there is."""
    older = [sm for sm in MACHINES if sm <= hardware.sm]
    return MACHINES[max(older, default=min(MACHINES))]
