"""The table of GPUs, the limits of a block, and grids that follow the card."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from intrinsics import dtypes
from schedules.choose import choose
from schedules.conv.max_pool import MaxPool
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.errors import ConfigError
from schedules.families.depthwise.config import DepthwiseConfig
from schedules.families.depthwise_dp4a.config import DepthwiseDp4aConfig
from schedules.families.depthwise_projection.config import DepthwiseProjectionConfig
from schedules.families.direct.family import DirectConfig
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.space import persistent
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.wgmma.config import WgmmaConfig
from schedules.families.wgmma.plan import Plan
from schedules.families.wmma.config import WmmaConfig
from schedules.machine.footprint import FP32, MMA, WGMMA
from schedules.machine.gpus import ARCHITECTURES, H200, MEASURED, Card
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from schedules.registry import FAMILIES, family
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import kernels
from tests.support.workloads import PAIRS, WORKLOADS, quantised

GPUS = {hardware.name: hardware for hardware in CUDA_ARCHS}
HOPPER = GPUS["sm_90a"]
CARDS = {card.name: card for _, card in ARCHITECTURES.values()}
SAME = (1, 1, 1, 1)


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_it_is_and_how_that_is_known(name: str) -> None:
    card = CARDS[name]
    numbers = [getattr(card, f.name) for f in fields(card) if f.type in ("int", "float")]
    assert len(numbers) == 5
    assert min(numbers) > 0
    assert card.source
    assert all(rate.tera > 0 and rate.source for rate in card.rates)
    assert {rate.unit for rate in card.rates} >= {MMA, FP32}
    named = [(rate.unit, rate.operand) for rate in card.rates]
    assert len(named) == len(set(named))
    assert all(dtypes.get(operand) for _, operand in named)
    # Halving the bits of an operand never slows a unit down.
    for unit, operand in named:
        for other, narrower in named:
            if unit == other and dtypes.get(narrower).bits < dtypes.get(operand).bits:
                assert card.tflops(unit, narrower) > card.tflops(unit, operand)


def test_only_what_was_measured_on_an_h200_is_called_measured() -> None:
    for card in CARDS.values():
        measured = [rate for rate in card.rates if MEASURED in rate.source]
        assert bool(measured) == card.validated == (card is H200)
    assert H200.tflops(MMA, "float16") == 635.0
    assert H200.tflops(MMA, "int8") == 1285.0
    assert H200.tflops(WGMMA, "float16") == H200.peak_tflops("float16") == 790.0


def test_of_what_is_not_known_nothing_is_said() -> None:
    with pytest.raises(LookupError, match=r"no rate of wgmma with float16 .* A100"):
        CARDS["A100 SXM 40 GB"].tflops(WGMMA, "float16")
    with pytest.raises(LookupError, match=r"no rate of mma with bfloat16 .* T4"):
        CARDS["T4"].tflops(MMA, "bfloat16")
    # No tensor core of a T4 takes these, so they are multiplied in fp32.
    assert CARDS["T4"].peak_tflops("bfloat16") == CARDS["T4"].tflops(FP32, "bfloat16") == 8.1


def test_limits_grow_with_the_multiprocessor() -> None:
    for limits, _ in ARCHITECTURES.values():
        assert limits.block_shared + limits.reserved <= limits.sm_shared
        assert limits.threads <= limits.sm_threads
        assert limits.sm_threads % 32 == 0
    clusters = {name: limits.cluster > 1 for name, (limits, _) in ARCHITECTURES.items()}
    assert clusters == {one.name: one.sm >= 90 for one in CUDA_ARCHS}


# ---------------------------------------------------------------- limits of a block


@pytest.mark.parametrize(
    ("most", "more", "said"),
    [
        ({"threads": 1024}, {"threads": 1025}, "1025 threads, a block has at most 1024"),
        (
            {"threads": 32, "shared_bytes": 227 << 10},
            {"threads": 32, "shared_bytes": (227 << 10) + 1},
            "232449 bytes of shared memory, a block has 232448",
        ),
        (
            {"threads": 32, "shared_bytes": 113 << 10, "resident": 2},
            {"threads": 32, "shared_bytes": (113 << 10) + 1, "resident": 2},
            "115713 bytes of shared memory for each of 2 blocks, a multiprocessor has 233472",
        ),
        (
            {"threads": 1024, "resident": 2},
            {"threads": 1024, "resident": 3},
            "3 blocks of 1024 threads, a multiprocessor has 2048",
        ),
        (
            {"threads": 32, "registers": 255},
            {"threads": 32, "registers": 256},
            "256 registers, each of 32 threads has 255",
        ),
        (
            {"threads": 256, "registers": 128, "resident": 2},
            {"threads": 256, "registers": 129, "resident": 2},
            "129 registers, each of 512 threads has 128",
        ),
        ({"threads": 32, "cluster": 8}, {"threads": 32, "cluster": 9}, "a cluster of 9 blocks"),
        ({"threads": 64, "depth": 64}, {"threads": 65, "depth": 65}, "third dimension"),
    ],
)
def test_each_limit_of_a_block(most: dict[str, int], more: dict[str, int], said: str) -> None:
    assert HOPPER.exceeded(**most) == []
    (found,) = HOPPER.exceeded(**more)
    assert said in found


W = ConvWorkload(8, 28, 28, 64, 128, 3, 3, padding=SAME)
DEPTHWISE = replace(W, k=64, groups=64)
#: A configuration of each family that asks for too many threads.
WIDE: dict[str, tuple[ConvWorkload, Any]] = {
    "wmma_nhwc": (W, WmmaConfig(8, 8, 1, 1)),
    "mma_sync": (W, MmaSyncConfig(8, 8, 1, 2)),
    "wgmma": (W, WgmmaConfig(8)),
    "few_channels": (replace(W, c=3), FewChannelsConfig(1, 8, tall=8)),
    "depthwise": (DEPTHWISE, DepthwiseConfig(1, 1, 1, 64, 28, 1)),
    "depthwise_dp4a": (
        quantised(DEPTHWISE, "int8", "int8", "scale"),
        DepthwiseDp4aConfig(1, 1, threads=2048),
    ),
    "depthwise_projection": (next(iter(PAIRS.values())), DepthwiseProjectionConfig(2, 8, 8)),
    "direct": (W, DirectConfig(1, 2048)),
}


def test_every_kind_of_configuration_is_tried() -> None:
    assert {type(config) for _, config in WIDE.values()} == {one.config_type for one in FAMILIES}


@pytest.mark.parametrize("name", WIDE)
def test_every_family_asks_the_one_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w, config = WIDE[name]
    with pytest.raises(ConfigError, match="threads, a block has at most 1024"):
        family(name).check(w, config, HOPPER)
    monkeypatch.setattr(Hardware, "exceeded", lambda *_, **__: ["asked and refused"])
    with pytest.raises(ConfigError, match="asked and refused"):
        family(name).check(w, config, HOPPER)


# ---------------------------------------------------------------- grids and costs of another card


def smaller(hardware: Hardware, multiprocessors: int) -> Hardware:
    """The same architecture on a card with other multiprocessors, and so much less of the rest."""
    card = hardware.card
    share = multiprocessors / card.multiprocessors
    rates = tuple(replace(rate, tera=rate.tera * share) for rate in card.rates)
    return replace(
        hardware,
        card=replace(
            card,
            name="a smaller one",
            multiprocessors=multiprocessors,
            rates=rates,
            l2_gbps=card.l2_gbps * share,
            memory_gbps=card.memory_gbps * share,
        ),
    )


TWO = smaller(HOPPER, 2)


@pytest.mark.skipif(not emulator.available(), reason="no g++")
def test_persistent_blocks_of_wgmma_are_as_many_as_the_card_holds() -> None:
    w, config = ConvWorkload(1, 16, 20, 16, 16, 1, 1), WgmmaConfig(1, 1, 16, 2)
    plan = Plan(w, config)
    assert (plan.tiles, plan.grid(HOPPER), plan.grid(TWO)) == (5, 5, 2)
    assert Plan(w, replace(config, resident=2)).grid(TWO) == 4
    assert Plan(w, replace(config, split=2)).grid(TWO) == 10, "a cluster for each tile"
    # The CUDA text, on this CPU.
    operands = Tensors.random(w)
    got = kernels.run(family("wgmma"), w, config, TWO, operands, emulator.run)
    assert kernels.relative_l2(got, kernels.reference(w, operands)) <= 1e-3


@pytest.mark.skipif(not emulator.available(), reason="no g++")
def test_persistent_blocks_of_few_channels_are_as_many_as_the_card_holds() -> None:
    one = family("few_channels")
    w = ConvWorkload(2, 40, 40, 3, 16, 3, 3, padding=SAME)
    assert persistent(HOPPER) == 264
    grids = {config.blocks for config in one.space(w, TWO)}
    assert grids == {0, 4, 2}
    config = next(config for config in one.space(w, TWO) if config.blocks == 4)
    operands = Tensors.random(w)
    got = kernels.run(one, w, config, TWO, operands, emulator.run)
    assert kernels.relative_l2(got, kernels.reference(w, operands)) <= 1e-3
    pooled = Epilogue(pool=MaxPool((3, 3), (2, 2), (1, 1), (20, 20)))
    assert choose(replace(w, epilogue=pooled), TWO).config.blocks in (4, 2)


@pytest.mark.parametrize("name", ["wmma_nhwc", "mma_sync", "depthwise"])
def test_a_card_of_fewer_multiprocessors_takes_larger_tiles(name: str) -> None:
    """What fills it is there with larger tiles already. By the families' own first guesses."""
    one, w = family(name), DEPTHWISE if name == "depthwise" else W
    few = smaller(HOPPER, 8)
    found = [one.footprint(w, one.match(w, gpu).config, gpu) for gpu in (HOPPER, few)]  # type: ignore[union-attr]
    threads = [f.blocks * f.threads for f in found]
    assert threads[1] < threads[0]


def test_what_was_found_on_an_h200_is_scaled() -> None:
    assert H200.scaled(96) == 96
    assert H200.scaled(1 << 17) == 1 << 17
    assert smaller(HOPPER, 66).card.scaled(96) == 48
    assert smaller(HOPPER, 1).card.scaled(1) == 1


@pytest.mark.parametrize("w", [W, DEPTHWISE], ids=["dense", "depthwise"])
def test_a_smaller_card_takes_longer(w: ConvWorkload) -> None:
    large = replace(w, n=128)
    assert choose(large, smaller(HOPPER, 33)).cost.us > 2 * choose(large, HOPPER).cost.us


def test_a_cpu_follows_the_choices_made_for_the_card_that_it_emulates() -> None:
    assert CPU.card is H200
    slow = tuple(replace(rate, tera=rate.tera / 100) for rate in H200.rates if rate.unit == MMA)
    fp32 = tuple(rate for rate in H200.rates if rate.unit == FP32)
    other = replace(CPU, card=replace(H200, rates=slow + fp32))
    assert choose(W, CPU).family.tensorized
    assert not choose(W, other).family.tensorized


def test_cards_are_told_apart_in_what_is_kept() -> None:
    """A card with other rates is another key of the cache of choices."""
    w = WORKLOADS["1x1"]
    slow: Card = replace(H200, memory_gbps=1.0)
    assert choose(w, replace(HOPPER, card=slow)).cost.us > choose(w, HOPPER).cost.us
    assert math.isfinite(choose(w, HOPPER).cost.us)
