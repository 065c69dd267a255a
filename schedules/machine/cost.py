"""The cost of an operation on a machine: the larger of its arithmetic and its memory traffic.

    us = max(operations / rate of the unit that does them, bytes / memory bandwidth, least)

The roofline model (Williams, Waterman and Patterson 2009), which gives a floor; here also the
padding of a schedule counts, and the least time of any kernel. It ranks copies, and all choices on
a CPU. Kernels of a GPU are ranked by `schedules.machine.model`, which predicts more than a floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload
from schedules.machine.footprint import FP32, MMA


class Machine(Protocol):
    """The rates of a machine: of a `gpus.Card` or a `processor.Processor`."""

    @property
    def name(self) -> str:
        """Name such as ``H200``."""

    @property
    def source(self) -> str:
        """Source of its rates: measured, documented or assumed."""

    @property
    def memory_gbps(self) -> float:
        """Memory bandwidth, in 1e9 bytes per second, read and written."""

    @property
    def least_us(self) -> float:
        """Microseconds of the shortest kernel that reads and writes memory."""

    def tflops(self, unit: str, operand: str) -> float:
        """Returns the rate of a unit with operands of a dtype, in 1e12 operations per second."""

    def peak_tflops(self, operand: str) -> float:
        """Returns the rate of the fastest unit, which no kernel exceeds; units as `tflops`."""


@dataclass(frozen=True)
class Cost:
    """Microseconds, and the limit: ``arithmetic``, ``memory`` or ``latency``.

    For a GPU's kernels the limit is one of `schedules.machine.model.LIMITS`.
    """

    us: float
    limit: str

    def __str__(self) -> str:
        return f"{self.us:.3g} us ({self.limit})"


class Padded(Protocol):
    """The part of a family that a cost depends on."""

    @property
    def tensorized(self) -> bool:
        """True if it multiplies on tensor cores."""

    def padded_macs(self, w: ConvWorkload, config: Any) -> int:
        """Returns the multiply-adds that it executes, padding included."""


def conv_cost(w: ConvWorkload, family: Padded, config: Any, machine: Machine) -> Cost:
    """Returns the cost of a convolution by a family's schedule, padding included."""
    unit = MMA if family.tensorized else FP32
    rate = machine.tflops(unit, w.precision.operands[0])
    return _least(_slowest(family.padded_macs(w, config), rate, moved_bytes(w), machine), machine)


def conv_floor(w: ConvWorkload, machine: Machine) -> Cost:
    """Returns the floor of a convolution: on the fastest unit, without padding or latency.

    No schedule is faster.
    """
    return floor(w.useful_macs, moved_bytes(w), machine, w.precision.operands[0])


def floor(macs: int, moved: int, machine: Machine, operand: str) -> Cost:
    """Returns the floor of so many multiply-adds of a dtype and bytes moved, without latency."""
    return _slowest(macs, machine.peak_tflops(operand), moved, machine)


def least(macs: int, moved: int, machine: Machine, operand: str) -> Cost:
    """Returns the least that a kernel of so many multiply-adds and bytes takes, latency
    included."""
    return _least(floor(macs, moved, machine, operand), machine)


def copy_bytes(elements: int, dtype: str, written: str = "") -> int:
    """Returns the bytes of a copy that reads `dtype` and writes it, or `written` if given."""
    return elements * (dtypes.get(dtype).bytes + dtypes.get(written or dtype).bytes)


def copy_cost(elements: int, machine: Machine, dtype: str, written: str = "") -> Cost:
    """Returns the cost of reading and writing a tensor once, as a layout conversion does."""
    return memory_cost(copy_bytes(elements, dtype, written), machine)


def pool_cost(elements: int, machine: Machine, dtype: str) -> Cost:
    """Returns the cost of a pool that reads and writes so many elements in total."""
    return memory_cost(elements * dtypes.get(dtype).bytes, machine)


def memory_cost(moved: int, machine: Machine) -> Cost:
    """Returns the cost of a kernel that moves so many bytes and computes almost nothing."""
    return _least(Cost(moved / (machine.memory_gbps * 1e3), "memory"), machine)


def moved_bytes(w: ConvWorkload) -> int:
    """Returns the bytes that a convolution has to read and write: every operand once."""
    if w.prologue is not None:
        first, then = w.apart
        between = math.prod(then.in_shape) * dtypes.get(then.precision.x).bytes
        return moved_bytes(first) + moved_bytes(then) - 2 * between
    own = w.precision
    x, multiplied, result = (dtypes.get(one).bytes for one in (own.x, own.operands[1], own.result))
    out = math.prod(w.out_shape) * result
    weight = w.k * w.group_c * w.r * w.s * multiplied
    added = dtypes.get(own.added).bytes if w.epilogue.residual else 0
    residual = math.prod(w.out_shape) * added
    # A stride larger than the filter skips rows and columns.
    rows = min(w.h, w.p * w.r)
    columns = min(w.w, w.q * w.s)
    read = math.prod(w.in_layout.shape(w.n, rows, columns, w.c)) * x
    gate = math.prod(w.gate_shape) * x if w.gate else 0
    return read + gate + weight + residual + out


def _least(cost: Cost, machine: Machine) -> Cost:
    return max(cost, Cost(machine.least_us, "latency"), key=lambda one: one.us)


def _slowest(macs: int, tflops: float, moved: int, machine: Machine) -> Cost:
    arithmetic = 2 * macs / (tflops * 1e6)
    memory = moved / (machine.memory_gbps * 1e3)
    return max(Cost(memory, "memory"), Cost(arithmetic, "arithmetic"), key=lambda cost: cost.us)
