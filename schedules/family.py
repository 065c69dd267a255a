"""The interface of a family of schedules, and its answers when it is asked about a convolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tvm import tirx

from schedules.conv.workload import ConvWorkload
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: Why a family for pairs declines a workload that has no prologue.
ONE_CONVOLUTION = "no depthwise convolution is computed with it"


@dataclass(frozen=True)
class Match:
    """The family can compute the workload; ``config`` is its default."""

    family: str
    config: Any


@dataclass(frozen=True)
class Reject:
    """The family can't or shouldn't compute the workload; ``reason`` is one short clause."""

    family: str
    reason: str

    def __str__(self) -> str:
        return f"{self.family}: {self.reason}"


def alone(w: ConvWorkload) -> str:
    """The reason to decline a workload that is more than one convolution, else empty."""
    if w.prologue is not None:
        return "computes one convolution, not two"
    if w.epilogue.pool is not None:
        return "pools nothing: a pool is a kernel of its own"
    return ""


def fitting(family: str, config: Any, hardware: Hardware) -> Match | Reject:
    """A match with this default, or a rejection where ``config`` is None: nothing fits."""
    if config is None:
        return Reject(family, f"no configuration fits {hardware.name}")
    return Match(family, config)


class Family(ABC):
    """One way to compute convolutions: subclass, then `schedules.registry.register` an instance.

    A subclass has at least `name`, `config_type`, `match`, `schedule` and `pack`. To be measured by
    the tuner it must pickle: a module that can be imported, a script and a notebook all do.
    """

    #: Unique among the registered families; records and reports name it.
    name: str
    #: A frozen dataclass of plain values (int, bool, str, tuples of them): the configuration.
    #: Families that differ in layout alone may share one.
    config_type: type
    #: Increased whenever an equal configuration becomes another kernel: older records expire.
    version: int = 1
    #: Whether the default was found by measuring, so that it is used untuned. Otherwise the cost
    #: model takes the best of the space.
    default_measured: bool = False
    #: Whether the multiply-adds run on tensor cores, or on their emulation.
    tensorized: bool = False
    #: Whether it comes after all others on a GPU, whatever it is predicted to take.
    last_resort: bool = False

    @abstractmethod
    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Whether this family takes `w`, and its default configuration if so."""

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[Any]:
        """Every configuration worth trying, each already checked; at least the default."""
        answer = self.match(w, hardware)
        if isinstance(answer, Match):
            yield answer.config

    def check(self, w: ConvWorkload, config: Any, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit; by default all do."""
        return None

    def footprint(self, w: ConvWorkload, config: Any, hardware: Hardware) -> Footprint | None:
        """The resources that `schedule` asks of a GPU, from which `schedules.machine.model`
        predicts its time. None: the roofline estimates it."""
        return None

    @abstractmethod
    def schedule(self, w: ConvWorkload, config: Any, hardware: Hardware) -> tirx.PrimFunc:
        """The scheduled function. Raises `ConfigError` if `config` does not fit."""

    def padded_macs(self, w: ConvWorkload, config: Any) -> int:
        """Multiply-adds that `schedule` carries out, padding included."""
        return w.useful_macs

    @abstractmethod
    def pack(self, w: ConvWorkload, config: Any, weight: NDArray[Any]) -> NDArray[Any]:
        """weight (K, C/groups, R, S) as the scheduled function reads it, fp16."""
