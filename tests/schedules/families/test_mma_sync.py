"""The mma.sync family: its CUDA text run on this CPU against onnxruntime, and its machine code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from schedules.conv.workload import PACKED, ConvWorkload, Epilogue
from schedules.errors import ConfigError, KernelFault
from schedules.families.mma_sync import copies
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.family import MmaSyncFamily
from schedules.families.mma_sync.plan import Plan
from schedules.families.mma_sync.space import fits
from schedules.family import Match, Reject
from schedules.machine.hardware import CPU, Hardware
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import kernels
from tests.support.thinned import thinned
from tests.support.workloads import FP16_SUMS, WORKLOADS
from tvmconv.compiler import toolchain

FAMILY = MmaSyncFamily()
SM_80, SM_90A = (toolchain.cuda_arch(name) for name in ("sm_80", "sm_90a"))
TAKEN = {name: w for name, w in WORKLOADS.items() if isinstance(FAMILY.match(w, SM_90A), Match)}
on_cpu = pytest.mark.skipif(not emulator.available(), reason="no g++")


def check(w: ConvWorkload, config: MmaSyncConfig, hardware: Any, execute: Any = None) -> None:
    operands = Tensors.random(w)
    got = kernels.run(FAMILY, w, config, hardware, operands, execute)
    error = kernels.relative_l2(got, kernels.reference(w, operands))
    # As in test_families: fp16 outputs round by 2**-11 at most, fp32 accumulators by far less.
    bound = 1e-3 if w.precision.result == "float16" else 2e-5
    assert error <= bound, f"{config}: {w} is {error:.2e} off"


@on_cpu
@pytest.mark.parametrize("name", thinned(TAKEN, 2))
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
@pytest.mark.parametrize(("w", "config"), thinned(list(configs()), 3))
def test_knobs(w: ConvWorkload, config: MmaSyncConfig) -> None:
    check(w, config, SM_90A, emulator.run)


@on_cpu
def test_accumulators_are_added_in_one_order() -> None:
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


WHOLE = MmaSyncConfig(2, 1, 1, 2, 4, 3)
WARPS, BLOCKS = replace(WHOLE, warps_i=2), replace(WHOLE, split=4)
#: Name: the configuration, what is replaced in its text and by what.
BROKEN = {
    "stage not waited for": (WHOLE, r"\w+_wait_group_1\(\);", ";"),
    "block does not wait": (WHOLE, r"(_wait_group_1\(\);\s*)__syncthreads\(\);", r"\1"),
    "stage not committed": (WHOLE, r"\w+_commit_group\(\);", ";"),
    "stage read twice": (WHOLE, r"read_ptr\[0\] = condval\w*;", ";"),
    "padding not masked": (WHOLE, r"\(taps_ptr\[\d\] & bit_ptr\[0\]\) == \(uint\)0", "0 != 0"),
    "weights past the end": (WHOLE, r"(source\w*, )\(.*row_ptr\[0\].*\);", r"\1(0 != 0));"),
    "warps do not wait": (WARPS, r"__syncthreads\(\);(\s*int worker)", r"\1"),
    "cluster does not wait": (BLOCKS, r"\w+_cluster_(arrive|wait)_aligned\(\);", ";"),
}


@on_cpu
@pytest.mark.parametrize("name", thinned(BROKEN, 2))
def test_a_broken_kernel_is_noticed(name: str) -> None:
    config, pattern, replacement = BROKEN[name]
    with pytest.raises((AssertionError, KernelFault), match=r"off|not finite|has ended"):
        check(TAKEN["not square"], config, SM_90A, kernels.broken(pattern, replacement))


@on_cpu
def test_a_wrong_swizzle_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "swizzled", lambda row, chunk, chunks: chunk)
    with pytest.raises(AssertionError, match="off"):
        check(TAKEN["not square"], WHOLE, SM_90A, emulator.run)


# ---------------------------------------------------------------- what it refuses

W = ConvWorkload(8, 28, 28, 64, 128, 3, 3, padding=(1, 1, 1, 1))
GOOD = MmaSyncConfig(2, 2, 2, 2, 4, 3)


@pytest.mark.parametrize(
    ("config", "hardware", "complaint"),
    [
        # 4 stages of (128 x 64 + 64 x 256) elements
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


def test_accumulators_may_need_more_shared_memory_than_the_stages() -> None:
    config = MmaSyncConfig(2, 2, 4, 4, 4, 3)
    assert Plan(W, config).memory.bytes == 3 * (128 + 128) * 64 * 2
    # Of two warps that share a k-block: rows of 32 accumulators, four more apart.
    shared = replace(config, warps_i=2)
    assert Plan(W, shared).memory.bytes == 2 * 128 * 128 // 32 * 36 * 4


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
    w, hardware = {**TAKEN, **ODD}[name], kernels.this_gpu()
    space = list(FAMILY.space(w, hardware))
    for config in (FAMILY.match(w, hardware).config, *space[:: max(1, len(space) // 6)]):
        check(w, config, hardware)
    assert fits(w, space[-1], hardware)
    assert not isinstance(FAMILY.match(w, hardware), Reject)
