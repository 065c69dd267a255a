"""`few_channels`: its kernel in the emulator, and on a GPU if there is one."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.choose import choose
from schedules.conv.workload import PACKED, Activation, ConvWorkload, Epilogue, Window
from schedules.errors import ConfigError, KernelFault
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.plan import Plan
from schedules.families.few_channels.space import default, problems
from schedules.family import Match, Reject
from schedules.machine.hardware import CPU, Hardware
from schedules.registry import family
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import kernels, sass
from tests.support.thinned import thinned
from tests.support.workloads import FP16_SUMS, FP32_OUT, SAME
from tvmconv.compiler import toolchain

FAMILY = family("few_channels")
SM_80, SM_90, SM_90A = (toolchain.cuda_arch(name) for name in ("sm_80", "sm_90", "sm_90a"))
TINY = replace(SM_90, name="tiny", limits=replace(SM_90.limits, block_shared=1024))
RELU = Epilogue(bias=True, activation=Activation("relu"))
THREE = (3, 3, 3, 3)
C = FewChannelsConfig

STEM = ConvWorkload(128, 224, 224, 3, 64, 7, 7, (2, 2), THREE, epilogue=RELU)

#: Copies of 16, 8, 4 and 2 bytes; first pairs that start odd; pixels that do; one filter row.
CASES = {
    "stem": (ConvWorkload(1, 23, 24, 3, 32, 7, 7, (2, 2), THREE, epilogue=RELU), C(2, 1)),
    "8 bytes": (ConvWorkload(2, 9, 20, 3, 64, 7, 7, (2, 2), THREE, epilogue=RELU), C(2, 1)),
    "4 bytes": (ConvWorkload(2, 9, 18, 3, 32, 7, 7, (2, 2), THREE, epilogue=RELU), C(1, 1)),
    "2 bytes": (ConvWorkload(1, 11, 21, 3, 32, 7, 7, (2, 2), THREE, epilogue=RELU), C(1, 1)),
    "stride 1": (ConvWorkload(3, 15, 24, 3, 40, 3, 3, padding=SAME, epilogue=RELU), C(2, 2)),
    "odd width, stride 1": (ConvWorkload(1, 9, 17, 3, 8, 3, 3, padding=SAME), C(2, 2)),
    "stride 3": (ConvWorkload(2, 17, 33, 1, 16, 5, 5, (3, 3), epilogue=RELU), C(1, 1)),
    "large stride": (ConvWorkload(1, 31, 40, 3, 96, 11, 11, (4, 4), (2,) * 4), C(1, 1, parts=3)),
    "four channels": (
        ConvWorkload(2, 13, 30, 4, 96, 3, 2, (2, 1), (1, 0, 0, 1), epilogue=RELU),
        C(4, 1, parts=3),
    ),
    "two channels, prelu": (
        ConvWorkload(
            5, 11, 30, 2, 64, 1, 3, (1, 2), (0, 2, 0, 2),
            epilogue=Epilogue(True, activation=Activation("prelu")),
        ),
        C(2, 1, parts=2, tall=2, blocks=4),
    ),
    "cropped": (ConvWorkload(1, 12, 20, 3, 24, 3, 3, padding=(-1, -2, 1, 1)), C(2, 2)),
    "filter in registers": (
        ConvWorkload(2, 28, 28, 1, 32, 5, 5, padding=(2,) * 4, epilogue=RELU),
        C(2, 2, weights="registers", blocks=3),
    ),
    "1x1": (ConvWorkload(2, 8, 8, 3, 32, 1, 1), C(1, 1)),
}  # fmt: skip


emulated = pytest.mark.skipif(not emulator.available(), reason="no g++")


@emulated
@pytest.mark.parametrize("name", thinned(CASES, 2))
def test_kernel(name: str) -> None:
    kernels.check(FAMILY, *CASES[name], SM_80, execute=emulator.run)


@emulated
def test_kernel_of_a_later_gpu() -> None:
    kernels.check(FAMILY, *CASES["stride 1"], SM_90A, execute=emulator.run)


#: What is replaced in the CUDA text and by what, and what is said of it then.
BROKEN = {
    "copies not waited for": (r"\w+cp_async_wait_group\w+\(\);", ";", "finite"),
    "no barrier after the wait": (
        r"(\w+cp_async_wait_group\w+\(\);)\s*__syncthreads\(\);", r"\1", "finite|off"),
    "no barrier after the second copy": (
        r"(?s)(>> \(uint\)16.*?)__syncthreads\(\);", r"\1", "finite|off"),
    "other pixels copied": (r"(&\(x_ptr\[)", r"\1 16 + ", "finite|off"),
    "padding not zeros": (r"\? \(uint\)16 : \(uint\)0", "? (uint)16 : (uint)16", "finite|off"),
    "copies not aligned": (r"(&\(x_ptr\[)", r"\1 2 + ", "reads from where it is not aligned"),
    "another filter read": (r"(\*\(uint4\*\)\(\w+_shared_ptr \+ )", r"\1 4 + ", "finite|off"),
    "pixels past shared memory": (r"(_shared_ptr\)\[)", r"\1 65536 + ", "outside of shared"),
    "stores past the end": (r"(y_ptr \+ \()", r"\1 32 + ", "out of bounds|finite"),
}  # fmt: skip


@emulated
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    """One with two patches in flight, and a second copy of each."""
    pattern, replacement, complaint = BROKEN[name]
    w, config = CASES["stride 1"]
    execute = kernels.broken(pattern, replacement)
    with pytest.raises((AssertionError, KernelFault), match=complaint):
        kernels.check(FAMILY, w, replace(config, blocks=2), SM_80, execute=execute)


def test_copies_are_as_wide_as_rows_allow() -> None:
    widths = [Plan(*CASES[name]).vector for name in ("stem", "8 bytes", "4 bytes", "2 bytes")]
    assert widths == [8, 4, 2, 1]
    assert Plan(*CASES["stem"]).lead == 1
    assert Plan(*CASES["stride 1"]).copies == 2


@st.composite
def drawn(draw: st.DrawFn) -> tuple[ConvWorkload, FewChannelsConfig]:
    r, s = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    w = ConvWorkload(
        draw(st.integers(1, 3)), draw(st.integers(r, 14)), draw(st.integers(s, 40)),
        draw(st.integers(1, 4)), 8 * draw(st.integers(1, 9)), r, s,
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), pads, epilogue=RELU,
    )  # fmt: skip
    parts = draw(st.sampled_from([n for n in (1, 2, 3) if Plan(w, C(1, 1)).groups % n == 0]))
    config = C(
        draw(st.integers(1, 3)), draw(st.integers(1, 3)), parts, draw(st.integers(1, 2)),
        draw(st.sampled_from(["shared", "registers"])), draw(st.sampled_from([0, 1, 2, 5])),
    )  # fmt: skip
    return w, config


@emulated
@given(drawn(), st.integers(0, 99))
@settings(max_examples=10)
def test_random_kernels(case: tuple[ConvWorkload, FewChannelsConfig], seed: int) -> None:
    w, config = case
    if not problems(w, config, SM_90):
        kernels.check(FAMILY, w, config, SM_80, seed, emulator.run)


@emulated
def test_a_wrong_kernel_would_be_noticed() -> None:
    """A kernel that leaves a tap out is far outside the bound."""
    w, config = CASES["stem"]
    operands = Tensors.random(w)
    weight = operands.weight.copy()
    weight[:, 2, 6, 6] = 0
    got = kernels.run(FAMILY, w, config, SM_80, replace(operands, weight=weight), emulator.run)
    assert kernels.relative_l2(got, kernels.reference(w, operands), 1.0) > 1e-2


# ---------------------------------------------------------------- the choice


def test_it_is_chosen_for_stems_and_nothing_else() -> None:
    for n in (1, 8, 128):
        for w in (STEM, replace(STEM, k=32, r=3, s=3, padding=SAME)):
            choice = choose(replace(w, n=n), SM_90)
            assert choice.family is FAMILY
    assert choose(STEM, CPU).family is not FAMILY
    assert choose(replace(STEM, c=16), SM_90).family is not FAMILY


def test_blocks_fetch_ahead_only_where_there_is_much_to_do() -> None:
    large, small = default(STEM, SM_90), default(replace(STEM, n=1, k=32), SM_90)
    assert large is not None
    assert small is not None
    assert Plan(STEM, large).rounds > 1
    assert Plan(replace(STEM, n=1, k=32), small).rounds == 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90a"])
def test_every_configuration_of_the_space_fits(arch: str) -> None:
    hardware = toolchain.cuda_arch(arch)
    for w in (STEM, replace(STEM, n=1), CASES["four channels"][0]):
        space = list(FAMILY.space(w, hardware))
        assert len(space) == len(set(space)) > 1
        assert not any(problems(w, config, hardware) for config in space)
        assert isinstance(FAMILY.match(w, hardware), Match)


@pytest.mark.parametrize(
    ("changes", "hardware", "reason"),
    [
        ({"c": 5}, SM_90, "5 input channels; it is for at most 4"),
        ({}, CPU, "instructions of a GPU"),
        ({}, toolchain.cuda_arch("sm_75"), "need sm_80, this is sm_75"),
        ({"c": 4, "groups": 2}, SM_90, "2 groups"),
        ({"out_layout": PACKED}, SM_90, "reads and writes NHWC, not NHWC and NHWC16n16c"),
        ({"w": 10}, SM_90, "5 columns, an instruction takes 16 pixels of a row"),
        ({"dilation": (1, 2)}, SM_90, "dilation"),
        ({"k": 12}, SM_90, "eight channels at a time, not 12 float16"),
        ({"precision": FP32_OUT}, SM_90, "not 64 float32"),
        ({"precision": FP16_SUMS}, SM_90, "not its precision"),
        ({"epilogue": Epilogue(residual=True)}, SM_90, "adds no residual"),
        ({"window": Window(112, 112, 96)}, SM_90, "writes a tensor of its own"),
        ({}, TINY, "no configuration fits tiny"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_reject_says_why(changes: dict[str, Any], hardware: Hardware, reason: str) -> None:
    answer = FAMILY.match(replace(STEM, **changes), hardware)
    assert isinstance(answer, Reject)
    assert re.search(reason, answer.reason)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (C(0, 1), "every knob is at least 1"),
        (C(1, 1, blocks=-1), "blocks and resident at least 0"),
        (C(1, 1, weights="texture"), "not in 'texture'"),
        (C(1, 33), "1056 threads, a block has at most 1024"),
        (C(1, 7, parts=3), "2 groups of 32 channels are no multiple of 3"),
        (C(1, 7, tall=100), "of shared memory, a block has 232448"),
        (C(8, 7), "registers, each of 224 threads has 255"),
        (C(2, 7, resident=4), "registers, each of 896 threads has 73"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_that_does_not_fit(config: FewChannelsConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        FAMILY.schedule(STEM, config, SM_90)


def test_config_prints_what_it_sets() -> None:
    assert str(C(1, 7)) == "1 rows, 1x7x1 warps"
    config = C(2, 4, 3, 2, "registers", 264, 2)
    assert str(config) == "2 rows, 2x4x3 warps, filter in registers, 264 blocks, 2 an SM"


# ---------------------------------------------------------------- compiled for a GPU


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_machine_code_has_the_instructions_and_no_spills(tmp_path: Path) -> None:
    w = replace(STEM, n=1)
    path = tmp_path / "kernel.so"
    config = C(1, 7)
    kernels.compiled(FAMILY.schedule(w, config, SM_90), SM_90).export_library(str(path))
    (text,) = sass.kernels(path).values()
    plan = Plan(w, config)
    assert len(re.findall(r"\bHMMA\.16816\.F32\b", text)) == plan.steps * plan.groups * 4
    assert re.search(r"\bLDGSTS\S*\.128\b", text), "copies are not cp.async of 16 bytes"
    assert re.search(r"\bSTG\.E\.128\b", text), "stores are narrower than 16 bytes"
    assert not re.search(r"\b(LDL|STL)\b", text), "registers are spilled"


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_gpu(name: str) -> None:
    hardware = kernels.this_gpu()
    w, config = CASES[name]
    for one in dict.fromkeys((config, default(w, hardware), *list(FAMILY.space(w, hardware))[::9])):
        kernels.check(FAMILY, w, one, hardware)
    np.testing.assert_array_equal(*(
        kernels.run(FAMILY, w, config, hardware, Tensors.random(w)) for _ in range(2)
    ))  # fmt: skip
