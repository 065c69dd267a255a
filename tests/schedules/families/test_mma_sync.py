"""The mma.sync family: its CUDA text run on this CPU against onnxruntime, and its machine code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from schedules.conv.workload import PACKED, ConvWorkload, Epilogue
from schedules.errors import ConfigError
from schedules.families.mma_sync.config import MmaSyncConfig, fits, shared_bytes
from schedules.families.mma_sync.family import MmaSyncFamily
from schedules.family import Match, Reject
from schedules.machine.hardware import CPU, Hardware
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import kernels
from tests.support.workloads import FP16_SUMS, WORKLOADS
from tvmconv.compiler import toolchain
from tvmconv.runtime import gpu

FAMILY = MmaSyncFamily()
SM_80, SM_90A = (toolchain.cuda_arch(name) for name in ("sm_80", "sm_90a"))
TAKEN = {name: w for name, w in WORKLOADS.items() if isinstance(FAMILY.match(w, SM_90A), Match)}
on_cpu = pytest.mark.skipif(not emulator.available(), reason="no g++")


def check(w: ConvWorkload, config: MmaSyncConfig, hardware: Any, execute: Any = None) -> None:
    operands = Tensors.random(w)
    got = kernels.run(FAMILY, w, config, hardware, operands, execute)
    error = kernels.relative_l2(got, kernels.reference(w, operands))
    # As in test_families: fp16 outputs round by 2**-11 at most, fp32 sums by far less.
    bound = 1e-3 if w.precision.result == "float16" else 2e-5
    assert error <= bound, f"{config}: {w} is {error:.2e} off"


@on_cpu
@pytest.mark.parametrize("name", TAKEN)
def test_default_gives_what_onnxruntime_gives(name: str) -> None:
    w = TAKEN[name]
    check(w, FAMILY.match(w, SM_90A).config, SM_90A, emulator.run)


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
    check(w, config, SM_90A, emulator.run)


@on_cpu
def test_sums_are_added_in_one_order() -> None:
    """Split or not, a result is the same in every run, bit for bit."""
    w, config = TAKEN["not square"], MmaSyncConfig(1, 1, 2, 2, 4, 3, 2, 4)
    operands = Tensors.random(w)
    first, second = (
        kernels.run(FAMILY, w, config, SM_90A, operands, emulator.run) for _ in range(2)
    )
    assert (first == second).all()


@on_cpu
def test_a_wrong_kernel_would_be_noticed() -> None:
    w = TAKEN["not square"]
    operands = Tensors.random(w)
    weight = operands.weight.copy()
    weight[:, 0, 0, 0] = 0
    config = FAMILY.match(w, SM_90A).config
    got = kernels.run(FAMILY, w, config, SM_90A, replace(operands, weight=weight), emulator.run)
    assert kernels.relative_l2(got, kernels.reference(w, operands)) > 1e-2


# ---------------------------------------------------------------- what it refuses

W = ConvWorkload(8, 28, 28, 64, 128, 3, 3, padding=(1, 1, 1, 1))
GOOD = MmaSyncConfig(2, 2, 2, 2, 4, 3)


@pytest.mark.parametrize(
    ("config", "hardware", "complaint"),
    [
        # 4 stages of (128 x 64 + 64 x 256) halves
        (MmaSyncConfig(2, 4, 4, 4, 4, 4), SM_80, "196608 bytes of shared memory.* has 166912"),
        (replace(GOOD, split=2), SM_80, "a cluster of 2 blocks, sm_80 has 1"),
        (replace(GOOD, split=9), SM_90A, "a cluster of 9 blocks, sm_90a has 8"),
        (replace(GOOD, split=40), SM_90A, "9 steps are not split among 40 blocks"),
        (replace(GOOD, fragments_m=8, fragments_k=4), SM_90A, "392 registers, each of 128"),
        (replace(GOOD, fragments_k=3), SM_90A, "stores 32 channels at a time"),
        (replace(GOOD, chunk=3), SM_90A, "swizzled in 32, 64, 128 or 256 bytes"),
        (replace(GOOD, chunk=2, warps_i=2), SM_90A, "an even number of each stage"),
        (replace(GOOD, stages=1), SM_90A, "copies run a stage ahead"),
        (replace(GOOD, swizzle=5), SM_90A, "swizzle 5 does not divide 98 blocks of rows"),
        (replace(GOOD, warps_m=8, fragments_m=1, chunk=2), SM_90A, "share the weight tile evenly"),
        (replace(GOOD, split=0), SM_90A, "every knob is at least 1"),
    ],
)
def test_config_that_does_not_fit_says_why(
    config: MmaSyncConfig, hardware: Hardware, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        FAMILY.schedule(W, config, hardware)


def test_sums_may_need_more_shared_memory_than_the_stages() -> None:
    config = MmaSyncConfig(2, 2, 4, 4, 4, 3)
    assert shared_bytes(config) == 3 * (128 + 128) * 64 * 2
    # Of two warps that split a step: rows of 32 sums, four floats apart.
    assert shared_bytes(replace(config, warps_i=2)) == 2 * 128 * 128 // 32 * 36 * 4


@pytest.mark.parametrize(
    ("changes", "hardware", "reason"),
    [
        ({}, CPU, "instructions of a GPU"),
        ({}, toolchain.cuda_arch("sm_75"), "sm_75 lacks mma.sync"),
        ({"c": 60}, SM_80, "8 channels, and a group has 60"),
        ({"groups": 16}, SM_80, "a group has 4"),
        ({"in_layout": PACKED}, SM_80, "has to be NHWC, and something is NHWC16n16c"),
        ({"r": 7, "s": 7}, SM_80, "49 filter taps"),
        ({"precision": FP16_SUMS}, SM_80, "not its precision"),
        ({"n": 60000}, SM_80, "32 bits"),
    ],
)
def test_reject_says_why(changes: dict[str, Any], hardware: Hardware, reason: str) -> None:
    answer = FAMILY.match(replace(W, **changes), hardware)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


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
    w, hardware = {**TAKEN, **ODD}[name], toolchain.cuda_arch(str(gpu.detect_arch()))
    space = list(FAMILY.space(w, hardware))
    for config in (FAMILY.match(w, hardware).config, *space[:: max(1, len(space) // 6)]):
        check(w, config, hardware)
    assert fits(w, space[-1], hardware)
    assert not isinstance(FAMILY.match(w, hardware), Reject)
