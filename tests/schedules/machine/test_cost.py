"""What convolutions are said to cost: never less than the floor, and more where there is more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.choose import choose
from schedules.conv.workload import PACKED, ConvWorkload, Epilogue
from schedules.family import Match
from schedules.machine.cost import (
    Cost,
    Machine,
    conv_cost,
    conv_floor,
    copy_cost,
    moved_bytes,
)
from schedules.machine.footprint import MMA
from schedules.machine.gpus import H200, Card
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from schedules.machine.processor import Processor
from schedules.registry import FAMILIES, family
from tests.support.workloads import FP32_OUT, workloads

LARGE = ConvWorkload(32, 56, 56, 64, 64, 3, 3, padding=(1, 1, 1, 1))
hardware = st.sampled_from((CPU, *CUDA_ARCHS))
PROCESSOR = Processor("some", 2, 2.5, 16)
machines = st.sampled_from((PROCESSOR, *(one.card for one in CUDA_ARCHS)))


@given(workloads(), hardware, machines)
def test_floor_is_never_above_a_cost(w: ConvWorkload, target: Hardware, machine: Machine) -> None:
    floor = conv_floor(w, machine)
    assert 0 < floor.us < math.inf
    for one in FAMILIES:
        answer = one.match(w, target)
        if isinstance(answer, Match):
            cost = conv_cost(w, one, answer.config, machine)
            assert cost.us >= floor.us
            assert cost.us >= machine.least_us


@pytest.mark.parametrize("letter", ["n", "h", "w", "k", "r", "s"])
@given(w=workloads(), more=st.integers(1, 40))
def test_more_of_anything_does_not_cost_less(letter: str, w: ConvWorkload, more: int) -> None:
    """For one schedule with one configuration. Not of c: 9 channels can pad less than 8."""
    step = w.groups if letter == "k" else 1
    changes = {letter: getattr(w, letter) + more * step, "window": None}
    if letter == "r":  # as many outputs
        changes["h"] = w.h + more * w.dilation[0]
    if letter == "s":
        changes["w"] = w.w + more * w.dilation[1]
    larger = replace(w, **changes)
    small = replace(w, window=None)
    assert conv_floor(larger, H200).us >= conv_floor(small, H200).us
    direct = family("direct")
    config = direct.match(small, CPU)
    assert isinstance(config, Match)
    costs = [conv_cost(one, direct, config.config, H200).us for one in (small, larger)]
    assert costs[0] <= costs[1]


def test_small_ones_cost_a_launch() -> None:
    tiny = ConvWorkload(1, 1, 1, 16, 16, 1, 1)
    cost = choose(tiny, CPU).cost
    assert cost == Cost(H200.least_us, "latency")
    assert conv_floor(tiny, H200).us < H200.least_us


def test_what_limits() -> None:
    """A 3x3 convolution over many channels computes; a 1x1 over few moves."""
    wide = replace(LARGE, c=1024, k=1024)
    assert choose(wide, CPU).cost.limit == "arithmetic"
    thin = replace(LARGE, n=256, c=16, k=16, r=1, s=1, padding=(0, 0, 0, 0))
    assert choose(thin, CPU).cost.limit == "memory"
    arithmetic = choose(wide, CPU).cost.us
    assert arithmetic == pytest.approx(2 * wide.useful_macs / (H200.tflops(MMA, "float16") * 1e6))


def test_padding_is_paid_for() -> None:
    wmma = family("wmma_nhwc")
    config = wmma.match(LARGE, CPU)
    assert isinstance(config, Match)
    wide = replace(LARGE, n=256, c=1024, k=1024)
    one_more = replace(wide, k=1025)
    costs = [conv_cost(w, wmma, config.config, H200).us for w in (wide, one_more)]
    floors = [conv_floor(w, H200).us for w in (wide, one_more)]
    assert costs[1] - costs[0] > 10 * (floors[1] - floors[0])


def faster(card: Card, unit: str = "") -> Card:
    """With twice the rate of a unit, or else of memory."""
    if not unit:
        return replace(card, memory_gbps=2 * card.memory_gbps)
    rates = tuple(
        replace(one, tera=2 * one.tera) if one.unit == unit else one for one in card.rates
    )
    return replace(card, rates=rates)


@pytest.mark.parametrize("unit", [MMA, ""])
def test_a_faster_card_costs_less(unit: str) -> None:
    w = replace(LARGE, c=1024, k=1024) if unit else replace(LARGE, r=1, s=1)
    target = replace(CPU, card=faster(H200, unit))
    assert choose(w, target).cost.us == pytest.approx(choose(w, CPU).cost.us / 2, rel=0.3)


def test_bytes_moved() -> None:
    out = 32 * 56 * 56 * 64
    weight = 64 * 64 * 9
    assert moved_bytes(LARGE) == 2 * (out + weight + out)
    residual = replace(LARGE, epilogue=Epilogue(residual=True))
    assert moved_bytes(residual) == 2 * (3 * out + weight)
    single = replace(LARGE, precision=FP32_OUT)
    assert moved_bytes(single) == 2 * (out + weight) + 4 * out
    # Packed, a batch of 17 is stored as 32.
    packed = replace(LARGE, n=17, in_layout=PACKED, out_layout=PACKED)
    assert moved_bytes(packed) == moved_bytes(LARGE)
    # Every other pixel, of which a 1x1 filter skips the rest.
    strided = replace(LARGE, r=1, s=1, stride=(2, 2), padding=(0, 0, 0, 0))
    assert moved_bytes(strided) == 2 * (out // 4 + 64 * 64 + out // 4)


@given(st.integers(1, 10**9), machines)
def test_a_copy_is_read_and_written(elements: int, machine: Machine) -> None:
    cost = copy_cost(elements, machine, "float16")
    assert cost.us == max(machine.least_us, 4 * elements / (machine.memory_gbps * 1e3))
    assert copy_cost(elements, machine, "float32").us >= cost.us


def test_a_cost_prints_short() -> None:
    assert str(Cost(12.3456, "memory")) == "12.3 us (memory)"
