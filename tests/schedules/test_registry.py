"""Families from outside: registered, preferred, replaced, removed; and a choice that sees them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

import schedules
import tvmconv
from schedules import registry
from schedules.choose import Policy, choose, kernel_cost, options
from schedules.conv.workload import ConvWorkload
from schedules.errors import FamilyError
from schedules.families.direct.family import DirectConfig, DirectFamily
from schedules.families.wmma.family import WmmaFamily
from schedules.family import Family, Match, Reject
from schedules.machine.cost import Cost
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from tests.support import networks
from tests.support.workloads import WORKLOADS

W = WORKLOADS["1x1"]
SM_90 = next(one for one in CUDA_ARCHS if one.name == "sm_90")


class Mine(WmmaFamily):
    """`wmma_nhwc` by another name."""

    def __init__(self, name: str = "mine") -> None:
        super().__init__(name, packed=False)


@dataclass(frozen=True)
class LeastConfig:
    """No knobs."""


class Least(Family):
    """The members that a family has to have, and no more."""

    name = "least"
    config_type = LeastConfig

    def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
        return Match(self.name, LeastConfig())

    def schedule(self, w: ConvWorkload, config: Any, hardware: Hardware) -> Any:
        direct = DirectFamily()
        return direct.schedule(w, next(direct.space(w, hardware)), hardware)

    def signature(self, w: ConvWorkload, config: Any) -> Any:
        return DirectFamily().signature(w, DirectConfig())

    def pack(self, w: ConvWorkload, config: Any, given: Any) -> Any:
        return DirectFamily().pack(w, DirectConfig(), given)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = schedules.registered()
    yield
    registry._registered = before


def names() -> list[str]:
    return [one.name for one in schedules.registered()]


def test_those_that_ship_are_registered() -> None:
    assert schedules.registered() == registry.FAMILIES


def test_a_registered_family_is_preferred_and_found_by_its_name() -> None:
    mine = schedules.register(Mine())
    assert names()[0] == "mine"
    assert registry.family("mine") is mine
    assert schedules.registered()[1:] == registry.FAMILIES


def test_before_says_where() -> None:
    schedules.register(Mine(), before="direct")
    assert names()[-2:] == ["mine", "direct"]


def test_a_name_twice_is_refused_but_to_replace() -> None:
    schedules.register(Mine(), before="direct")
    with pytest.raises(FamilyError, match="there is already a family 'mine'") as told:
        schedules.register(Mine())
    assert "replace=True" in str(told.value)
    again = schedules.register(Mine(), replace=True)
    assert names()[-2:] == ["mine", "direct"], "in its place"
    assert registry.family("mine") is again
    schedules.register(Mine(), before="wgmma", replace=True)
    assert names()[:3] == ["few_channels", "mine", "wgmma"]
    assert len(names()) == len(registry.FAMILIES) + 1


def test_unregister() -> None:
    mine = schedules.register(Mine())
    assert schedules.unregister("mine") is mine
    assert schedules.registered() == registry.FAMILIES
    with pytest.raises(FamilyError, match="there is no family 'mine'"):
        schedules.unregister("mine")


@pytest.mark.parametrize("wrong", [Mine, "wmma_nhwc", object()])
def test_what_is_no_family_is_refused(wrong: Any) -> None:
    with pytest.raises(FamilyError, match="is not a family"):
        schedules.register(wrong)


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(FamilyError, match="there is no family 'winograd'"):
        schedules.register(Mine(), before="winograd")
    assert schedules.registered() == registry.FAMILIES


def test_some_by_their_names() -> None:
    found = schedules.registered(["direct", "wmma_nhwc"])
    assert [one.name for one in found] == ["wmma_nhwc", "direct"], "in the order of preference"
    assert schedules.registered("direct") == found[1:]
    with pytest.raises(FamilyError, match="the list of families is empty"):
        schedules.registered([])
    with pytest.raises(FamilyError, match="there is no family 'wmma'"):
        schedules.registered(["direct", "wmma"])


# --- the choice -----------------------------------------------------------------------------
def test_registering_changes_what_is_chosen_at_once() -> None:
    before = choose(W, CPU)
    mine = schedules.register(Mine())
    assert choose(W, CPU).family is mine, "not what was kept from before"
    schedules.unregister("mine")
    assert choose(W, CPU) is before


@pytest.mark.parametrize("hardware", [CPU, SM_90], ids=lambda one: one.name)
def test_a_replaced_family_is_asked_anew(hardware: Hardware) -> None:
    class Other(Mine):
        def match(self, w: ConvWorkload, hardware: Hardware) -> Match | Reject:
            return Reject(self.name, "changed its mind")

    policy = registry.family("wmma_nhwc")
    schedules.register(Mine())
    only = Policy(schedules.registered(["mine"]))
    assert choose(W, hardware, only).config == choose(W, hardware, Policy((policy,))).config
    schedules.register(Other(), replace=True)
    with pytest.raises(FamilyError, match="no family computes") as told:
        choose(W, hardware, Policy(schedules.registered(["mine"])))
    assert "mine: changed its mind" in str(told.value)


def test_the_least_family_has_an_estimate_and_a_space() -> None:
    least = Least()
    for hardware in (CPU, SM_90):
        assert kernel_cost(W, least, LeastConfig(), hardware).us > 0
        assert list(least.space(W, hardware)) == [LeastConfig()]
        assert choose(W, hardware, Policy((least,))).config == LeastConfig()
        least.check(W, LeastConfig(), hardware)
    assert least.padded_macs(W, LeastConfig()) == W.useful_macs


def test_a_network_of_the_least_family_is_right() -> None:
    schedules.register(Least())
    model = networks.small()
    exe = tvmconv.build(model, "llvm", batch=1, families=["least"])
    assert {conv.family for conv in exe.report.convs} == {"least"}
    assert tvmconv.compare(model, exe).passed(5e-3)


def test_the_last_resort_comes_last_on_a_gpu_wherever_it_is_registered() -> None:
    first = Policy(
        (registry.family("direct"), registry.family("wmma_nhwc")),
        estimate=lambda w, one, config, hardware: Cost(1.0 + one.tensorized, "arithmetic"),
    )
    assert choose(W, SM_90, first).family.name == "wmma_nhwc"
    assert choose(W, CPU, first).family.name == "direct"
    found, _ = options(W, SM_90, first)
    assert [one.family.name for one in found] == ["wmma_nhwc", "direct"]


def test_a_record_of_a_family_that_is_not_asked_decides_nothing() -> None:
    direct = registry.family("direct")
    config = next(iter(direct.space(W, CPU)))

    def records(w: ConvWorkload, hardware: Hardware) -> Any:
        return schedules.choose.Pinned(direct, config)

    assert choose(W, CPU, Policy(records=records)).chosen_by == "pinned"
    some = Policy(schedules.registered(["wmma_nhwc"]), records=records)
    assert choose(W, CPU, some) == choose(W, CPU, replace(some, records=None))


def test_the_package_alone_imports_no_tvm() -> None:
    code = "import schedules, sys; assert 'tvm' not in sys.modules; schedules.register"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
