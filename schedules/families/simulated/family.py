"""Convolutions whose products a simulated tensor core computes, on a CPU: `hmma_sim`.

The gather and the epilogue are those of the WMMA schedules, compiled; between them the product of
each group, (m, k) by (k, n), goes to a function of the process that runs the kernel,
`intrinsics.numerics.arithmetic.PRODUCT`. The order along k is that of the WMMA schedules, too: tap
after tap, or row after row of the filter, each filled up to whole instructions with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tvm import te, tirx

from intrinsics.dtypes import FP16, FP32
from intrinsics.numerics.arithmetic import PRODUCT
from schedules.conv.gemm import Gemm, Tile, pack_weight
from schedules.conv.signature import WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.errors import require_none
from schedules.expressions.compute import CONV, implicit_gemm
from schedules.family import Family, Given, Match, Reject
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: Of one WMMA: no tile of a block, so that nothing more is padded than what instructions ask for.
TILE = Tile(16, 16, 16)
#: Element types of activations between layers; the first is the default.
ACTIVATIONS = (FP16.name, FP32.name)


@dataclass(frozen=True)
class Simulation:
    """``numerics``: how products are added, by its name in `intrinsics.numerics.arithmetic`.

    ``activations``: the dtype of activations between layers. In fp32 they are rounded as operands
    of a convolution, and nowhere else.
    """

    numerics: str
    activations: str = ACTIVATIONS[0]

    def __str__(self) -> str:
        return self.numerics + (", fp32 activations" if self.wide else "")

    @property
    def wide(self) -> bool:
        return self.activations == FP32.name


class HmmaSimFamily(Family):
    """Computes what a WMMA family would; registered nowhere, as it is never the fastest."""

    name = "hmma_sim"
    version = 1
    default_measured = False
    config_type: type = Simulation
    tensorized = True

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        return Reject(self.name, "simulated only where a build asks for it")

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[Simulation]:
        yield from ()

    def check(self, w: ConvWorkload, config: Simulation, hardware: Hardware) -> None:
        problems = []
        if hardware.kind != "llvm":
            problems.append("simulated on a CPU alone")
        if config.activations not in ACTIVATIONS:
            problems.append(f"activations are one of {', '.join(ACTIVATIONS)}")
        require_none(problems, config, w, hardware.name)

    def footprint(self, w: ConvWorkload, config: Simulation, hardware: Hardware) -> Footprint:
        raise LookupError("a footprint is what a kernel asks of a GPU, and this runs on none")

    def schedule(self, w: ConvWorkload, config: Simulation, hardware: Hardware) -> tirx.PrimFunc:
        self.check(w, config, hardware)

        def product(gemm: Gemm, x: Any, weight: Any, dtype: str) -> Any:
            shape = (gemm.groups, gemm.m_pad, gemm.k_pad)
            return te.extern(
                shape,
                [x, weight],
                lambda ins, outs: tirx.call_packed(PRODUCT, config.numerics, *ins, *outs),
                name=CONV,
                dtype=dtype,
                # By default they begin at an offset, which nobody sets in a stage's own memory.
                in_buffers=[tirx.decl_buffer(one.shape, one.dtype) for one in (x, weight)],
            )

        return implicit_gemm(w, TILE, product)

    def padded_macs(self, w: ConvWorkload, config: Simulation) -> int:
        return Gemm.of(w, TILE).padded_macs

    def signature(self, w: ConvWorkload, config: Simulation) -> Signature:
        """Returns the operands; the weight as `gemm.pack_weight` gives it."""
        return Signature.of(w, Gemm.of(w, TILE).weight_shape)

    def pack(self, w: ConvWorkload, config: Simulation, given: Given) -> dict[str, NDArray[Any]]:
        """Packs the weight tile by tile."""
        return self.signature(w, config).pack(given, weight=pack_weight(w, TILE, given[WEIGHT]))
