"""Kernels of integers, held to onnxruntime step for step."""

from __future__ import annotations

from typing import Any

import numpy as np

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload
from schedules.family import Family
from schedules.machine.hardware import Hardware
from schedules.tensors import Tensors
from schedules.threads.emulator.guarded import Array
from tests.support import kernels


def check(w: ConvWorkload, got: Array, expected: Array) -> None:
    """At most one step off, in one element of a hundred; sums that are the result are equal."""
    if not dtypes.get(w.precision.result).integer:
        assert kernels.relative_l2(got, expected) < 2 * dtypes.get(w.precision.result).unit
        return
    off = abs(got.astype(np.int64) - expected)
    assert off.max() <= (w.precision.result != w.precision.accumulator), f"{off.max()} steps"
    assert (off > 0).mean() <= 0.01, f"{(off > 0).mean():%} differ"


def compare(
    family: Family,
    w: ConvWorkload,
    config: Any,
    hardware: Hardware,
    execute: kernels.Execute | None = None,
    seed: int = 0,
) -> tuple[Array, Tensors]:
    """Runs the kernel, as `kernels.run` does, and checks it; gives the result and the operands."""
    tensors = Tensors.random(w, seed)
    got = kernels.run(family, w, config, hardware, tensors, execute)
    check(w, got, kernels.reference(w, tensors))
    assert family.padded_macs(w, config) >= w.useful_macs
    return got, tensors
