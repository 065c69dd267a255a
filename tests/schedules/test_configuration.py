"""Configurations that a person writes: objects, fields and JSON, and why they are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schedules.choose import Pinned
from schedules.configuration import config_fields, resolve
from schedules.conv.workload import PACKED, ConvWorkload
from schedules.errors import ConfigError
from schedules.families.direct.family import DirectConfig
from schedules.families.wmma.config import WmmaConfig
from schedules.family import Family, Match
from schedules.machine.hardware import CPU, CUDA_ARCHS
from schedules.registry import FAMILIES
from tests.support.workloads import INT8_WORKLOADS, PAIRS, WORKLOADS

W = ConvWorkload(16, 9, 9, 32, 32, 3, 3)
SM_90A = next(one for one in CUDA_ARCHS if one.name == "sm_90a")
CONFIG = WmmaConfig(1, 1, 2, 2)
FIELDS = {"warps_m": 1, "warps_k": 1}


@pytest.mark.parametrize(
    "given",
    [
        CONFIG,
        config_fields(CONFIG),
        FIELDS,
        json.dumps(FIELDS),
        {"family": "wmma_nhwc", "config": CONFIG},
        {"family": "wmma_nhwc", "config": FIELDS},
        json.dumps({"family": "wmma_nhwc", "config": FIELDS}),
    ],
    ids=str,
)
def test_every_form_of_one(given: Any) -> None:
    found = resolve(given, W, CPU, FAMILIES)
    assert (found.family.name, found.config) == ("wmma_nhwc", CONFIG)


def test_the_output_decides_between_families_that_share_a_type() -> None:
    w = ConvWorkload(16, 9, 9, 32, 32, 3, 3, out_layout=PACKED)
    assert resolve(CONFIG, w, CPU, FAMILIES).family.name == "wmma_packed"


REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": ("{warps_m: 1}", "is not JSON"),
    "a number": ("3", "is not a configuration"),
    "nothing": (None, "is not a configuration"),
    "a class": (WmmaConfig, "is not a configuration"),
    "no family": ({"family": "winograd", "config": {}}, "there is no family 'winograd'"),
    "no such fields": ({"unrolls": 3}, "no family with configurations like"),
    "a field of another family": (
        {"family": "direct", "config": FIELDS},
        "direct: DirectConfig has no field warps_m, warps_k",
    ),
    "another type": ({"fragments_m": "4"}, "wmma_nhwc: fragments_m can't be '4'"),
    "true for a number": ({"fragments_m": True}, "wmma_nhwc: fragments_m can't be True"),
    "an object of another family": (
        {"family": "wmma_nhwc", "config": DirectConfig()},
        "wmma_nhwc: its configurations are WmmaConfig",
    ),
    "does not fit": ({"swizzle": 1000}, "swizzle 1000 does not divide"),
    "declined": (
        {"family": "wmma_packed", "config": {}},
        "wmma_packed: the output is laid out as NHWC",
    ),
    "ambiguous": ({}, "fits several families: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    given, why = REFUSED[name]
    with pytest.raises(ConfigError) as told:
        resolve(given, W, CPU, FAMILIES)
    assert why in str(told.value)


def test_limits_of_the_machine_are_checked() -> None:
    given = {"family": "wmma_nhwc", "config": {"fragments_m": 8, "fragments_k": 8}}
    with pytest.raises(ConfigError, match="registers"):
        resolve(given, W, SM_90A, FAMILIES)


@pytest.mark.parametrize("one", FAMILIES, ids=lambda one: one.name)
def test_json_of_every_family(one: Family) -> None:
    """`records show` prints what `records set` reads."""
    matching = (
        (w, hardware, answer.config)
        for w in (WORKLOADS | PAIRS | INT8_WORKLOADS).values()
        for hardware in (CPU, SM_90A)
        if isinstance(answer := one.match(w, hardware), Match)
    )
    w, hardware, config = next(matching)
    given = json.dumps({"family": one.name, "config": config_fields(config)})
    assert resolve(given, w, hardware, FAMILIES) == Pinned(one, config)
