"""What a schedule has to know of the machine: its limits and rates, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass

H200 = "H200: tensor cores and copies measured, fp32 documented"


@dataclass(frozen=True)
class Hardware:
    """Limits and rates of one target. ``sm`` is the compute capability times ten, 0 on a CPU."""

    name: str
    sm: int = 0
    #: Most shared memory that one block can ask for, in bytes.
    shared_bytes: int = 1 << 20
    max_threads: int = 1024
    registers_per_thread: int = 255
    #: Shared by the threads of a block.
    registers_per_block: int = 65536
    #: What mma.sync reaches with fp16 operands and fp32 sums, and fp32 arithmetic without tensor
    #: cores, in 1e12 operations a second; memory in 1e9 bytes a second, read and written. On a CPU
    #: those of an H200, so that the emulation follows the choices made for one.
    tensor_tflops: float = 635.0
    fp32_tflops: float = 67.0
    memory_gbps: float = 4300.0
    #: What the fastest tensor-core instruction of the card reaches, if that is not mma.sync; 0 if
    #: it is.
    fastest_tflops: float = 0.0
    #: Of which card, and how its rates are known.
    rates: str = H200

    @property
    def kind(self) -> str:
        """TVM's target kind, ``"cuda"`` or ``"llvm"``."""
        return "cuda" if self.sm else "llvm"

    @property
    def chip_tflops(self) -> float:
        """What no kernel goes past, in 1e12 operations a second."""
        return max(self.tensor_tflops, self.fastest_tflops)

    @property
    def has_cp_async(self) -> bool:
        """Copies from global to shared memory that do not wait (from Ampere on)."""
        return self.sm >= 80

    @property
    def has_wgmma(self) -> bool:
        """Hopper's own instructions, which no later architecture has."""
        return self.name == "sm_90a"

    def exceeded(self, shared_bytes: int, registers: int, threads: int) -> list[str]:
        """Of a block's shared memory, and the registers of each of so many threads that are to be
        resident, what there is not enough of, in words."""
        found = []
        if shared_bytes > self.shared_bytes:
            have = self.shared_bytes
            found.append(f"{shared_bytes} bytes of shared memory, a block has {have}")
        most = min(self.registers_per_thread, self.registers_per_block // threads)
        if registers > most:
            found.append(f"{registers} registers, each of {threads} threads has {most}")
        return found


#: Emulation on a CPU: a block's tiles should stay in the second-level cache.
CPU = Hardware("llvm")

#: Maximum shared memory per block: CUDA C++ Programming Guide, table "Technical Specifications
#: per Compute Capability" (less 1 KiB that the system reserves from sm_80 on). Rates of the card
#: named, dense, from NVIDIA's data sheet of it unless they say otherwise.
CUDA_ARCHS: tuple[Hardware, ...] = tuple(
    Hardware(
        f"sm_{name}",
        int(name.rstrip("a")),
        kib * 1024,
        tensor_tflops=tensor,
        fp32_tflops=fp32,
        memory_gbps=memory,
        # wgmma, as measured through the best of matrix products.
        fastest_tflops=790.0 if rates is H200 else 0.0,
        rates=rates,
    )
    for name, kib, tensor, fp32, memory, rates in (
        ("70", 96, 125.0, 15.7, 900.0, "V100 SXM2, documented"),
        ("75", 64, 65.0, 8.1, 320.0, "T4, documented"),
        ("80", 163, 312.0, 19.5, 1555.0, "A100 SXM 40 GB, documented"),
        ("86", 99, 125.0, 31.2, 600.0, "A10, documented"),
        ("87", 163, 43.0, 5.3, 205.0, "Jetson AGX Orin, documented"),
        ("89", 99, 121.0, 30.3, 300.0, "L4, documented"),
        ("90", 227, 635.0, 67.0, 4300.0, H200),
        ("90a", 227, 635.0, 67.0, 4300.0, H200),
        ("100", 227, 2250.0, 75.0, 8000.0, "B200, documented"),
        ("120", 99, 209.0, 105.0, 1792.0, "RTX 5090, documented"),
    )
)
