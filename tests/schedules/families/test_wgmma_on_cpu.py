"""The WGMMA family's CUDA text, run on this CPU against onnxruntime."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from intrinsics import wgmma
from schedules.choose import kernel_cost
from schedules.conv.activations import Activation
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.errors import KernelFault
from schedules.families.wgmma.config import WgmmaConfig
from schedules.families.wgmma.plan import Plan
from schedules.family import Match
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.schedules.families.test_wgmma import FAMILY, FUSED, HOPPER, SAME, TRIED, W
from tests.support import kernels
from tests.support.thinned import thinned
from tests.support.workloads import FP32_OUT, WORKLOADS

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")

SMALL = ConvWorkload(1, 9, 8, 64, 128, 3, 3, padding=SAME, epilogue=FUSED)
PRELU = Epilogue(bias=True, activation=Activation("prelu"))
SILU_LAST = Epilogue(True, True, activation=Activation("silu"), residual_last=True)

#: Shapes that divide by nothing, and states that outlive a tile.
ODD = {
    # Three pieces a tile, two tiles a block: which buffer is next changes from tile to tile.
    "tile after tile": (replace(W, c=8, k=480, epilogue=FUSED), WgmmaConfig(1, 1, 48, 4)),
    "residual ahead of its tile": (
        replace(W, c=8, k=480, epilogue=FUSED), WgmmaConfig(1, 1, 48, 4, buffers=3),
    ),
    "residual ahead of two pieces": (
        replace(W, c=8, k=480, epilogue=FUSED), WgmmaConfig(1, 1, 32, 4, buffers=4),
    ),
    "tile after tile, one stage too few": (
        ConvWorkload(9, 14, 14, 24, 336, 1, 1, epilogue=PRELU), WgmmaConfig(1, 1, 32, 3),
    ),
    "two blocks, two fragments": (replace(SMALL, n=3, k=200), WgmmaConfig(1, 2, 64, 3, 1, 2)),
    "5x5, stride 2": (
        ConvWorkload(2, 17, 19, 24, 40, 5, 5, (2, 2), (2, 2, 2, 2), epilogue=FUSED),
        WgmmaConfig(2, 1, 48, 3),
    ),
    "strides and pads differ": (
        ConvWorkload(3, 14, 11, 40, 72, 3, 5, (3, 2), (0, 1, 2, 3), epilogue=SILU_LAST),
        WgmmaConfig(1, 1, 80, 4),
    ),
    "dilation": (
        ConvWorkload(1, 13, 12, 72, 56, 3, 3, padding=(2, 3, 2, 3), dilation=(2, 3)),
        WgmmaConfig(1, 1, 64, 3),
    ),
    "cropped": (
        ConvWorkload(2, 12, 11, 16, 24, 3, 3, padding=(-1, 1, -2, -3), epilogue=PRELU),
        WgmmaConfig(1, 1, 32, 4),
    ),
    "a matrix, past its end": (
        ConvWorkload(1, 9, 9, 72, 136, 1, 1, epilogue=FUSED), WgmmaConfig(2, 2, 128, 3),
    ),
    "1x1 with stride": (
        ConvWorkload(2, 9, 8, 96, 48, 1, 1, (2, 3), epilogue=PRELU), WgmmaConfig(1, 1, 48, 6),
    ),
    # Tiles over the end of an image and of the last one; 40 channels end within a chunk's rows.
    "gated": (
        ConvWorkload(5, 5, 7, 40, 56, 1, 1, epilogue=FUSED, gate=True), WgmmaConfig(2, 2, 64, 3),
    ),
    "gated, tile after tile": (
        ConvWorkload(9, 14, 14, 72, 336, 1, 1, epilogue=PRELU, gate=True),
        WgmmaConfig(1, 1, 32, 3),
    ),
    "gated, split": (
        ConvWorkload(2, 7, 7, 144, 24, 1, 1, gate=True), WgmmaConfig(1, 1, 32, 3, 2),
    ),
    "gated 3x3": (
        ConvWorkload(2, 6, 7, 24, 40, 3, 3, padding=SAME, gate=True), WgmmaConfig(1, 1, 48, 3),
    ),
    "split unevenly": (replace(SMALL, k=100, epilogue=PRELU), WgmmaConfig(2, 1, 64, 3, 4)),
    "split, last residual": (
        ConvWorkload(1, 7, 6, 40, 24, 2, 3, epilogue=SILU_LAST), WgmmaConfig(1, 1, 32, 3, 2),
    ),
    "split, fp32 out": (
        ConvWorkload(1, 6, 7, 144, 20, 1, 1, epilogue=Epilogue(True), precision=FP32_OUT),
        WgmmaConfig(1, 2, 32, 4, 2),
    ),
}  # fmt: skip
CASES = TRIED | ODD
#: Those that take longest, and whose paths others take too.
LONG = TRIED.keys() - {"window"}
TAKEN = {name: w for name, w in WORKLOADS.items() if isinstance(FAMILY.match(w, HOPPER), Match)}


def some_slow(names: Iterable[str], slow: set[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def run(w: ConvWorkload, config: Any, operands: Tensors, execute: Any) -> float:
    got = kernels.run(FAMILY, w, config, HOPPER, operands, execute)
    return kernels.relative_l2(got, kernels.reference(w, operands))


def check(w: ConvWorkload, config: WgmmaConfig) -> None:
    FAMILY.check(w, config, HOPPER)
    error = run(w, config, Tensors.random(w), emulator.run)
    # As in test_families: fp16 outputs round by 2**-11 at most, fp32 sums by far less.
    bound = 1e-3 if w.precision.result == "float16" else 2e-5
    assert error <= bound, f"{config}: {w} is {error:.2e} off"


@pytest.mark.parametrize("name", some_slow(CASES, LONG))
def test_it_gives_what_onnxruntime_gives(name: str) -> None:
    check(*CASES[name])


def test_some_blocks_take_tile_after_tile() -> None:
    for name in ("tile after tile", "residual ahead of its tile"):
        plan = Plan(*ODD[name])
        assert plan.tiles > plan.grid(HOPPER), name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), list(itertools.product(TAKEN, (False, True))), ids=str)
def test_workloads(name: str, split: bool) -> None:
    """As the cost model would have it, whole and split among as many blocks as can be."""
    w = TAKEN[name]
    space = list(FAMILY.space(w, HOPPER))
    most = max(config.split for config in space)
    some = [config for config in space if config.split == (most if split else 1)]
    check(w, min(some, key=lambda config: kernel_cost(w, FAMILY, config, HOPPER).us))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_space(seed: int) -> None:
    """Anywhere in the space."""
    w = list(TAKEN.values())[seed % len(TAKEN)]
    space = list(FAMILY.space(w, HOPPER))
    check(w, space[seed * 7919 % len(space)])


# ---------------------------------------------------------------- that it would be noticed

# Three pieces of two buffers.
PIECES = (replace(SMALL, epilogue=replace(FUSED, residual=False)), WgmmaConfig(2, 1, 96, 3))
RESIDUAL = (SMALL, WgmmaConfig(2, 1, 96, 3))
# Of six pieces three are loaded while others are finished.
AHEAD = (SMALL, WgmmaConfig(1, 2, 96, 3, buffers=4))
SPLIT = (SMALL, WgmmaConfig(1, 1, 64, 3, 2))
GATED = ODD["gated"]


#: Name: what is run, what is replaced in its text and by what, and what is said of it then.
BROKEN = {
    "too many bytes expected": (PIECES, r"\* 128\) \+ 16384", "* 128) + 16400",
        "deadlock: .* wait for an mbarrier"),
    "too few bytes expected": (PIECES, r"\* 128\) \+ 16384", "* 128) + 16368",
        "more bytes arrive"),
    "stage not waited for": (PIECES, r"\w+_mbarrier_wait\(.*stage_ptr_1.*\n", "",
        "not finite|more arrive"),
    "stage not called empty": (PIECES, r"\w+_arrive_arrive_shared_b64\(.*\n", ";\n",
        "deadlock"),
    "stage released early": (PIECES,
        r"(?s)(\w+wait_group_sync_aligned_1\(\);)(.*?)(before_ptr.0. =)", r"\2\1\3", "finite|off"),
    "products not waited for": (PIECES, r"\w+_aligned_[01]\(\);\n", ";\n", "finite|off"),
    "registers not fenced": (PIECES, r"\w+_wgmma_fence_\w+\(\);", ";", "before a fence"),
    "pieces not shown": (PIECES, r"\w+fence_proxy_proxy\w+\(\);", ";",
        "no fence has shown"),
    "buffers not waited for": (PIECES, r"\w+wait_group_read_1\(\);", ";", "off|finite"),
    "stores not waited for": (PIECES, r"\w+wait_group_async_bulk_wait_group_0\(\);", ";",
        "not finite"),
    "warpgroup does not wait": (PIECES, r"\w+bar_sync_count_sync\(.*;", ";",
        "finite|no fence has shown"),
    "residual not waited for": (RESIDUAL, r"\w+_mbarrier_wait\(.*arrived.*\n", ";\n",
        "finite|more arrive|has started"),
    "residual ahead not waited for": (AHEAD, r"\w+_mbarrier_wait\(.*arrived.*\n", ";\n",
        "finite|more arrive|has started"),
    "residual loaded over what is not stored": (AHEAD, r"\w+wait_group_read_1\(\);", ";",
        "off|finite"),
    "gated pixels not shown": (GATED, r"\w+fence_proxy_proxy\w+\(\);", ";",
        "a product reads what no fence"),
    "gate of the image before": (GATED, r"% 35\) >> 31\)\)", "% 35) >> 31)) / 2", "off"),
    "gated before the pixels are there": (GATED,
        r"(?s)(\w+_mbarrier_wait\([^\n]*\[\(stage_ptr_1[^\n]*\n)(.*?)(  alignas\(64\) uint base)",
        r"\2\1\3", "off|finite"),
    "cluster does not wait": (SPLIT, r"\w+_cluster_(arrive|wait)_aligned\(\);", ";",
        "finite|has ended"),
}  # fmt: skip


@pytest.mark.parametrize("name", thinned(BROKEN, 3))
def test_a_broken_kernel_is_noticed(name: str) -> None:
    (w, config), pattern, replacement, complaint = BROKEN[name]

    def compared() -> None:
        execute = kernels.broken(pattern, replacement)
        error = run(w, config, Tensors.random(w), execute)
        assert error <= 1e-3, f"{error} off"

    with pytest.raises((AssertionError, KernelFault), match=complaint):
        compared()


@pytest.mark.slow
def test_too_many_registers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    w, config = TRIED["two fragments"]
    assert config.registers == 240
    monkeypatch.setattr(WgmmaConfig, "registers", 248)
    with pytest.raises(KernelFault, match=r"deadlock: .* wait for registers"):
        run(w, config, Tensors.random(w), emulator.run)


def test_a_wrong_swizzle_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    w, config = PIECES
    operands = Tensors.random(w)
    monkeypatch.setattr(wgmma, "swizzled", lambda row, chunk, row_bytes: chunk)
    assert run(w, config, operands, emulator.run) > 0.1
    monkeypatch.undo()
    monkeypatch.setitem(wgmma.LAYOUT_TYPE, 128, wgmma.LAYOUT_TYPE[64])
    with pytest.raises(KernelFault, match="begins within a swizzle"):
        run(w, config, operands, emulator.run)
