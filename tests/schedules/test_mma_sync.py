"""The mma.sync family: its CUDA text run on this CPU against onnxruntime, and its machine code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from schedules.family import Match, Reject
from schedules.mma_sync import MmaSyncFamily
from schedules.mma_sync_config import MmaSyncConfig, fits
from schedules.workload import ConvWorkload, Epilogue
from tests import cuda_on_cpu, kernels
from tests.workloads import WORKLOADS
from tvmconv import toolchain

FAMILY = MmaSyncFamily()
SM_80, SM_90A = (toolchain.cuda_arch(name) for name in ("sm_80", "sm_90a"))
TAKEN = {name: w for name, w in WORKLOADS.items() if isinstance(FAMILY.match(w, SM_90A), Match)}
on_cpu = pytest.mark.skipif(not cuda_on_cpu.available(), reason="no g++")


def check(w: ConvWorkload, config: MmaSyncConfig, hardware: Any, execute: Any = None) -> None:
    operands = kernels.Operands.random(w)
    got = kernels.run(FAMILY, w, config, hardware, operands, execute)
    error = kernels.relative_l2(got, kernels.reference(w, operands))
    # As in test_families: fp16 outputs round by 2**-11 at most, fp32 sums by far less.
    bound = 1e-3 if w.epilogue.out_dtype == "float16" else 2e-5
    assert error <= bound, f"{config}: {w} is {error:.2e} off"


@on_cpu
@pytest.mark.parametrize("name", TAKEN)
def test_default_gives_what_onnxruntime_gives(name: str) -> None:
    w = TAKEN[name]
    check(w, FAMILY.match(w, SM_90A).config, SM_90A, cuda_on_cpu.run)


def configs() -> Iterator[Any]:
    """Every knob in turn; reductions split evenly and not, among warps, blocks and both."""
    for name, config in (
        ("not square", MmaSyncConfig(2, 2, 2, 4, 4, 3)),
        ("not square", MmaSyncConfig(1, 2, 1, 2, 2, 6)),
        ("not square", MmaSyncConfig(2, 1, 1, 2, 8, 2)),
        ("not square", MmaSyncConfig(2, 1, 1, 2, 4, 3, 2)),
        ("not square", MmaSyncConfig(1, 1, 1, 2, 8, 2, 4)),
        ("not square", MmaSyncConfig(2, 1, 2, 2, 2, 4, 1, 2)),
        ("not square", MmaSyncConfig(2, 2, 1, 2, 2, 3, 1, 8)),
        ("not square", MmaSyncConfig(1, 1, 2, 2, 4, 3, 2, 4)),
        ("residual last", MmaSyncConfig(2, 1, 2, 2, 2, 2, swizzle=2)),
        ("groups past a tile", MmaSyncConfig(1, 2, 1, 2, 2, 3, 1, 3)),
        ("groups past a tile, shuffled", MmaSyncConfig(1, 1, 2, 4, 4, 2, 2)),
        ("fp32 out", MmaSyncConfig(1, 1, 1, 2, 2, 2, 1, 4)),
        ("stride phase", MmaSyncConfig(2, 1, 1, 2, 2, 2)),
    ):
        yield pytest.param(TAKEN[name], config, id=f"{name}-{config}")


@on_cpu
@pytest.mark.parametrize(("w", "config"), list(configs()))
def test_knobs(w: ConvWorkload, config: MmaSyncConfig) -> None:
    check(w, config, SM_90A, cuda_on_cpu.run)


@on_cpu
def test_sums_are_added_in_one_order() -> None:
    """Split or not, a result is the same in every run, bit for bit."""
    w, config = TAKEN["not square"], MmaSyncConfig(1, 1, 2, 2, 4, 3, 2, 4)
    operands = kernels.Operands.random(w)
    first, second = (
        kernels.run(FAMILY, w, config, SM_90A, operands, cuda_on_cpu.run) for _ in range(2)
    )
    assert (first == second).all()


@on_cpu
def test_a_wrong_kernel_would_be_noticed() -> None:
    w = TAKEN["not square"]
    operands = kernels.Operands.random(w)
    weight = operands.weight.copy()
    weight[:, 0, 0, 0] = 0
    config = FAMILY.match(w, SM_90A).config
    got = kernels.run(FAMILY, w, config, SM_90A, replace(operands, weight=weight), cuda_on_cpu.run)
    assert kernels.relative_l2(got, kernels.reference(w, operands)) > 1e-2


# ---------------------------------------------------------------- on a GPU

#: Beside those of `WORKLOADS`: rows, channels and steps that no tile divides.
ODD = {
    "5x5 with stride": ConvWorkload(
        3, 29, 31, 72, 200, 5, 5, (2, 2), (2, 1, 2, 3), epilogue=Epilogue(True, True)
    ),
    "dilated": ConvWorkload(
        2, 33, 27, 136, 120, 3, 3, padding=(2, 2, 2, 2), dilation=(2, 2), epilogue=Epilogue(True)
    ),
    "large": ConvWorkload(
        16, 14, 14, 256, 512, 3, 3, padding=(1, 1, 1, 1), epilogue=Epilogue(True, True)
    ),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*TAKEN, *ODD])
def test_spread_of_the_space_on_a_gpu(name: str) -> None:
    w, hardware = {**TAKEN, **ODD}[name], toolchain.cuda_arch(str(toolchain.detect_arch()))
    space = list(FAMILY.space(w, hardware))
    for config in (FAMILY.match(w, hardware).config, *space[:: max(1, len(space) // 6)]):
        check(w, config, hardware)
    assert fits(w, space[-1], hardware)
    assert not isinstance(FAMILY.match(w, hardware), Reject)
