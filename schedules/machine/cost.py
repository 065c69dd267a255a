"""What an operation costs on a machine: the larger of its arithmetic and its memory traffic.

    us = max(operations / rate of the unit that does them, bytes / memory bandwidth, LATENCY_US)

A floor, after the roofline model (Williams, Waterman and Patterson 2009), but for the padding that
a schedule carries out, which counts. It ranks choices on a CPU, and copies; kernels of a GPU are
ranked by `schedules.machine.model`, which predicts more than the floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload
from schedules.family import Family
from schedules.machine.hardware import Hardware

#: What the least of kernels takes in a CUDA graph: small ones do not differ.
LATENCY_US = 2.0


@dataclass(frozen=True)
class Cost:
    """Microseconds, and what limits: ``arithmetic``, ``memory`` or ``latency``, or of a kernel for
    a GPU one of `schedules.machine.model.LIMITS`."""

    us: float
    limit: str

    def __str__(self) -> str:
        return f"{self.us:.3g} us ({self.limit})"


def conv_cost(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
    """Of a convolution by a family's schedule, its padding included."""
    rate = hardware.tensor_tflops if family.tensorized else hardware.fp32_tflops
    return _least(_roofline(family.padded_macs(w, config), rate, w, hardware))


def conv_floor(w: ConvWorkload, hardware: Hardware) -> Cost:
    """Of a convolution on tensor cores if nothing were padded, latency left out: no schedule is
    faster."""
    return _roofline(w.useful_macs, hardware.chip_tflops, w, hardware)


def floor(macs: int, moved: int, hardware: Hardware) -> Cost:
    """Of so many multiply-adds on tensor cores and so many bytes moved, latency left out."""
    return _slowest(macs, hardware.chip_tflops, moved, hardware)


def copy_bytes(elements: int, dtype: str, written: str = "") -> int:
    """Read, in `dtype`, and written, in the same or another."""
    return elements * (dtypes.get(dtype).bytes + dtypes.get(written or dtype).bytes)


def copy_cost(elements: int, hardware: Hardware, dtype: str, written: str = "") -> Cost:
    """Of reading and writing a tensor once, as a conversion between layouts does."""
    moved = copy_bytes(elements, dtype, written)
    return _least(Cost(moved / (hardware.memory_gbps * 1e3), "memory"))


def pool_cost(elements: int, hardware: Hardware, dtype: str) -> Cost:
    """Of a pool that reads and writes so many elements, together."""
    moved = elements * dtypes.get(dtype).bytes
    return _least(Cost(moved / (hardware.memory_gbps * 1e3), "memory"))


def moved_bytes(w: ConvWorkload) -> int:
    """What a convolution has to read and write at least: every operand once."""
    if w.prologue is not None:
        first, then = w.apart
        between = math.prod(then.in_shape) * dtypes.get(then.precision.x).bytes
        return moved_bytes(first) + moved_bytes(then) - 2 * between
    own = w.precision
    x, multiplied, result = (dtypes.get(one).bytes for one in (own.x, own.operands[1], own.result))
    out = math.prod(w.out_shape) * result
    weight = w.k * w.group_c * w.r * w.s * multiplied
    residual = math.prod(w.out_shape) * x if w.epilogue.residual else 0
    # A stride larger than the filter skips rows and columns.
    rows = min(w.h, w.p * w.r)
    columns = min(w.w, w.q * w.s)
    read = math.prod(w.in_layout.shape(w.n, rows, columns, w.c)) * x
    return read + weight + residual + out


def _least(cost: Cost) -> Cost:
    return max(cost, Cost(LATENCY_US, "latency"), key=lambda one: one.us)


def _roofline(macs: int, tflops: float, w: ConvWorkload, hardware: Hardware) -> Cost:
    return _slowest(macs, tflops, moved_bytes(w), hardware)


def _slowest(macs: int, tflops: float, moved: int, hardware: Hardware) -> Cost:
    arithmetic = 2 * macs / (tflops * 1e6)
    memory = moved / (hardware.memory_gbps * 1e3)
    return max(Cost(memory, "memory"), Cost(arithmetic, "arithmetic"), key=lambda cost: cost.us)
