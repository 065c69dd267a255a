"""The choice among families: the cheapest, of equal ones the first, and what became of others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.choose import Policy, Tuned, choose
from schedules.conv.workload import PACKED, ConvWorkload
from schedules.errors import FamilyError
from schedules.family import Family, Match, Reject
from schedules.machine.cost import Cost, conv_cost
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from schedules.registry import FAMILIES, family
from tests.support.workloads import WORKLOADS, workloads


def fixed(records: Any = None, **costs: float) -> Policy:
    """A policy by an estimate that gives each family what is named here, 100 otherwise."""

    def estimate(w: ConvWorkload, one: Family, config: Any, hardware: Hardware) -> Cost:
        return Cost(costs.get(one.name, 100.0), "arithmetic")

    return Policy(estimate=estimate, records=records)


@given(workloads())
def test_the_cheapest_of_those_that_match(w: ConvWorkload) -> None:
    choice = choose(w, CPU)
    answers = [one.match(w, CPU) for one in FAMILIES]
    options = [
        conv_cost(w, one, answer.config, CPU.card).us
        for one, answer in zip(FAMILIES, answers, strict=True)
        if isinstance(answer, Match)
    ]
    assert choice.cost.us == min(options)
    assert choice.rejects == tuple(one for one in answers if isinstance(one, Reject))
    if len(options) > 1:
        assert choice.runner_up is not None
        assert choice.runner_up.family is not choice.family
        assert choice.runner_up.cost.us == sorted(options)[1]
    else:
        assert choice.runner_up is None


@given(workloads(largest=30, channels=96), st.sampled_from(CUDA_ARCHS))
@settings(max_examples=50, deadline=None)
def test_what_is_chosen_for_a_gpu_fits_and_can_be_scheduled(
    w: ConvWorkload, hardware: Hardware
) -> None:
    choice = choose(w, hardware)
    choice.family.check(w, choice.config, hardware)
    scheduled = choice.family.schedule(w, choice.config, hardware)
    operands = 3 + w.epilogue.bias + w.epilogue.residual + (w.epilogue.activation.kind == "prelu")
    assert len(scheduled.params) == operands
    assert choice.cost.us > 0


def test_the_runner_up_is_the_next_best() -> None:
    w = WORKLOADS["depthwise"]
    choice = choose(w, CPU, fixed(depthwise=3.0, direct=5.0))
    assert (choice.family.name, choice.cost.us) == ("depthwise", 3.0)
    assert choice.runner_up is not None
    assert (choice.runner_up.family.name, choice.runner_up.cost.us) == ("direct", 5.0)
    turned = choose(w, CPU, fixed(depthwise=5.0, direct=3.0))
    assert turned.family.name == "direct"
    assert turned.runner_up is not None
    assert turned.runner_up.family.name == "depthwise"


@pytest.mark.parametrize("name", WORKLOADS)
def test_of_equal_ones_the_first(name: str) -> None:
    choice = choose(WORKLOADS[name], CPU, fixed())
    matching = [one for one in FAMILIES if isinstance(one.match(WORKLOADS[name], CPU), Match)]
    assert choice.family is matching[0]
    assert [choice.runner_up and choice.runner_up.family] == (matching[1:2] or [None])


def test_rejects_say_why() -> None:
    choice = choose(ConvWorkload(1, 9, 9, 16, 16, 3, 3), CPU)
    reasons = {reject.family: reject.reason for reject in choice.rejects}
    assert reasons["wmma_packed"] == "the output is laid out as NHWC"
    assert "depthwise" in reasons
    packed = choose(ConvWorkload(16, 9, 9, 16, 16, 3, 3, out_layout=PACKED), CPU)
    assert packed.family.name == "wmma_packed"
    assert "wmma_nhwc: the output is laid out as NHWC16n16c" in map(str, packed.rejects)


def test_families_by_name() -> None:
    names = [
        "few_channels",
        "wgmma",
        "mma_sync",
        "wmma_packed",
        "wmma_nhwc",
        "depthwise_dp4a",
        "depthwise",
        "depthwise_projection",
        "direct",
    ]
    assert [one.name for one in FAMILIES] == names
    assert all(family(one.name) is one for one in FAMILIES)
    with pytest.raises(FamilyError, match="there is no family 'winograd'") as told:
        family("winograd")
    assert told.value.hint == f"one of {', '.join(names)}"


@pytest.mark.parametrize("one", FAMILIES, ids=lambda one: one.name)
def test_every_family_has_a_version_and_checks_what_it_gives(one: Family) -> None:
    assert isinstance(one.version, int)
    assert one.version >= 1
    for w in WORKLOADS.values():
        answer = one.match(w, CPU)
        if isinstance(answer, Match):
            one.check(w, answer.config, CPU)


def test_records_decide_where_they_know() -> None:
    w = WORKLOADS["1x1"]
    slow = family("direct")
    config = next(iter(slow.space(w, CPU)))
    tuned = Tuned(slow, config, 7.0, 9.0)
    asked = []

    def records(workload: ConvWorkload, hardware: Hardware) -> Tuned | None:
        asked.append((workload, hardware))
        return tuned

    choice = choose(w, CPU, fixed(records))
    model = choose(w, CPU, fixed())
    assert asked == [(w, CPU)]
    assert (choice.family, choice.config, choice.tuned) == (slow, config, tuned)
    assert choice.cost == Cost(7.0, "arithmetic")
    assert choice.runner_up is not None
    assert (choice.runner_up.family, choice.runner_up.cost.us) == (model.family, 9.0)
    assert choose(w, CPU, fixed(lambda workload, hardware: None)) == model
