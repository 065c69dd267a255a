"""What a schedule has to know of the machine: its limits, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Limits of one target. ``sm`` is the compute capability times ten, 0 on a CPU."""

    name: str
    sm: int = 0
    #: Most shared memory that one block can ask for, in bytes.
    shared_bytes: int = 1 << 20
    max_threads: int = 1024
    registers_per_thread: int = 255
    #: Shared by the threads of a block.
    registers_per_block: int = 65536

    @property
    def kind(self) -> str:
        """TVM's target kind, ``"cuda"`` or ``"llvm"``."""
        return "cuda" if self.sm else "llvm"

    @property
    def has_cp_async(self) -> bool:
        """Copies from global to shared memory that do not wait (from Ampere on)."""
        return self.sm >= 80


#: Emulation on a CPU: a block's tiles should stay in the second-level cache.
CPU = Hardware("llvm")

#: Maximum shared memory per block: CUDA C++ Programming Guide, table "Technical Specifications
#: per Compute Capability" (less 1 KiB that the system reserves from sm_80 on).
CUDA_ARCHS: tuple[Hardware, ...] = tuple(
    Hardware(f"sm_{name}", int(name.rstrip("a")), kib * 1024)
    for name, kib in (
        ("70", 96),
        ("75", 64),
        ("80", 163),
        ("86", 99),
        ("87", 163),
        ("89", 99),
        ("90", 227),
        ("90a", 227),
        ("100", 227),
        ("120", 99),
    )
)
