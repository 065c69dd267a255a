"""What a family of schedules is, and what it answers when it is asked about a convolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes
from schedules.conv.precision import Precision
from schedules.conv.signature import Signature
from schedules.conv.workload import ConvWorkload
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: The constant tensors of a convolution by the names of `schedules.conv.signature`: weight
#: (K, C/groups, R, S), bias (K,), slope (K,); and with a prologue its own, as `PROLOGUE_WEIGHT`
#: (C, 1, R, S) and `PROLOGUE_BIAS` (C,).
Given = Mapping[str, NDArray[Any]]
PROLOGUE_WEIGHT, PROLOGUE_BIAS = "prologue.weight", "prologue.bias"
#: Why one of pairs declines a workload without.
ONE_CONVOLUTION = "no depthwise convolution is computed with it"


@dataclass(frozen=True)
class Match:
    """The family can compute the workload; ``config`` is what it would use by default."""

    family: str
    config: Any


@dataclass(frozen=True)
class Reject:
    """The family can't or shouldn't, for a reason that a person can act on."""

    family: str
    reason: str

    def __str__(self) -> str:
        return f"{self.family}: {self.reason}"


def alone(w: ConvWorkload) -> str:
    """Why a family declines that computes a convolution and nothing before or after it; empty for
    a workload that is no more."""
    if w.prologue is not None:
        return "computes one convolution, not two"
    if w.epilogue.pool is not None:
        return "pools nothing: a pool is a kernel of its own"
    return ""


def other_precision(w: ConvWorkload, *known: Precision) -> str:
    """Returns why a family declines that computes `known` precisions; empty if it takes `w`.

    The result's dtype is left to the family.
    """
    for workload in w.apart:
        own = workload.precision
        if not any(own == replace(one, result=own.result) for one in known):
            return f"{own}: not its precision"
    return ""


def other_than_floats(w: ConvWorkload) -> str:
    """Returns why a family declines that multiplies floating-point numbers of any width in fp32,
    unsplit and unscaled; empty if it takes `w`."""
    own = w.precision
    types = [dtypes.get(one) for one in (own.x, *own.operands, own.result)]
    if any(one.integer for one in types) or own.split > 1 or own.scales:
        return f"{own}: not its precision"
    return ""


def fitting(family: str, config: Any, hardware: Hardware) -> Match | Reject:
    """The answer of a family that takes the workload, with its default, or None if nothing fits."""
    if config is None:
        return Reject(family, f"no configuration fits {hardware.name}")
    return Match(family, config)


class Family(Protocol):
    """One way to compute convolutions; a file of its own, registered in `schedules.choose`."""

    name: str
    #: True where the default was found by measuring on an H200, so that it is used untuned; else
    #: the cost model takes the best of the space.
    default_measured: bool
    #: Counts up whenever the same configuration becomes another kernel: what was measured before
    #: does not hold any more.
    version: int
    #: Of its configurations, frozen and hashable; those of families that differ in layout alone
    #: are of one type.
    config_type: type
    #: Whether the multiply-adds run on tensor cores (or their emulation).
    tensorized: bool

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Whether this family takes `w`, and its default configuration if so."""

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[Any]:
        """Every configuration worth trying, each already checked."""

    def check(self, w: ConvWorkload, config: Any, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit."""

    def footprint(self, w: ConvWorkload, config: Any, hardware: Hardware) -> Footprint:
        """What `schedule` asks of a GPU, from which `schedules.machine.model` predicts its time."""

    def schedule(self, w: ConvWorkload, config: Any, hardware: Hardware) -> tirx.PrimFunc:
        """The scheduled function. Raises `ConfigError` if `config` does not fit."""

    def padded_macs(self, w: ConvWorkload, config: Any) -> int:
        """Multiply-adds that `schedule` carries out, padding included."""

    def signature(self, w: ConvWorkload, config: Any) -> Signature:
        """Returns the operands of the scheduled function, in order."""

    def pack(self, w: ConvWorkload, config: Any, given: Given) -> dict[str, NDArray[Any]]:
        """Returns the constant operands by name, as the scheduled function reads them."""
