"""Kernels that multiply fp16 and scale their sums, as weights of any size need: every family that
takes them, against onnxruntime, on this CPU and by its CUDA text in the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from schedules.choose import choose
from schedules.conv.max_pool import MaxPool
from schedules.conv.precision import SCALE, Precision
from schedules.conv.workload import ConvWorkload
from schedules.family import Family, Match, Reject
from schedules.machine.hardware import CPU, Hardware
from schedules.registry import FAMILIES, family
from schedules.threads import emulator
from tests.schedules.families.test_families import check
from tests.support import kernels
from tests.support.thinned import thinned
from tests.support.workloads import PAIRS, WORKLOADS
from tvmconv.compiler import toolchain

SCALED = Precision(scales=(SCALE,))
FORMS = {
    "fp16": SCALED,
    "fp32": replace(SCALED, result="float32"),
    "fp32, residual too": replace(SCALED, result="float32", residual="float32"),
}
NAMES = (
    "not square", "stem", "20 to 10 channels", "groups", "matrix product", "stride phase",
    "prelu", "depthwise", "batch 5, packed",
    "residual last",
)  # fmt: skip


def scaled(name: str, form: str) -> ConvWorkload | None:
    """The workload in that form; None for a residual that it does not have."""
    w = WORKLOADS[name]
    if FORMS[form].residual and not w.epilogue.residual:
        return None
    return replace(w, precision=FORMS[form])


WANTED = {
    f"{name}, {form}": w
    for name in NAMES
    for form in FORMS
    if (w := scaled(name, form)) is not None
}


def takers(w: ConvWorkload, hardware: Hardware) -> list[tuple[Family, Any]]:
    found = ((one, one.match(w, hardware)) for one in FAMILIES)
    return [(one, match.config) for one, match in found if isinstance(match, Match)]


def on_this_cpu() -> Iterator[Any]:
    for name, w in WANTED.items():
        for one, config in takers(w, CPU):
            yield pytest.param(one, w, config, id=f"{name}-{one.name}")


@pytest.mark.parametrize(("one", "w", "config"), thinned(on_this_cpu(), 4))
def test_on_a_cpu(one: Family, w: ConvWorkload, config: Any) -> None:
    check(one, w, config)


#: Written thread by thread; schedules of the others are the same as above, but for depthwise.
WRITTEN = ("wgmma", "mma_sync", "few_channels", "depthwise")


def emulated() -> Iterator[Any]:
    for name, w in WANTED.items():
        for arch in ("sm_80", "sm_90a"):
            for one, config in takers(w, toolchain.cuda_arch(arch)):
                if one.name in WRITTEN and (arch == "sm_90a") == (one.name == "wgmma"):
                    yield pytest.param(one, w, config, arch, id=f"{name}-{one.name}")


@pytest.mark.skipif(not emulator.available(), reason="no g++")
@pytest.mark.parametrize(("one", "w", "config", "arch"), thinned(emulated(), 3))
def test_of_a_gpu(one: Family, w: ConvWorkload, config: Any, arch: str) -> None:
    check(one, w, config, toolchain.cuda_arch(arch), execute=emulator.run)


@pytest.mark.skipif(not emulator.available(), reason="no g++")
def test_with_a_pool() -> None:
    w, few = WANTED["stem, fp16"], family("few_channels")
    pool = MaxPool((3, 3), (2, 2), (1, 1), ((w.p - 1) // 2 + 1, (w.q - 1) // 2 + 1))
    w, sm_80 = replace(w, epilogue=replace(w.epilogue, pool=pool)), toolchain.cuda_arch("sm_80")
    match = few.match(w, sm_80)
    assert isinstance(match, Match)
    kernels.check(few, w, match.config, sm_80, execute=emulator.run)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", ["not square", "stem", "groups", "matrix product"])
@pytest.mark.parametrize("form", ["fp16", "fp32"])
def test_a_layer_stays_on_tensor_cores(name: str, form: str, arch: str) -> None:
    plain = WORKLOADS[name]
    result = FORMS[form].result
    plain = replace(plain, precision=replace(plain.precision, result=result))
    hardware = toolchain.cuda_arch(arch)
    before, after = (choose(w, hardware) for w in (plain, scaled(name, form)) if w is not None)
    assert before.family.tensorized
    assert after.family is before.family


def test_a_pair_is_declined_with_a_reason() -> None:
    w = replace(next(iter(PAIRS.values())), precision=SCALED)
    answer = family("depthwise_projection").match(w, toolchain.cuda_arch("sm_90a"))
    assert isinstance(answer, Reject)
    assert "not its precision" in answer.reason
