"""`depthwise_projection`: its kernel in the emulator, and on a GPU if there is one."""

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

from schedules.choose import choose, predict
from schedules.conv.workload import PACKED, Activation, ConvWorkload, Epilogue, Window
from schedules.errors import ConfigError
from schedules.families.depthwise_projection.config import DepthwiseProjectionConfig
from schedules.families.depthwise_projection.plan import Plan
from schedules.families.depthwise_projection.space import problems
from schedules.family import ONE_CONVOLUTION, PROLOGUE_BIAS, PROLOGUE_WEIGHT, Match, Reject, alone
from schedules.machine.cost import conv_floor, moved_bytes
from schedules.machine.hardware import CPU, Hardware
from schedules.machine.model import LIMITS
from schedules.registry import FAMILIES, family
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import kernels, sass
from tests.support.thinned import thinned
from tests.support.workloads import (
    ALL,
    BIAS,
    FP16_SUMS,
    FP32_OUT,
    INT8_PAIRS,
    PAIRS,
    RELU6,
    SAME,
    pair,
    quantised_pair,
)
from tvmconv.compiler import toolchain

FAMILY = family("depthwise_projection")
SM_80, SM_90A = (toolchain.cuda_arch(name) for name in ("sm_80", "sm_90a"))
TINY = replace(SM_90A, name="tiny", limits=replace(SM_90A.limits, block_shared=1024))
C = DepthwiseProjectionConfig
W = PAIRS["pair"]

#: The pairs of MobileNetV2: channels, rows of the image, stride, output channels.
MOBILENET = (
    (32, 112, 1, 16), (96, 112, 2, 24), (144, 56, 1, 24), (144, 56, 2, 32), (192, 28, 1, 32),
    (192, 28, 2, 64), (384, 14, 1, 64), (384, 14, 1, 96), (576, 14, 1, 96), (576, 14, 2, 160),
    (960, 7, 1, 160), (960, 7, 1, 320),
)  # fmt: skip


def mobilenet(batch: int) -> list[ConvWorkload]:
    return [pair((batch, h, h, c), k, 3, 3, (s, s)) for c, h, s, k in MOBILENET]


def int8_mobilenet(batch: int) -> list[ConvWorkload]:
    """Its pairs as `tvmconv quantize` makes them: ReLU6 is what uint8 saturates at."""
    return [
        quantised_pair(
            replace(w, prologue=replace(w.apart[0], epilogue=BIAS)), "uint8", "uint8", "int8"
        )
        for w in mobilenet(batch)
    ]


#: By what is multiplied: MobileNetV2's pairs at a batch, pairs of other sizes, and of MobileNetV2's
#: those whose space is looked through.
NUMBERS = {
    "fp16": (mobilenet, PAIRS, mobilenet(128)[::4]),
    "int8": (int8_mobilenet, INT8_PAIRS, (*int8_mobilenet(1)[4:9:2], int8_mobilenet(128)[4])),
}

#: Each knob, and strides, filters, channels and pixels that nothing divides.
CASES = {
    "four fragments": (pair((1, 17, 9, 16), 24, 3, 3), C(8, 2, 1, chunk=1)),
    "tall": (pair((1, 14, 8, 32), 16, 3, 3), C(14, 1, 2)),
    "deep": (pair((1, 7, 7, 72), 64, 3, 3, epilogue=ALL), C(2, 2, 1, deep=2, chunk=4)),
    "four deep": (pair((2, 4, 5, 136), 32, 3, 3), C(2, 1, 1, deep=4, chunk=4)),
    "parts": (pair((1, 6, 5, 40), 96, 3, 3), C(4, 1, 1, parts=3, chunk=1)),
    "three stages": (pair((1, 6, 9, 88), 48, 3, 3), C(2, 2, 1, chunk=1, stages=3)),
    "all channels at once": (pair((2, 6, 17, 48), 8, 3, 3), C(4, 2, 2, chunk=3, stages=1)),
    "stride 2": (pair((2, 15, 13, 24), 40, 3, 3, (2, 2)), C(4, 1, 1, chunk=2)),
    "stride 3, 5x5": (
        pair((1, 16, 20, 16), 16, 5, 5, (3, 3), (2, 1, 2, 3)), C(2, 2, 1, chunk=1)
    ),
    "strides differ, 3x4": (
        pair((1, 10, 9, 8), 16, 3, 4, (1, 2), (0, 2, 3, 0)), C(4, 1, 2, chunk=1)
    ),
    "1x1 filters": (pair((1, 9, 6, 24), 16, 1, 1, padding=(0, 0, 0, 0)), C(2, 1, 2, chunk=2)),
    "one column": (pair((1, 9, 3, 24), 16, 3, 3, padding=(1, 0, 1, 0)), C(2, 1, 2, chunk=2)),
    "320 channels": (pair((1, 6, 6, 16), 320, 3, 3, epilogue=ALL), C(2, 2, 1, chunk=1)),
    "relu, residual last": (
        pair((1, 6, 6, 32), 32, 3, 3, first=Epilogue(True, activation=Activation("relu")),
             epilogue=replace(ALL, residual_last=True)),
        C(2, 1, 2),
    ),
}  # fmt: skip


emulated = pytest.mark.skipif(not emulator.available(), reason="no g++")


@emulated
@pytest.mark.parametrize("name", thinned(CASES, 3))
def test_kernel(name: str) -> None:
    kernels.check(FAMILY, *CASES[name], SM_80, execute=emulator.run)


#: What is replaced in the CUDA text and by what. The kernel has three stages.
BROKEN = {
    "copies not waited for": (r"\w+cp_async_wait_group\w+\(\);", ";"),
    "no barrier after the wait": (
        r"(\w+cp_async_wait_group\w+\(\);)\s*__syncthreads\(\);", r"\1"),
    "a stage overwritten early": (r"\(chunk \+ 2\) % 3", "(chunk + 3) % 3"),
    "padding not zeros": (r"\? \(uint\)16 : \(uint\)0", "? (uint)16 : (uint)16"),
    "other pixels loaded": (r"(ldmatrix\w+\(.*?_shared_ptr\)\[)", r"\1 8 + "),
    "not transposed": (r"\w+movmatrix\w+\((\w+\[\d+\]), (\w+\[\d+\])\);", r"\1 = \2;"),
}  # fmt: skip


@emulated
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError, match=r"finite|off"):
        kernels.check(FAMILY, *CASES["three stages"], SM_80, execute=kernels.broken(*BROKEN[name]))


@emulated
@pytest.mark.parametrize("name", PAIRS)
def test_workloads(name: str) -> None:
    """The default and the last of the space."""
    w = PAIRS[name]
    space = list(FAMILY.space(w, SM_90A))
    for config in dict.fromkeys((space[0], space[-1])):
        kernels.check(FAMILY, w, config, SM_90A, execute=emulator.run)


@st.composite
def drawn(draw: st.DrawFn) -> tuple[ConvWorkload, DepthwiseProjectionConfig]:
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    w = pair(
        (draw(st.integers(1, 2)), draw(st.integers(r, 12)), draw(st.integers(s, 12)),
         8 * draw(st.integers(1, 7))),
        8 * draw(st.integers(1, 9)), r, s,
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        draw(st.tuples(*[st.integers(-1, 2)] * 4).filter(lambda pads: r + s > 3 or min(pads) >= 0)),
        draw(st.sampled_from([RELU6, BIAS, Epilogue(activation=Activation("silu"))])),
        draw(st.sampled_from([ALL, BIAS, Epilogue()])),
    )  # fmt: skip
    deep = draw(st.sampled_from([1, 1, 2]))
    config = C(
        draw(st.sampled_from([2, 4, 6])), draw(st.integers(1, 2)), draw(st.integers(1, 2)), deep,
        deep * draw(st.integers(1, 2)), draw(st.integers(2, 3)),
        draw(st.sampled_from([n for n in (1, 2, 3) if w.k // 8 % n == 0])),
    )  # fmt: skip
    return w, config


@st.composite
def possible(draw: st.DrawFn) -> tuple[ConvWorkload, DepthwiseProjectionConfig]:
    """Some paddings crop all there is."""
    while True:
        try:
            return draw(drawn())
        except ValueError:
            continue


@emulated
@given(possible(), st.integers(0, 99))
@settings(max_examples=8)
def test_random_kernels(case: tuple[ConvWorkload, DepthwiseProjectionConfig], seed: int) -> None:
    w, config = case
    if not problems(w, config, SM_90A):
        kernels.check(FAMILY, w, config, SM_80, seed, emulator.run)


@emulated
@pytest.mark.parametrize("part", ["filter", "bias", "weight"])
def test_a_wrong_operand_would_be_noticed(part: str) -> None:
    """A kernel that leaves out one tap, bias or weight of a channel is far outside the bound."""
    operands = Tensors.random(W)
    assert operands.first is not None
    assert operands.first.bias is not None
    first, weight = operands.first, operands.weight.copy()
    taps, bias = first.weight.copy(), first.bias.copy()
    at = int(abs(bias - 2).argmin())  # one that the activation lets through
    taps[at, 0, 2, 2], bias[at], weight[:, at] = 0, -9, 0
    off = {
        "filter": replace(operands, first=replace(first, weight=taps)),
        "bias": replace(operands, first=replace(first, bias=bias)),
        "weight": replace(operands, weight=weight),
    }[part]
    got = kernels.run(FAMILY, W, FAMILY.match(W, SM_80).config, SM_80, off, emulator.run)
    assert kernels.relative_l2(got, kernels.reference(W, operands), 1.0) > 1e-2


@emulated
def test_what_is_between_is_rounded_as_in_memory() -> None:
    """The result is that of two kernels, within the order of sums: a coarser one is not taken."""
    operands = Tensors.random(W)
    config = C(4, 2, 1, chunk=1)
    got = kernels.run(FAMILY, W, config, SM_80, operands, emulator.run)
    assert kernels.relative_l2(got, kernels.reference(W, operands)) < 4e-4


def test_the_prologue_as_one_operand() -> None:
    first = PAIRS["pair, 72 channels"].apart[0]
    operands = Tensors.random(first)

    def prologue(given: Any) -> Any:
        w = PAIRS["pair, 72 channels"]
        config = next(FAMILY.space(w, SM_90A))
        return FAMILY.pack(w, config, Tensors.random(w).given | given)["prologue"]

    packed = prologue({PROLOGUE_WEIGHT: operands.weight, PROLOGUE_BIAS: operands.bias})
    assert packed.shape == (80, 24)
    np.testing.assert_array_equal(packed[:72, :18:2], operands.weight.reshape(72, 9))
    np.testing.assert_array_equal(packed[:72, 1:18:2], operands.weight.reshape(72, 9))
    np.testing.assert_array_equal(packed.view(np.float32)[:72, -1], operands.bias)
    assert not packed[72:].any()
    without = {PROLOGUE_WEIGHT: operands.weight, PROLOGUE_BIAS: np.zeros(72, np.float32)}
    assert not prologue(without)[:, 18:].any()


# ---------------------------------------------------------------- the choice


def test_no_other_family_takes_a_pair_nor_this_one_anything_else() -> None:
    for w in PAIRS.values():
        for one in FAMILIES:
            answer = one.match(w, SM_90A)
            assert isinstance(answer, Match) == (one is FAMILY)
            if isinstance(answer, Reject):
                assert answer.reason == alone(w) != ""
        answer = FAMILY.match(w.apart[1], SM_90A)
        assert isinstance(answer, Reject)
        assert answer.reason == ONE_CONVOLUTION


@pytest.mark.parametrize("batch", [1, 128])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_every_pair_of_mobilenet_is_taken_and_predicted(numbers: str, batch: int) -> None:
    of_mobilenet, _, _ = NUMBERS[numbers]
    for w in of_mobilenet(batch):
        choice = choose(w, SM_90A)
        assert choice.family is FAMILY
        predicted = predict(w, choice.config, SM_90A)
        assert conv_floor(w, SM_90A.card).us < predicted.us < 1e3
        assert predicted.limit in LIMITS


def test_large_images_are_predicted_to_gain_and_small_ones_not() -> None:
    gains = [
        sum(choose(one, SM_90A).cost.us for one in w.apart) / choose(w, SM_90A).cost.us
        for w in mobilenet(128)
    ]
    assert min(gains[:7]) > 1
    assert gains[0] > 1.5
    assert max(gains[-2:]) < 1


@pytest.mark.parametrize(("numbers", "size"), [("fp16", 2), ("int8", 1)])
def test_nothing_between_is_moved(numbers: str, size: int) -> None:
    _, pairs, _ = NUMBERS[numbers]
    for w in pairs.values():
        first, then = w.apart
        between = size * first.n * first.p * first.q * first.k
        assert moved_bytes(w) == moved_bytes(first) + moved_bytes(then) - 2 * between


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90a"])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_every_configuration_of_the_space_fits(numbers: str, arch: str) -> None:
    hardware = toolchain.cuda_arch(arch)
    _, pairs, some = NUMBERS[numbers]
    for w in (*some, *pairs.values()):
        space = list(FAMILY.space(w, hardware))
        assert len(set(space)) == len(space) >= 1
        assert len(space) <= 500
        assert not any(problems(w, config, hardware) for config in space)


@pytest.mark.parametrize(
    ("changes", "hardware", "reason"),
    [
        ({}, toolchain.cuda_arch("sm_75"), "need sm_80, this is sm_75"),
        ({}, CPU, "instructions of a GPU"),
        ({"r": 3, "s": 3, "padding": SAME}, SM_90A, "second convolution is not 1x1"),
        ({"stride": (2, 2)}, SM_90A, "second convolution is not 1x1"),
        ({"groups": 2}, SM_90A, "second convolution is not 1x1"),
        ({"out_layout": PACKED}, SM_90A, "everything has to be NHWC"),
        ({"k": 20}, SM_90A, "32 channels to 20 of float16: it takes eight"),
        ({"precision": FP32_OUT}, SM_90A, "to 16 of float32"),
        ({"precision": FP16_SUMS}, SM_90A, "not its precision"),
        ({"epilogue": Epilogue(activation=Activation("prelu"))}, SM_90A, "a prelu's slopes"),
        ({"window": Window(9, 11, 24)}, SM_90A, "writes a tensor of its own"),
        ({}, TINY, "no configuration fits tiny"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_reject_says_why(changes: dict[str, Any], hardware: Hardware, reason: str) -> None:
    answer = FAMILY.match(replace(W, **changes), hardware)
    assert isinstance(answer, Reject)
    assert re.search(reason, answer.reason)


@pytest.mark.parametrize(
    ("w", "reason"),
    [
        (pair((1, 9, 9, 36), 16, 3, 3), "36 channels to 16"),
        (pair((1, 9, 9, 32), 16, 6, 5), "a filter of 6x5"),
        (pair((1, 9, 9, 32), 16, 3, 3, first=Epilogue(activation=Activation("prelu"))), "prelu"),
    ],
    ids=["channels", "filter", "prelu"],
)
def test_reject_of_a_prologue_says_why(w: ConvWorkload, reason: str) -> None:
    answer = FAMILY.match(w, SM_90A)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (C(3), "rows are even"),
        (C(0), "rows are even"),
        (C(2, across=0), "every other knob is at least 1"),
        (C(2, resident=-1), "resident at least 0"),
        (C(2, 17, 2), "1088 threads, a block has at most 1024"),
        (C(2, parts=3), "2 instructions of 8 channels do not split"),
        (C(2, deep=3), "2 steps of a chunk are no multiple of 3 warps"),
        (C(2, chunk=1, stages=1), "2 chunks need a second stage"),
        (C(14, 7, 4, chunk=2), "of shared memory, a block has 232448"),
        (C(60), "registers, each of 32 threads has 255"),
        (C(2, 8, 2, resident=8), "registers, each of 4096 threads has 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_that_does_not_fit(config: DepthwiseProjectionConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        FAMILY.schedule(W, config, SM_90A)


def test_config_prints_what_it_sets() -> None:
    assert str(C(2)) == "1x1 warps of 2x8 pixels, 64 bytes of channels, 2 stages"
    config = C(4, 2, 1, 2, 4, 3, 2, 4)
    assert str(config) == (
        "2x1 warps of 4x8 pixels, 2 deep, 128 bytes of channels, 3 stages, 2 parts, 4 an SM"
    )


# ---------------------------------------------------------------- compiled for a GPU


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_machine_code_has_the_instructions_and_no_spills(tmp_path: Path) -> None:
    w, config = mobilenet(1)[4], C(8, 2, 2)
    path = tmp_path / "kernel.so"
    kernels.compiled(FAMILY.schedule(w, config, SM_90A), SM_90A).export_library(str(path))
    (text,) = sass.kernels(path).values()
    plan = Plan(w, config)
    products = plan.fragments * (2 * plan.spans * 3 + plan.columns)
    assert len(re.findall(r"\bHMMA\.16816\.F32\b", text)) == products
    assert len(re.findall(r"\bLDSM\.16\.M88\.4\b", text)) == 2 * plan.loads
    assert len(re.findall(r"\bMOVM\b", text)) == 4 * plan.fragments
    assert re.search(r"\bLDGSTS\S*\.128\b", text), "copies are not cp.async of 16 bytes"
    assert re.search(r"\bSTG\.E\.128\b", text), "stores are narrower than 16 bytes"
    assert not re.search(r"\b(LDL|STL)\b", text), "registers are spilled"


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_gpu(name: str) -> None:
    hardware = kernels.this_gpu()
    w, config = CASES[name]
    for one in dict.fromkeys((config, *list(FAMILY.space(w, hardware))[::9])):
        kernels.check(FAMILY, w, one, hardware)
    np.testing.assert_array_equal(*(
        kernels.run(FAMILY, w, config, hardware, Tensors.random(w)) for _ in range(2)
    ))  # fmt: skip
