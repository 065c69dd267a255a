"""What a configuration may ask for, what families accept, and why they decline."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.choose import choose, options
from schedules.conv.gemm import TILES_K
from schedules.conv.workload import NHWC, PACKED, ConvWorkload, Epilogue, Layout
from schedules.errors import ConfigError
from schedules.families.depthwise import config as depthwise_config
from schedules.families.depthwise.config import DepthwiseConfig
from schedules.families.direct import family as direct
from schedules.families.direct.family import DirectConfig
from schedules.families.few_channels import space as few_channels_space
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.mma_sync import space as mma_sync_space
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.wgmma import space as wgmma_space
from schedules.families.wgmma.config import WgmmaConfig
from schedules.families.wmma import config as wmma_config
from schedules.families.wmma.config import WmmaConfig
from schedules.families.wmma.family import FEWEST_CHANNELS
from schedules.family import Match, Reject
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from schedules.registry import FAMILIES, family
from tests.support.workloads import WORKLOADS

GPUS = {hardware.name: hardware for hardware in CUDA_ARCHS}
W = ConvWorkload(8, 28, 28, 64, 128, 3, 3, padding=(1, 1, 1, 1))
DEPTHWISE: dict[str, Any] = {"k": 64, "groups": 64}
GOOD = WmmaConfig(2, 2, 4, 2, 2, 2)
TINY = replace(GPUS["sm_75"], name="tiny", limits=replace(GPUS["sm_75"].limits, block_shared=1024))
ALL_HARDWARE = (CPU, *CUDA_ARCHS)


@pytest.mark.parametrize(
    ("config", "arch", "complaint"),
    [
        # 4 stages of (128 x 64 + 64 x 128) halves
        (
            WmmaConfig(2, 2, 4, 4, 4, 4),
            "sm_75",
            "131072 bytes of shared memory, a block has 65536",
        ),
        (WmmaConfig(2, 2, 4, 4, 4, 4), "sm_86", "131072 bytes .* has 101376"),
        # The pad counts: 3 stages of (128 x (64 + 8) + 64 x 128) halves.
        (WmmaConfig(2, 2, 4, 4, 4, 3, pad=8), "sm_86", "104448 bytes .* has 101376"),
        # One stage, but 128 x 128 sums in fp32 on their way out.
        (WmmaConfig(2, 4, 4, 4), "sm_75", "131072 bytes of shared memory"),
        (WmmaConfig(8, 8, 1, 1), "sm_90", "2048 threads, a block has at most 1024"),
        # 8 x 4 accumulators of 8 registers, 12 operands of 4, and 40 beside.
        (WmmaConfig(1, 1, 8, 4), "sm_90", "344 registers, each of 32 threads has 255"),
        # What one thread may have is not there for all 512: 65536 registers are shared.
        (WmmaConfig(4, 4, 4, 4, 4), "sm_90", "200 registers, each of 512 threads has 128"),
        (replace(GOOD, asynchronous=True), "sm_75", "cp.async needs sm_80"),
        (replace(GOOD, asynchronous=True, stages=1), "sm_80", "cp.async needs at least two stages"),
        (WmmaConfig(4, 2, 1, 1, 1), "sm_90", "256 threads do not share the gathered tile evenly"),
        (WmmaConfig(4, 2, 2, 1, 1), "sm_90", "256 threads do not share the weight tile evenly"),
        (replace(GOOD, pad=3), "sm_90", "pad 3 breaks 16-byte alignment"),
        (replace(GOOD, swizzle=4), "sm_90", "swizzle 4 does not divide 49 blocks of rows"),
        (replace(GOOD, swizzle=4), "llvm", "swizzle 4 does not divide 49 blocks of rows"),
        (replace(GOOD, warps_m=0), "llvm", "every knob is at least 1"),
        (replace(GOOD, stages=0), "sm_90", "every knob is at least 1"),
        (replace(GOOD, pad=-8), "sm_90", "pad at least 0"),
        (replace(GOOD, instruction=(16, 16, 8)), "sm_90", "no instruction m16n16k8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_that_does_not_fit_says_why_in_numbers(
    config: WmmaConfig, arch: str, complaint: str
) -> None:
    hardware = GPUS.get(arch, CPU)
    with pytest.raises(ConfigError, match=complaint):
        wmma_config.check(W, config, hardware)
    with pytest.raises(ConfigError, match=complaint):
        family("wmma_nhwc").schedule(W, config, hardware)
    assert not wmma_config.fits(W, config, hardware)


def test_config_that_does_not_fit_its_workload() -> None:
    asynchronous = replace(GOOD, asynchronous=True)
    with pytest.raises(ConfigError, match="takes channels divisible by 8"):
        wmma_config.check(replace(W, c=20), asynchronous, GPUS["sm_80"])
    with pytest.raises(ConfigError, match="takes channels divisible by 8"):
        wmma_config.check(replace(W, c=3), asynchronous, GPUS["sm_80"])
    wmma_config.check(replace(W, c=20, in_layout=PACKED), replace(GOOD, chunk=2), GPUS["sm_80"])
    narrow = replace(GOOD, warps_k=1, fragments_k=1, instruction=(32, 8, 16))
    with pytest.raises(ConfigError, match="tile of 8 channels cuts a block of NHWC16n16c"):
        wmma_config.check(replace(W, out_layout=PACKED), narrow, CPU)
    wmma_config.check(W, narrow, CPU)


def test_all_that_is_wrong_is_said_at_once_with_the_config_and_the_machine() -> None:
    config = replace(GOOD, asynchronous=True, pad=3, swizzle=5)
    with pytest.raises(ConfigError) as caught:
        wmma_config.check(W, config, GPUS["sm_75"])
    said = str(caught.value)
    problems = ("cp.async needs sm_80", "pad 3 breaks", "swizzle 5 does not divide 49")
    assert all(part in said for part in (str(config), str(W), "sm_75", *problems))


def test_config_prints_what_it_sets() -> None:
    assert str(WmmaConfig()) == "64x64x32, 2x2 warps, 1 stages"
    config = WmmaConfig(2, 4, 2, 2, 4, 3, True, 8, 4)
    assert str(config) == "64x128x64, 2x4 warps, 3 stages cp.async, pad 8, swizzle 4"


@pytest.mark.parametrize(
    ("config", "hardware", "complaint"),
    [
        (DirectConfig(0), CPU, "knobs are at least 1"),
        (DirectConfig(4, -1), CPU, "knobs are at least 1"),
        (DirectConfig(3), CPU, "128 channels are not a multiple of 3"),
        (DirectConfig(4, 2048), GPUS["sm_90"], "2048 threads, a block has at most 1024"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_direct_config_that_does_not_fit(
    config: DirectConfig, hardware: Hardware, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        direct.check(W, config, hardware)
    with pytest.raises(ConfigError, match=complaint):
        family("direct").schedule(W, config, hardware)


@pytest.mark.parametrize(
    ("config", "arch", "complaint"),
    [
        (DepthwiseConfig(0), "llvm", "every knob is at least 1"),
        (DepthwiseConfig(8, lanes=-1), "sm_90", "every knob is at least 1"),
        (DepthwiseConfig(6), "sm_90", "a vector of 6 is not a power of two up to 8"),
        (DepthwiseConfig(16), "sm_90", "a vector of 16 is not a power of two up to 8"),
        (DepthwiseConfig(32), "llvm", "a vector of 32 is not a power of two up to 16"),
        (DepthwiseConfig(8, lanes=3), "sm_90", "64 channels are not a multiple of 8 x 3"),
        (DepthwiseConfig(8, lanes=8, across=9, down=16), "sm_90", "1152 threads, .* at most 1024"),
        (
            DepthwiseConfig(1, lanes=2, down=65),
            "sm_90",
            "65 threads in the third dim",
        ),
        # 128 sums, (8 + 2) x 2 columns and 3 taps of 4 registers, and 40 beside.
        (DepthwiseConfig(8, 8, 2, 8, 4, 2), "sm_90", "260 registers, each of 64 threads has 255"),
        (DepthwiseConfig(8, 8, 1, 8, 4, 32), "sm_90", "156 registers, .* of 1024 threads has 64"),
        (DepthwiseConfig(8, lanes=8), "llvm", "8 threads, but a CPU's blocks have one"),
        (DepthwiseConfig(16, 8, 2), "llvm", "1024 bytes of accumulators, .* less than 1024"),
        (DepthwiseConfig(16, 14, 3), "llvm", "1536 bytes of patch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_depthwise_config_that_does_not_fit(
    config: DepthwiseConfig, arch: str, complaint: str
) -> None:
    w, hardware = replace(W, **DEPTHWISE), GPUS.get(arch, CPU)
    with pytest.raises(ConfigError, match=complaint):
        depthwise_config.check(w, config, hardware)
    with pytest.raises(ConfigError, match=complaint):
        family("depthwise").schedule(w, config, hardware)


def test_depthwise_tiles_shrink_where_threads_are_few() -> None:
    w = replace(W, **DEPTHWISE)
    small, large = (choose(replace(w, n=n), GPUS["sm_90"]).config for n in (1, 128))
    assert (small.vector, small.columns) == (2, 1)
    assert (large.vector, large.columns) == (8, 7)
    assert all(config.lanes * config.vector == 64 for config in (small, large))
    # Tiles of one row are alike: 14 columns are two tiles of 7, not one of 8 and one of 6.
    assert choose(replace(w, h=14, w=14), CPU).config == DepthwiseConfig(16, 7)


# ---------------------------------------------------------------- spaces and defaults


def check(w: ConvWorkload, config: Any, hardware: Hardware) -> None:
    homes = {
        WgmmaConfig: wgmma_space,
        MmaSyncConfig: mma_sync_space,
        WmmaConfig: wmma_config,
        DepthwiseConfig: depthwise_config,
        DirectConfig: direct,
        FewChannelsConfig: few_channels_space,
    }
    homes[type(config)].check(w, config, hardware)


@pytest.mark.parametrize("hardware", ALL_HARDWARE, ids=lambda hardware: hardware.name)
def test_defaults_fit(hardware: Hardware) -> None:
    for w in WORKLOADS.values():
        choice = choose(w, hardware)
        check(w, choice.config, hardware)
        if w.gate and hardware.kind == "cuda":
            # Planned only where a family with tensor cores takes it.
            assert choice.family.name in ("wgmma", "direct")
            continue
        grouped = w.groups == 1 or (w.group_c >= FEWEST_CHANNELS and not w.out_layout.packed)
        assert choice.family.tensorized == grouped
        if isinstance(choice.config, WmmaConfig):
            assert not choice.config.asynchronous or hardware.has_cp_async
        # Every family either matches or says why not.
        matching = {f.name for f in FAMILIES if isinstance(f.match(w, hardware), Match)}
        rejecting = {reject.family for reject in choice.rejects}
        assert matching | rejecting == {f.name for f in FAMILIES}
        assert not matching & rejecting
        assert all(reject.reason for reject in choice.rejects)


@pytest.mark.parametrize(
    "name",
    ["not square", "20 to 10 channels", "batch 5, packed", "groups", "depthwise 5x5 with stride"],
)
@pytest.mark.parametrize("arch", ["llvm", "sm_75", "sm_80", "sm_90a"])
def test_whole_space_fits(name: str, arch: str) -> None:
    w, hardware = WORKLOADS[name], GPUS.get(arch, CPU)
    for each in FAMILIES:
        if isinstance(each.match(w, hardware), Reject):
            continue
        space = list(each.space(w, hardware))
        assert len(space) == len(set(space)) > 1
        for config in space:
            check(w, config, hardware)
        if isinstance(space[0], WmmaConfig):
            waits_for_none = any(config.asynchronous for config in space)
            eights = wmma_config.gather_vector(w, space[0].tile) == 8
            assert waits_for_none == (hardware.has_cp_async and eights)


def test_large_convolution_gets_large_tiles_and_small_one_fills_the_chip() -> None:
    w = ConvWorkload(256, 14, 14, 256, 512, 3, 3, padding=(1, 1, 1, 1))
    packed = replace(w, in_layout=PACKED, out_layout=PACKED)
    for each, stages in ((w, 2), (packed, 3)):
        config = next(wmma_config.guesses(each, GPUS["sm_90"]))
        assert (config.tile.m, config.tile.k, config.stages) == (128, 128, stages)
        assert config.asynchronous
    tile = choose(w, GPUS["sm_90"]).config.tile
    assert tile.m * tile.k >= 128 * 128
    small = choose(replace(w, n=1), GPUS["sm_90"]).config
    assert small.tile.m * small.tile.k < 128 * 128
    # Below sm_80 nothing is asynchronous, and the config says so.
    assert "cp.async" not in str(choose(w, GPUS["sm_75"]).config)


@given(st.integers(1, 400), st.sampled_from([3, 8, 24, 64]), st.sampled_from([1, 7, 28]))
@settings(deadline=None, max_examples=25)
def test_operands_are_packed_alike_for_every_batch(k: int, c: int, side: int) -> None:
    """By one family, so that batch buckets share them, though their tiles differ."""
    weight = np.ones((k, c, 1, 1), np.float16)
    for hardware in (CPU, GPUS["sm_75"], GPUS["sm_90a"]):
        packed: dict[str, list[Any]] = {}
        for n in (1, 8, 32, 256):
            w = ConvWorkload(n, side, side, c, k, 1, 1)
            for one in options(w, hardware)[0]:
                arrays = packed.setdefault(one.family.name, [])
                arrays.append(one.family.pack(w, one.config, {"weight": weight})["weight"])
        for arrays in packed.values():
            for other in arrays[1:]:
                np.testing.assert_array_equal(other, arrays[0])


def test_the_tiles_that_operands_are_packed_for_are_those_of_gpus() -> None:
    tiles = {WmmaConfig(*tile).tile.k for tile in (*wmma_config.GPU_TILES, wmma_config.ONE_WARP)}
    assert tiles == set(TILES_K)


# ---------------------------------------------------------------- rejects


@pytest.mark.parametrize(
    ("changes", "hardware", "name", "reason"),
    [
        ({"groups": 16}, CPU, "wmma_nhwc", "4 input channels per group"),
        ({"groups": 4, "out_layout": PACKED}, CPU, "wmma_packed", "groups are written as NHWC"),
        ({"groups": 64}, CPU, "wmma_packed", "depthwise"),
        ({}, CPU, "wmma_packed", "the output is laid out as NHWC"),
        ({}, CPU, "depthwise", "not depthwise: 1 groups of 64 channels"),
        ({"groups": 64}, CPU, "depthwise", "2 output channels per input channel"),
        ({**DEPTHWISE, "in_layout": PACKED}, CPU, "depthwise", "NHWC only, not NHWC16n16c"),
        (
            {**DEPTHWISE, "epilogue": Epilogue(residual=True, residual_layout=Layout(4, 8))},
            CPU,
            "depthwise",
            "NHWC only, not NHWC4n8c",
        ),
        ({"out_layout": PACKED}, CPU, "wmma_nhwc", "the output is laid out as NHWC16n16c"),
        ({}, replace(GPUS["sm_70"], name="sm_61", sm=61), "wmma_nhwc", "sm_61 has no WMMA"),
        ({}, TINY, "wmma_nhwc", "no configuration fits tiny"),
        ({"out_layout": Layout(1, 7)}, CPU, "wmma_packed", "no configuration fits llvm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_reject_says_why(
    changes: dict[str, Any], hardware: Hardware, name: str, reason: str
) -> None:
    w = replace(W, **changes)
    answer = family(name).match(w, hardware)
    assert isinstance(answer, Reject)
    assert answer.family == name
    assert re.search(reason, answer.reason)
    assert str(answer) == f"{name}: {answer.reason}"
    choice = choose(w, hardware)
    assert answer in choice.rejects


def test_last_family_takes_everything() -> None:
    for w in WORKLOADS.values():
        for hardware in (*ALL_HARDWARE, replace(GPUS["sm_70"], name="sm_61", sm=61)):
            assert isinstance(FAMILIES[-1].match(w, hardware), Match)


def test_a_match_carries_what_the_family_would_use() -> None:
    answer = family("wmma_nhwc").match(replace(W, in_layout=NHWC), CPU)
    assert isinstance(answer, Match)
    assert (answer.family, answer.config) == ("wmma_nhwc", choose(W, CPU).config)
