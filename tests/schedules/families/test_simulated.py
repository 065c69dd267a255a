"""Kernels whose products are simulated: against the emulation, and against NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import tvmconv.runtime.simulator  # noqa: F401 - simulated kernels call what it registers
from intrinsics.numerics import arithmetic as numerics
from schedules.choose import choose
from schedules.conv.gemm import Reduction
from schedules.conv.precision import Precision
from schedules.conv.workload import NHWC, ConvWorkload, Epilogue
from schedules.errors import ConfigError
from schedules.families.direct.family import DirectFamily
from schedules.families.simulated.family import HmmaSimFamily, Simulation
from schedules.family import Reject
from schedules.machine.hardware import CPU, CUDA_ARCHS
from schedules.tensors import Tensors
from tests.support import kernels
from tests.support.thinned import thinned
from tests.support.workloads import FP32_OUT, WORKLOADS, workloads

SIMULATED = HmmaSimFamily()
TENSORIZED = [name for name, w in WORKLOADS.items() if choose(w, CPU).family.tensorized]


def both(w: ConvWorkload, name: str) -> tuple[Any, Any]:
    """As llvm's kernel gives it, and simulated."""
    operands, choice = Tensors.random(w), choose(w, CPU)
    emulated = kernels.run(choice.family, w, choice.config, CPU, operands)
    return emulated, kernels.run(SIMULATED, w, Simulation(name), CPU, operands)


def in_numpy(w: ConvWorkload, operands: Tensors, name: str) -> Any:
    """(N, P, Q, K) fp32: each sum in the order of the schedules, by the definition alone."""
    top, left, bottom, right = w.padding
    x = np.zeros((w.n, top + w.h + bottom, left + w.w + right, w.c))
    x[:, top : top + w.h, left : left + w.w] = operands.x
    per_row = Reduction.of(w).by_rows
    out = np.zeros((w.n, w.p, w.q, w.k), np.float32)
    for n, p, q in np.ndindex(w.n, w.p, w.q):
        h, v = p * w.stride[0], q * w.stride[1]
        span = w.dilation[0] * (w.r - 1) + 1, w.dilation[1] * (w.s - 1) + 1
        seen = x[n, h : h + span[0] : w.dilation[0], v : v + span[1] : w.dilation[1]]
        for group in range(w.groups):
            channels = slice(group * w.group_c, (group + 1) * w.group_c)
            filters = slice(group * w.group_k, (group + 1) * w.group_k)
            weight = operands.weight[filters].transpose(0, 2, 3, 1)
            a, b = (
                filled(one.reshape(*one.shape[:-3], *steps(w, per_row)))
                for one in (seen[:, :, channels].astype(np.float16), weight)
            )
            zeros = np.zeros(w.group_k, np.float32)
            out[n, p, q, filters] = numerics.fused(a, b, zeros, numerics.get(name))
    return out


def steps(w: ConvWorkload, per_row: bool) -> tuple[int, int]:
    return (w.r, w.s * w.group_c) if per_row else (w.r * w.s, w.group_c)


def filled(operand: Any) -> Any:
    """(..., outer, inner) to (..., k), each of the outer ones a multiple of 16 long."""
    missing = -operand.shape[-1] % 16
    wide = np.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, missing)])
    return wide.reshape(*wide.shape[:-2], -1)


@pytest.mark.parametrize("name", thinned(TENSORIZED, 4))
def test_ieee_is_the_emulation_bit_for_bit(name: str) -> None:
    emulated, simulated = both(WORKLOADS[name], "ieee")
    assert np.array_equal(emulated, simulated)


@settings(max_examples=8, deadline=None)
@given(workloads())
def test_ieee_is_the_emulation_of_any_convolution(w: ConvWorkload) -> None:
    w = replace(w, precision=replace(w.precision, accumulator="float32"))
    if choose(w, CPU).family.tensorized:
        emulated, simulated = both(w, "ieee")
        assert np.array_equal(emulated, simulated)


SHAPES = ("stem", "dilation", "strides differ", "20 to 10 channels", "groups", "one pixel")
# Sums without loss take seconds where the convolution is larger.
# The order of the sums is the same for every chip: all of them for two shapes, one for the others.
SUMS = [*((name, chip) for name in SHAPES[:2] for chip in ("v100", "a100", "h100")),
        *zip(SHAPES[2:], ("v100", "a100", "h100", "exact"), strict=True)]  # fmt: skip


@pytest.mark.parametrize(("name", "chip"), SUMS)
def test_sums_are_those_of_the_chip_in_the_order_of_the_schedule(name: str, chip: str) -> None:
    w = replace(WORKLOADS[name], epilogue=Epilogue(), precision=FP32_OUT)
    operands = Tensors.random(w)
    found = kernels.run(SIMULATED, w, Simulation(chip), CPU, operands)
    assert np.array_equal(found, in_numpy(w, operands, chip))


def test_fp16_accumulators() -> None:
    precision = Precision(accumulator="float16", result="float32")
    w = replace(WORKLOADS["1x1"], epilogue=Epilogue(), precision=precision)
    operands = Tensors.random(w)
    a, b = operands.x.reshape(-1, w.c), operands.weight.reshape(w.k, w.c).T
    zeros = np.zeros((len(a), w.k), np.float16)
    expected = numerics.matmul(a, b, zeros, numerics.V100)
    found = kernels.run(SIMULATED, w, Simulation("v100"), CPU, operands)
    assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "name", ["branch of a concat", "residual last", "depthwise", "groups of 8"]
)
def test_fp32_activations_are_rounded_as_operands_alone(name: str) -> None:
    """x is rounded to fp16, the residual and the result are not."""
    w = WORKLOADS[name]
    w = replace(w, epilogue=replace(w.epilogue, residual_layout=NHWC))
    half = Tensors.random(w)
    w = replace(w, precision=Precision(x="float32", result="float32"))
    fine = np.random.default_rng(1).uniform(-1, 1, half.x.shape) * 2.0**-14
    residual = None
    if half.residual is not None:
        residual = half.residual.astype(np.float32) + np.float32(2.0**-14)
    wide = replace(half, x=(half.x + fine * abs(half.x)).astype(np.float32), residual=residual)
    if choose(w, CPU).family.tensorized:
        found = kernels.run(SIMULATED, w, Simulation("ieee", "float32"), CPU, wide)
    else:
        family = DirectFamily()
        found = kernels.run(family, w, family.match(w, CPU).config, CPU, wide)
    assert not np.array_equal(wide.x, half.x)
    expected = kernels.reference(w, replace(wide, x=wide.x.astype(np.float16)))
    assert kernels.relative_l2(found, expected) < 1e-6  # of fp32 sums; fp16 would give 2e-4


def test_it_is_chosen_by_nobody_and_runs_on_no_gpu() -> None:
    w = WORKLOADS["1x1"]
    assert isinstance(SIMULATED.match(w, CPU), Reject)
    with pytest.raises(ConfigError, match="simulated only on a CPU"):
        SIMULATED.schedule(w, Simulation("v100"), CUDA_ARCHS[-1])
    with pytest.raises(ConfigError, match="one of float16, float32"):
        SIMULATED.schedule(w, Simulation("v100", "float64"), CPU)
