"""The target of a schedule: limits, instructions, and a card to choose for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from schedules.machine.gpus import ARCHITECTURES, H200, Card, Limits


@dataclass(frozen=True)
class Hardware:
    """One target: a row of `schedules.machine.gpus.ARCHITECTURES`, or a CPU that emulates one."""

    name: str
    limits: Limits
    #: Its costs rank choices, and grids are sized for it. For a CPU it is the card that is
    #: emulated; the CPU's own costs come from `schedules.machine.processor`.
    card: Card
    #: Compute capability times ten, 0 on a CPU.
    sm: int = 0
    #: True for a CPU with 512-bit VNNI, whose VPDPBUSD multiplies 8-bit integers.
    vnni: bool = False

    @property
    def kind(self) -> str:
        """TVM's target kind, ``"cuda"`` or ``"llvm"``."""
        return "cuda" if self.sm else "llvm"

    @property
    def form(self) -> str:
        """Form of instructions, as `intrinsics.lower` calls it."""
        return "vnni" if self.vnni else self.kind

    @property
    def has_cp_async(self) -> bool:
        """True if copies from global to shared memory can be asynchronous (Ampere and later)."""
        return self.sm >= 80

    @property
    def has_wgmma(self) -> bool:
        """True for Hopper. No later architecture has its instructions."""
        return self.name == "sm_90a"

    def exceeded(
        self,
        threads: int,
        *,
        shared_bytes: int = 0,
        registers: int = 0,
        resident: int = 1,
        cluster: int = 1,
        depth: int = 1,
    ) -> list[str]:
        """Returns the limits that a block exceeds, one phrase for each.

        threads: of the block. shared_bytes: of the block. registers: of each thread, 32 bits each.
        resident: blocks that a multiprocessor has to hold at a time. cluster: blocks of a cluster.
        depth: threads of the block's third dimension.
        """
        limits, found = self.limits, []
        if shared_bytes > limits.block_shared:
            found.append(
                f"{shared_bytes} bytes of shared memory, a block has {limits.block_shared}"
            )
        elif resident * (shared_bytes + limits.reserved) > limits.sm_shared:
            found.append(
                f"{shared_bytes} bytes of shared memory for each of {resident} blocks, a "
                f"multiprocessor has {limits.sm_shared}"
            )
        if threads > limits.threads:
            found.append(f"{threads} threads, a block has at most {limits.threads}")
        elif threads * resident > limits.sm_threads:
            found.append(
                f"{resident} blocks of {threads} threads, a multiprocessor has {limits.sm_threads}"
            )
        if depth > limits.depth:
            found.append(f"{depth} threads in the third dimension, a block has {limits.depth}")
        most = min(limits.thread_registers, limits.registers // (threads * resident))
        if registers > most:
            found.append(f"{registers} registers, each of {threads * resident} threads has {most}")
        if cluster > limits.cluster:
            found.append(f"a cluster of {cluster} blocks, {self.name} has {limits.cluster}")
        return found


#: Every architecture that can be built for.
CUDA_ARCHS: tuple[Hardware, ...] = tuple(
    Hardware(name, limits, card, int(name.removeprefix("sm_").rstrip("a")))
    for name, (limits, card) in ARCHITECTURES.items()
)

#: A CPU without VNNI, which emulates an H200. A block's tiles should stay in the second-level
#: cache.
CPU = Hardware("llvm", Limits(block_shared=1 << 20, sm_shared=1 << 30), H200)

#: The vector extension that `Hardware.vnni` is about, as LLVM and Linux name it without separators.
VNNI = "avx512vnni"


def cpu(features: Collection[str]) -> Hardware:
    """Returns `CPU` with the instructions of these vector extensions, such as ``avx512vnni``."""
    return replace(CPU, vnni=VNNI in features)
