"""The interface of a family of schedules, and its answers when it is asked about a convolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
    """A match with this default, or a rejection where ``config`` is None: nothing fits."""
    if config is None:
        return Reject(family, f"no configuration fits {hardware.name}")
    return Match(family, config)


class Family(ABC):
    """One way to compute convolutions: subclass, then `schedules.registry.register` an instance.

    A subclass has at least `name`, `config_type`, `match`, `schedule`, `signature` and `pack`. To
    be measured by the tuner it must pickle: those of importable modules, scripts and notebooks do.
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
        """A `Match` with the default configuration if this family takes `w`, else a `Reject`."""

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
    def signature(self, w: ConvWorkload, config: Any) -> Signature:
        """Returns the operands of the scheduled function, in order."""

    @abstractmethod
    def pack(self, w: ConvWorkload, config: Any, given: Given) -> dict[str, NDArray[Any]]:
        """Returns the constant operands by name, as the scheduled function reads them."""
