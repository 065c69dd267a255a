"""What a family of schedules is, and what it answers when it is asked about a convolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from tvm import tirx

from schedules.conv.workload import ConvWorkload
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

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

    def pack(self, w: ConvWorkload, config: Any, weight: NDArray[Any]) -> NDArray[Any]:
        """weight (K, C/groups, R, S) as the scheduled function reads it, fp16."""
