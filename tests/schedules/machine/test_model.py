"""Predicted times: finite and sane for whatever a family can do, and more for more work."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrinsics import dtypes
from schedules.choose import choose, kernel_cost, predict
from schedules.conv.workload import ConvWorkload
from schedules.family import Family, Match, Reject
from schedules.machine import model
from schedules.machine.cost import conv_floor
from schedules.machine.footprint import FP32, MMA, Footprint, exchange
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from schedules.machine.model import LIMITS, resident, time_of
from schedules.registry import FAMILIES
from tests.schedules.machine.test_cost import faster
from tests.support.workloads import PAIRS, WORKLOADS, workloads

GPUS = {hardware.name: hardware for hardware in CUDA_ARCHS}
H200 = GPUS["sm_90a"]
hardware = st.sampled_from(CUDA_ARCHS)


@st.composite
def footprints(draw: st.DrawFn) -> Footprint:
    """Of kernels that exist: no more than a multiprocessor of any architecture has room for."""
    steps = draw(st.integers(1, 300))
    threads = draw(st.sampled_from((32, 64, 128, 256, 512)))
    multiplies = draw(st.integers(1, 1 << 18)) * steps
    unit = draw(st.sampled_from((MMA, FP32)))
    return Footprint(
        blocks=draw(st.integers(1, 20000)),
        threads=threads,
        registers=draw(st.integers(16, min(255, 65536 // threads))),
        shared_bytes=draw(st.integers(0, 60 << 10)),
        unit=unit,
        operand="float16",
        macs=multiplies,
        instructions=multiplies // 32 + draw(st.integers(1, 1 << 12)) * steps,
        shared_traffic=draw(st.integers(0, 1 << 22)),
        read_bytes=draw(st.integers(1, 1 << 20)),
        written_bytes=draw(st.integers(1, 1 << 18)),
        dram_bytes=draw(st.integers(1, 1 << 28)),
        steps=steps,
        rounds=draw(st.integers(1, 8)),
        ahead=draw(st.integers(0, 4)),
        pause=draw(st.integers(0, 5000)),
        apart=draw(st.booleans()),
    )


@given(footprints(), hardware)
def test_a_prediction_is_at_least_each_of_its_terms(f: Footprint, machine_: Hardware) -> None:
    found = time_of(f, machine_)
    assert 0 < found.us < math.inf
    assert set(found.terms) == set(LIMITS)
    assert all(0 <= us < found.us for us in found.terms.values())
    assert found.limit in LIMITS
    assert found.validated == (machine_.sm == 90)


@pytest.mark.parametrize(
    "names",
    [
        ("macs",),
        ("instructions",),
        ("shared_traffic",),
        ("dram_bytes",),
        ("steps",),
        ("rounds",),
        ("pause",),
        ("registers",),
        ("shared_bytes",),
        ("read_bytes", "written_bytes", "dram_bytes"),
        ("blocks", "dram_bytes"),
    ],
    ids="+".join,
)
@given(f=footprints(), machine_=hardware, times=st.integers(2, 5))
def test_more_work_never_takes_less(
    names: tuple[str, ...], f: Footprint, machine_: Hardware, times: int
) -> None:
    more = replace(f, **{name: times * getattr(f, name) for name in names})
    assert time_of(more, machine_).us >= time_of(f, machine_).us * (1 - 1e-9)


@given(footprints(), hardware)
def test_what_is_asked_for_ahead_of_time_is_not_waited_for(
    f: Footprint, machine_: Hardware
) -> None:
    times = [time_of(replace(f, ahead=ahead), machine_).us for ahead in range(5)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("unit", [MMA, FP32, ""])
@given(f=footprints(), machine_=hardware)
def test_a_faster_card_takes_no_longer(unit: str, f: Footprint, machine_: Hardware) -> None:
    other = replace(machine_, card=faster(machine_.card, unit))
    assert time_of(f, other).us <= time_of(f, machine_).us * (1 + 1e-9)


@given(footprints(), hardware)
def test_copies_that_go_on_by_themselves_take_no_longer(f: Footprint, machine_: Hardware) -> None:
    both = [time_of(replace(f, apart=apart), machine_).us for apart in (True, False)]
    assert both[0] <= both[1]


def test_sums_of_more_parts_take_longer_to_add_up() -> None:
    clocks = [exchange(parts) for parts in (2, 4, 8, 16, 32)]
    assert clocks == sorted(clocks)
    assert 1 < clocks[0] / 1830 < 3  # microseconds on an H200


@given(footprints(), footprints(), hardware)
def test_what_is_launched_after_it_adds(f: Footprint, after: Footprint, machine_: Hardware) -> None:
    both = time_of(replace(f, then=after), machine_)
    alone = [time_of(one, machine_) for one in (f, after)]
    assert both.us == pytest.approx(sum(one.us for one in alone))
    for name in LIMITS:
        assert both.terms[name] == pytest.approx(sum(one.terms[name] for one in alone))


#: A block that does next to nothing, to be given one thing to do.
IDLE = Footprint(132, 128, 64, 0, MMA, "float16", 0, 1, 0, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("does", "limit"),
    [
        ({"macs": 1 << 24, "blocks": 528}, model.TENSOR),
        ({"instructions": 1 << 20, "threads": 1024, "registers": 32}, model.ISSUE),
        ({"shared_traffic": 1 << 24}, model.SHARED),
        ({"read_bytes": 1 << 23}, model.L2),
        ({"dram_bytes": 1 << 30}, model.DRAM),
        ({"steps": 1000}, model.LATENCY),
        # One multiprocessor has two blocks, the others one.
        ({"macs": 1 << 24, "blocks": 133, "threads": 512}, model.WAVES),
        ({"macs": 1 << 24, "blocks": 264, "threads": 512}, model.TENSOR),
    ],
)
def test_what_limits(does: dict[str, int], limit: str) -> None:
    assert time_of(replace(IDLE, **does), H200).limit == limit


def test_a_kernel_that_does_nothing_takes_a_launch() -> None:
    assert time_of(IDLE, H200).us == pytest.approx(1.6, abs=0.4)


@pytest.mark.parametrize(
    ("unit", "operand"), [(one.unit, one.operand) for one in H200.card.rates if one.unit != FP32]
)
def test_the_rate_of_an_instruction_is_its_ceiling(unit: str, operand: str) -> None:
    """Well filled, 1e12 operations take what the instruction's rate says, and little more."""
    tflops = H200.card.tflops(unit, operand)
    f = replace(IDLE, unit=unit, operand=operand, macs=1 << 23, blocks=132 * 400, threads=256)
    us = 2 * f.macs * f.blocks / (tflops * 1e6)
    assert us < time_of(f, H200).us < 1.1 * us


def test_blocks_that_a_multiprocessor_has_room_for() -> None:
    m = H200.limits
    assert resident(replace(IDLE, registers=200), m) == 2  # 65536 / (200 x 128)
    assert resident(replace(IDLE, registers=201), m) == 2  # as 208
    assert resident(replace(IDLE, shared_bytes=100 << 10), m) == 2  # 228 KiB, 1 of each taken
    assert resident(replace(IDLE, threads=1024, registers=32), m) == 2
    assert resident(replace(IDLE, threads=32, registers=16), m) == 32
    # What no multiprocessor has room for is predicted as if it had: families check it.
    assert resident(replace(IDLE, threads=1024, registers=255), m) == 1


# ---------------------------------------------------------------- the families


@pytest.mark.parametrize("arch", GPUS)
def test_every_family_and_workload(arch: str) -> None:
    machine_, predicted = GPUS[arch], 0
    for w in (WORKLOADS | PAIRS).values():
        floor = conv_floor(w, machine_.card).us
        for family in FAMILIES:
            match = family.match(w, machine_)
            if isinstance(match, Reject):
                continue
            found = predict(w, match.config, machine_)
            assert floor < found.us < 1e5
            does_the_work(family, w, match.config, machine_)
            assert found.limit in LIMITS
            assert found == time_of(family.footprint(w, match.config, machine_), machine_)
            cost = kernel_cost(w, family, match.config, machine_)
            assert (cost.us, cost.limit) == (found.us, found.limit)
            predicted += 1
    assert predicted > len(WORKLOADS)


def does_the_work(family: Family, w: ConvWorkload, config: Any, machine_: Hardware) -> None:
    """The footprint has all multiply-adds and all of the output, each at least once."""
    f, padded = family.footprint(w, config, machine_), family.padded_macs(w, config)
    assert f is not None
    assert f.blocks * f.macs >= padded >= w.useful_macs
    stored = math.prod(w.out_shape) * dtypes.get(w.precision.result).bytes
    assert f.blocks * f.written_bytes >= min(stored, w.n * w.p * w.q * w.k * 2)
    assert min(f.blocks, f.threads, f.registers, f.instructions, f.read_bytes, f.steps) > 0
    assert (f.unit == FP32) == (not family.tensorized)


@given(workloads(), hardware)
@settings(deadline=None, max_examples=30)
def test_footprints_are_of_kernels_that_do_the_work(w: ConvWorkload, machine_: Hardware) -> None:
    for family in FAMILIES:
        match = family.match(w, machine_)
        if isinstance(match, Match):
            does_the_work(family, w, match.config, machine_)


@pytest.mark.parametrize("name", ["not square", "stem", "groups", "depthwise", "1x1"])
@pytest.mark.parametrize("arch", ["sm_75", "sm_90a"])
def test_the_choice_is_the_least_of_every_space(name: str, arch: str) -> None:
    w, machine_ = WORKLOADS[name], GPUS[arch]
    choice, least = choose(w, machine_), math.inf
    for family in FAMILIES:
        match = family.match(w, machine_)
        if isinstance(match, Reject):
            continue
        space = [match.config, *family.space(w, machine_)]
        if family.default_measured:
            space = space[:1]
        least = min(least, *(predict(w, config, machine_).us for config in space))
    assert choice.cost.us == predict(w, choice.config, machine_).us == least
    assert choose(w, machine_) is choice  # kept


def test_what_there_is_no_prediction_of() -> None:
    w = WORKLOADS["1x1"]
    with pytest.raises(ValueError, match="predicts GPUs, not llvm"):
        predict(w, choose(w, CPU).config, CPU)
    with pytest.raises(LookupError, match="no family has configurations like 7"):
        predict(w, 7, H200)
