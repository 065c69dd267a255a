"""The interface of a family of schedules, and its answers to a workload."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from tvm import tirx

from intrinsics import dtypes
from schedules.conv.precision import Precision
from schedules.conv.signature import BIAS, WEIGHT, Signature
from schedules.conv.workload import ConvWorkload
from schedules.machine.footprint import Footprint
from schedules.machine.hardware import Hardware

#: Constant tensors of a convolution by the names of `schedules.conv.signature`: weight
#: (K, C/groups, R, S), bias, slope and scales (K,). A prologue's have the same names after
#: `OF_PROLOGUE`: `PROLOGUE_WEIGHT` (C, 1, R, S), `PROLOGUE_BIAS` (C,), and so on.
Given = Mapping[str, NDArray[Any]]
OF_PROLOGUE = "prologue."
PROLOGUE_WEIGHT, PROLOGUE_BIAS = OF_PROLOGUE + WEIGHT, OF_PROLOGUE + BIAS
#: Reason of a family for pairs to decline a workload without a prologue.
ONE_CONVOLUTION = "no depthwise convolution is computed with it"


def with_prologue(given: Given, first: Given) -> Given:
    """Returns the constant tensors of a convolution and of its prologue, by their names."""
    return {**given, **{OF_PROLOGUE + name: array for name, array in first.items()}}


def prologue_given(given: Given) -> Given:
    """Returns the prologue's constant tensors by the names of `schedules.conv.signature`."""
    return {
        name.removeprefix(OF_PROLOGUE): array
        for name, array in given.items()
        if name.startswith(OF_PROLOGUE)
    }


@dataclass(frozen=True)
class Match:
    """Says that the family can compute the workload; ``config`` is its default."""

    family: str
    config: Any


@dataclass(frozen=True)
class Reject:
    """Says that the family declines the workload; ``reason`` is one short clause."""

    family: str
    reason: str

    def __str__(self) -> str:
        return f"{self.family}: {self.reason}"


def alone(w: ConvWorkload, gates: bool = False) -> str:
    """Returns the reason to decline a prologue, a pool, or a gate, unless the family `gates`; empty
    if the workload has none."""
    if w.prologue is not None:
        return "computes one convolution, not two"
    if w.epilogue.pool is not None:
        return "does not pool"
    if w.gate and not gates:
        return "does not multiply what it reads by a gate"
    return ""


def other_precision(w: ConvWorkload, *known: Precision) -> str:
    """Returns the reason to decline a workload of a precision other than `known`, or "".

    Any dtype of the result is accepted here; the family checks it.
    """
    for workload in w.apart:
        own = workload.precision
        if not any(own == replace(one, result=own.result) for one in known):
            return f"{own}: not its precision"
    return ""


def other_operands(w: ConvWorkload, *known: Precision) -> str:
    """Returns the reason to decline a workload whose products are of a precision other than
    `known`, or "". Any scales are accepted here, and any dtypes of residual and result, but for
    integers of 32 bits that are no sums.
    """
    for workload in w.apart:
        own = workload.precision
        products = (own.x, own.operands, own.accumulator, own.split)
        unknown = products not in [(k.x, k.operands, k.accumulator, k.split) for k in known]
        result = dtypes.get(own.result)
        if unknown or (result.integer and result.bytes > 1 and not own.sums):
            return f"{own}: not its precision"
    return ""


def fitting(family: str, config: Any, hardware: Hardware) -> Match | Reject:
    """Returns a match with this default, or a rejection if ``config`` is None."""
    if config is None:
        return Reject(family, f"no configuration fits {hardware.name}")
    return Match(family, config)


class Family(ABC):
    """One way to compute convolutions: subclass, then `schedules.registry.register` an instance.

    A subclass has at least `name`, `config_type`, `match`, `schedule`, `signature` and `pack`. The
    tuner pickles it: classes of modules, scripts and notebooks all work.
    """

    #: Unique among the registered families; records and reports name it.
    name: str
    #: The type of its configurations: a frozen dataclass of int, bool, str, and tuples of them.
    #: Families that differ only in layout may share one.
    config_type: type
    #: Increase it if the kernels of equal configurations change: older records then expire.
    version: int = 1
    #: True if the default was found by measuring and is used untuned. Otherwise the cost model
    #: chooses from the space.
    default_measured: bool = False
    #: True if the multiply-adds run on tensor cores, or on their emulation.
    tensorized: bool = False
    #: True if it comes after all others on a GPU, whatever its cost.
    last_resort: bool = False

    @abstractmethod
    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        """Returns a `Match` with the default configuration if it takes `w`, else a `Reject`."""

    def space(self, w: ConvWorkload, hardware: Hardware) -> Iterator[Any]:
        """Yields every configuration worth trying, each already checked; at least the default."""
        answer = self.match(w, hardware)
        if isinstance(answer, Match):
            yield answer.config

    def check(self, w: ConvWorkload, config: Any, hardware: Hardware) -> None:
        """Raises `ConfigError` if `config` does not fit; by default all do."""
        return None

    def footprint(self, w: ConvWorkload, config: Any, hardware: Hardware) -> Footprint | None:
        """Returns the footprint of `schedule` on a GPU, for `schedules.machine.model`.

        None: the roofline estimates the time.
        """
        return None

    @abstractmethod
    def schedule(self, w: ConvWorkload, config: Any, hardware: Hardware) -> tirx.PrimFunc:
        """Returns the scheduled function. Raises `ConfigError` if `config` does not fit."""

    def padded_macs(self, w: ConvWorkload, config: Any) -> int:
        """Returns the multiply-adds that `schedule` executes, padding included."""
        return w.useful_macs

    @abstractmethod
    def signature(self, w: ConvWorkload, config: Any) -> Signature:
        """Returns the operands of the scheduled function, in order."""

    @abstractmethod
    def pack(self, w: ConvWorkload, config: Any, given: Given) -> dict[str, NDArray[Any]]:
        """Returns the constant operands by name, as the scheduled function reads them."""
