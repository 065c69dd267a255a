"""Convolutions on a simulated tensor core, on a CPU: `hmma_sim`.

The gather and the epilogue are those of the WMMA schedules, compiled. Between them, the product of
each group, (m, k) by (k, n), is computed by a function of the process that runs the kernel,
`intrinsics.numerics.arithmetic.PRODUCT`. The order along k is also that of the WMMA schedules: tap
by tap, or filter row by filter row, each padded with zeros to whole instructions.
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

#: The tile of one WMMA, so that only whole instructions are padded.
TILE = Tile(16, 16, 16)
#: Dtypes of activations between layers; the first is the default.
ACTIVATIONS = (FP16.name, FP32.name)


@dataclass(frozen=True)
class Simulation:
    """``numerics``: name of the arithmetic, in `intrinsics.numerics.arithmetic`.

    ``activations``: dtype of activations between layers. fp32 activations are rounded only as
    operands of a convolution.
    """

    numerics: str
    activations: str = ACTIVATIONS[0]

    def __str__(self) -> str:
        return self.numerics + (", fp32 activations" if self.wide else "")

    @property
    def wide(self) -> bool:
        """True if activations between layers are fp32."""
        return self.activations == FP32.name


class HmmaSimFamily(Family):
    """Computes as a WMMA family would. Not registered, as it is never the fastest."""

    name = "hmma_sim"
    version = 1
    default_measured = False
    config_type: type = Simulation
    tensorized = True

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Declines: only a build with ``numerics`` uses this family."""
        return Reject(self.name, "only for simulated builds")

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[Simulation]:
        """Yields nothing: there is nothing to tune."""
        yield from ()

    def check(self, w: ConvWorkload, config: Simulation, hardware: Hardware) -> None:
        """Raises `ConfigError` for a GPU, and for activations of another dtype."""
        problems = []
        if hardware.kind != "llvm":
            problems.append("simulated only on a CPU")
        if config.activations not in ACTIVATIONS:
            problems.append(f"activations are one of {', '.join(ACTIVATIONS)}")
        require_none(problems, config, w, hardware.name)

    def footprint(self, w: ConvWorkload, config: Simulation, hardware: Hardware) -> Footprint:
        """Raises ``LookupError``: this kernel never runs on a GPU."""
        raise LookupError("a simulated kernel has no footprint: it never runs on a GPU")

    def schedule(self, w: ConvWorkload, config: Simulation, hardware: Hardware) -> tirx.PrimFunc:
        """Returns the compiled gather and epilogue around a call of `PRODUCT`."""
        self.check(w, config, hardware)

        def product(gemm: Gemm, x: te.Tensor, weight: te.Tensor, dtype: str) -> te.Tensor:
            shape = (gemm.groups, gemm.m_pad, gemm.k_pad)
            return te.extern(
                shape,
                [x, weight],
                lambda ins, outs: tirx.call_packed(PRODUCT, config.numerics, *ins, *outs),
                name=CONV,
                dtype=dtype,
                # The default buffers have an offset, which nothing sets here.
                in_buffers=[tirx.decl_buffer(one.shape, one.dtype) for one in (x, weight)],
            )

        return implicit_gemm(w, TILE, product)

    def padded_macs(self, w: ConvWorkload, config: Simulation) -> int:
        """Returns the multiply-adds of all simulated instructions, padding included."""
        return Gemm.of(w, TILE).padded_macs

    def signature(self, w: ConvWorkload, config: Simulation) -> Signature:
        """Returns the operands; the weight is as in `gemm.pack_weight`."""
        return Signature.of(w, Gemm.of(w, TILE).weight_shape)

    def pack(self, w: ConvWorkload, config: Simulation, given: Given) -> dict[str, NDArray[Any]]:
        """Packs the weight tile by tile."""
        return self.signature(w, config).pack(given, weight=pack_weight(w, TILE, given[WEIGHT]))
