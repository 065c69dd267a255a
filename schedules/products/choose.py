"""Which kernel computes a product, and whether one does."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from schedules.machine.hardware import Hardware
from schedules.products import attention, expressions, product
from schedules.products.matrix import whole_fragments
from schedules.products.workload import ProductWorkload

#: The lowest compute capability with the instruction of both kernels.
MIN_SM = 80
#: A product with fewer rows, columns or terms leaves more than half of an instruction unused.
FEWEST = 8

Config = attention.AttentionConfig | product.ProductConfig | None


@dataclass(frozen=True)
class ProductChoice:
    """A workload, and what computes it. config: None on a CPU, where there is nothing to choose."""

    workload: ProductWorkload
    config: Config
    hardware: Hardware

    @property
    def name(self) -> str:
        """``"attention"``, or ``"product"``."""
        return "product" if self.workload.first is None else "attention"

    @property
    def padded_macs(self) -> int:
        """The multiply-adds of all instructions, padding included."""
        w = self.workload
        if isinstance(self.config, attention.AttentionConfig):
            return attention.Plan(w, self.config).padded_macs
        if isinstance(self.config, product.ProductConfig):
            return product.Plan(w, self.config).padded_macs
        m, n, k = (whole_fragments(size) for size in (w.m, w.n, w.k))
        depth = 0 if w.first is None else whole_fragments(w.first.k)
        return w.matrices * m * k * (n + depth)

    def schedule(self) -> tirx.PrimFunc:
        """Returns the scheduled function, with the operands of the workload's signature."""
        if isinstance(self.config, attention.AttentionConfig):
            return attention.kernel(self.workload, self.config)
        if isinstance(self.config, product.ProductConfig):
            return product.kernel(self.workload, self.config)
        return expressions.kernel(self.workload, self.hardware)


def refusal(w: ProductWorkload, hardware: Hardware) -> str:
    """Returns the reason that no kernel computes a workload, one short clause, or ""."""
    if hardware.kind == "cuda" and hardware.sm < MIN_SM:
        return f"{hardware.name} has no mma.sync of 16 terms"
    sizes = [w.m, w.n, w.k] if w.first is None else [w.m, w.n, w.k, w.first.k]
    if min(sizes) < FEWEST:
        return f"{w}: an instruction would be half empty"
    if w.first is not None and max(w.n, w.first.k) > attention.LARGEST:
        return f"over {attention.LARGEST} columns of a head do not fit into registers"
    if max(one.bytes for one in w.signature) >= 2**31:
        return "past 32-bit indices"
    return ""


def choose(w: ProductWorkload, hardware: Hardware) -> ProductChoice:
    """Returns what computes a workload that is not refused."""
    if hardware.kind == "llvm":
        return ProductChoice(w, None, hardware)
    if w.first is not None:
        return ProductChoice(w, attention.choose(w, hardware), hardware)
    return ProductChoice(w, product.choose(w, hardware), hardware)
