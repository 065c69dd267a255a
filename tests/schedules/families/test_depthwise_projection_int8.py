"""`depthwise_projection` on 8-bit integers: in the emulator, compiled, and on a GPU."""

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
from schedules.conv.activations import IDENTITY
from schedules.conv.precision import INT8, RESIDUAL_SCALE, RESULT_ZERO, SCALE, Precision
from schedules.conv.signature import CHANNEL
from schedules.conv.workload import Activation, ConvWorkload, Epilogue
from schedules.families.depthwise_projection.plan import Plan
from schedules.families.depthwise_projection.prologue import pack_prologue, prologue_shape
from schedules.families.depthwise_projection.space import problems
from schedules.family import Reject
from schedules.machine.hardware import Hardware
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.schedules.families.test_depthwise_projection import (
    FAMILY,
    MOBILENET,
    SM_80,
    SM_90A,
    C,
    int8_mobilenet,
)
from tests.support import integers, kernels, sass
from tests.support.thinned import thinned
from tests.support.workloads import ALL, BIAS, INT8_PAIRS, RELU6, pair, quantised_pair
from tvmconv.compiler import toolchain

W = INT8_PAIRS["int8"]
emulated = pytest.mark.skipif(not emulator.available(), reason="no g++")


def of_bytes(w: ConvWorkload) -> ConvWorkload:
    return quantised_pair(w, "uint8", "int8", "int8", residual="int8")


#: Each knob, and strides, filters, channels and pixels that nothing divides.
CASES = {
    "four fragments": (of_bytes(pair((1, 17, 9, 32), 24, 3, 3)), C(8, 2, 1, chunk=1)),
    "tall": (of_bytes(pair((1, 14, 8, 32), 16, 3, 3)), C(14, 1, 2, chunk=1)),
    "deep": (of_bytes(pair((1, 7, 7, 112), 64, 3, 3, epilogue=ALL)), C(2, 2, 1, deep=2, chunk=2)),
    "eight deep, at once": (
        of_bytes(pair((2, 4, 5, 240), 32, 3, 3, epilogue=ALL)),
        C(2, 1, 1, deep=8, chunk=8, stages=1),
    ),
    "two fragments deep": (
        of_bytes(pair((1, 4, 9, 80), 48, 3, 3)), C(4, 1, 2, deep=3, chunk=3, stages=1)
    ),
    "copies of eight bytes": (
        of_bytes(pair((1, 6, 7, 72), 24, 3, 3, (2, 2))), C(2, 1, 1, deep=2, chunk=2)
    ),
    "parts": (of_bytes(pair((1, 6, 5, 48), 96, 3, 3)), C(4, 1, 1, parts=3, chunk=1)),
    "three stages": (of_bytes(pair((1, 6, 9, 176), 48, 3, 3)), C(2, 2, 1, chunk=1, stages=3)),
    "stride 3, 5x5": (
        of_bytes(pair((1, 16, 20, 16), 16, 5, 5, (3, 3), (2, 1, 2, 3))), C(2, 2, 1, chunk=1)
    ),
    "strides differ, 3x4": (
        of_bytes(pair((1, 10, 9, 16), 16, 3, 4, (1, 2), (0, 2, 3, 0))), C(4, 1, 2, chunk=1)
    ),
    "1x1 filters": (
        of_bytes(pair((1, 9, 6, 48), 16, 1, 1, padding=(0, 0, 0, 0))), C(2, 1, 2, chunk=2)
    ),
    "one column": (
        of_bytes(pair((1, 9, 3, 48), 16, 3, 3, padding=(1, 0, 1, 0))), C(2, 1, 2, chunk=2)
    ),
    "320 channels": (of_bytes(pair((1, 6, 6, 32), 320, 3, 3, epilogue=ALL)), C(2, 2, 1, chunk=1)),
}  # fmt: skip


@emulated
@pytest.mark.parametrize("name", thinned(CASES, 3))
def test_kernel(name: str) -> None:
    integers.compare(FAMILY, *CASES[name], SM_80, emulator.run)


@emulated
@pytest.mark.parametrize("name", INT8_PAIRS)
def test_workloads(name: str) -> None:
    """The default and the last of the space, against onnxruntime."""
    w = INT8_PAIRS[name]
    space = list(FAMILY.space(w, SM_90A))
    for config in dict.fromkeys((space[0], space[-1])):
        integers.compare(FAMILY, w, config, SM_90A, emulator.run)


#: What is replaced in the CUDA text and by what. The kernel has three stages.
BROKEN = {
    "copies not waited for": (r"\w+cp_async_wait_group\w+\(\);", ";"),
    "no barrier after the wait": (
        r"(\w+cp_async_wait_group\w+\(\);)\s*__syncthreads\(\);", r"\1"),
    "a stage overwritten early": (r"\(chunk \+ 2\) % 3", "(chunk + 3) % 3"),
    "padding not zeros": (r"\? \(uint\)16 : \(uint\)0", "? (uint)16 : (uint)16"),
    "other pixels loaded": (r"(ldmatrix\w+\(.*?_shared_ptr\)\[)", r"\1 16 + "),
    "sums not from their start": (r"\b1262485504\b", "1262489600"),
}  # fmt: skip


@emulated
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    w, config = CASES["three stages"]
    with pytest.raises(AssertionError, match=r"differ|steps"):
        integers.compare(FAMILY, w, config, SM_80, kernels.broken(*BROKEN[name]))


# ---------------------------------------------------------------- exactly


def by_definition(w: ConvWorkload, tensors: Tensors) -> Any:
    """(N, P, Q, K) in integers and float64, tap by tap; a stride of one."""
    first = tensors.first
    assert first is not None
    assert w.prologue is not None
    (top, left, bottom, right), one = w.prologue.padding, w.prologue
    x = np.pad(first.x.astype(np.int64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    total = np.zeros((one.n, one.p, one.q, one.k), np.int64)
    for r in range(one.r):
        for s in range(one.s):
            total += x[:, r : r + one.p, s : s + one.q] * first.weight[:, 0, r, s].astype(np.int64)

    def rounded(total: Any, given: Tensors, own: ConvWorkload) -> Any:
        value = total * given.scales[SCALE].astype(np.float64)
        value = value + (0 if given.bias is None else given.bias)
        if given.residual is not None:
            value = value + given.residual * given.scales[RESIDUAL_SCALE].astype(np.float64)
        limits = np.iinfo(own.precision.result)
        value = np.rint(own.epilogue.activation.numpy(value)) + given.scales.get(RESULT_ZERO, 0)
        return np.clip(value, limits.min, limits.max).astype(np.int64)

    between = rounded(total, first, one)
    return rounded(between @ tensors.weight[:, :, 0, 0].T.astype(np.int64), tensors, w)


@emulated
@pytest.mark.parametrize("activation", [Activation("clip", (-9, 70)), Activation("relu"), IDENTITY])
@pytest.mark.parametrize(
    ("x", "between", "result"),
    [("int8", "uint8", "int8"), ("uint8", "int8", "uint8"), ("uint8", "uint8", "int8")],
)
def test_with_scales_that_are_powers_of_two_it_is_exact(
    x: str, between: str, result: str, activation: Activation
) -> None:
    """All is exact in fp32, ties as well, and the whole range of bytes occurs on the way."""
    limited = activation.kind == "clip"
    zeros = (SCALE, RESULT_ZERO) if limited else (SCALE,)
    epilogue = Epilogue(True, True, activation=Activation("relu"))
    w = quantised_pair(
        pair((1, 5, 7, 48), 24, 3, 3, first=Epilogue(True, activation=activation),
             epilogue=epilogue),
        x, between, result, (SCALE, RESIDUAL_SCALE, RESULT_ZERO), zeros,
    )  # fmt: skip
    rng = np.random.default_rng(5)
    drawn = Tensors.random(w)
    assert drawn.first is not None

    def halves(size: int) -> Any:
        return (rng.integers(-9, 9, size) / 2).astype(np.float32)

    def filled(like: Any, value: float) -> Any:
        return np.full(like.shape, value, np.float32)

    first, zero = drawn.first, drawn.first.scales[SCALE]
    limits = np.iinfo(x)
    first = replace(
        first,
        x=rng.integers(limits.min, limits.max + 1, first.x.shape).astype(x),
        weight=rng.integers(-128, 128, first.weight.shape).astype(np.int8),
        bias=halves(48),
        scales={SCALE: filled(zero, 2.0**-9)} | ({RESULT_ZERO: filled(zero, 3)} if limited else {}),
    )
    scale = drawn.scales[SCALE]
    scales = {SCALE: filled(scale, 2.0**-10), RESIDUAL_SCALE: filled(scale, 0.5)}
    scales[RESULT_ZERO] = filled(scale, -5)
    tensors = replace(drawn, first=first, bias=halves(24), scales=scales)
    got = kernels.run(FAMILY, w, C(2, 1, 1, deep=2, chunk=2), SM_80, tensors, emulator.run)
    expected = by_definition(w, tensors)
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(expected)) > 30


@emulated
@pytest.mark.parametrize("part", ["filter", "bias", "scale", "weight"])
def test_a_wrong_operand_would_be_noticed(part: str) -> None:
    """A kernel that leaves out one tap, bias or weight of a channel is outside the bound."""
    operands = Tensors.random(W)
    assert operands.first is not None
    assert operands.first.bias is not None
    first, weight, at = operands.first, operands.weight.copy(), 21
    taps, bias = first.weight.copy(), first.bias.copy()
    scale = first.scales[SCALE].copy()
    taps[at, 0, 2, 2], bias[at], scale[at], weight[:, at] = 90, 90, 2 * scale[at], 0
    off = {
        "filter": replace(operands, first=replace(first, weight=taps)),
        "bias": replace(operands, first=replace(first, bias=bias)),
        "scale": replace(operands, first=replace(first, scales={SCALE: scale})),
        "weight": replace(operands, weight=weight),
    }[part]
    match = FAMILY.match(W, SM_80)
    assert not isinstance(match, Reject)
    got = kernels.run(FAMILY, W, match.config, SM_80, off, emulator.run)
    with pytest.raises(AssertionError, match=r"differ|steps"):
        integers.check(W, got, kernels.reference(W, operands))


@st.composite
def possible(draw: st.DrawFn) -> tuple[ConvWorkload, Any]:
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    w = pair(
        (draw(st.integers(1, 2)), draw(st.integers(r, 12)), draw(st.integers(s, 12)),
         8 * draw(st.integers(1, 12))),
        8 * draw(st.integers(1, 9)), r, s,
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        draw(st.tuples(*[st.integers(0, 2)] * 4)),
        draw(st.sampled_from([RELU6, BIAS, Epilogue()])),
        draw(st.sampled_from([ALL, BIAS, Epilogue()])),
    )  # fmt: skip
    x, between, result = (draw(st.sampled_from(["int8", "uint8"])) for _ in range(3))
    deep = draw(st.sampled_from([1, 2, 3]))
    config = C(
        draw(st.sampled_from([2, 4, 6])), draw(st.integers(1, 2)), draw(st.integers(1, 2)), deep,
        deep * draw(st.integers(1, 2)), draw(st.integers(2, 3)),
        draw(st.sampled_from([n for n in (1, 2, 3) if w.k // 8 % n == 0])),
    )  # fmt: skip
    return quantised_pair(w, x, between, result), config


@pytest.mark.slow
@emulated
@given(possible(), st.integers(0, 99))
@settings(max_examples=8)
def test_random_kernels(case: tuple[ConvWorkload, Any], seed: int) -> None:
    w, config = case
    if not problems(w, config, SM_90A):
        integers.compare(FAMILY, w, config, SM_80, emulator.run, seed)


def test_the_prologue_as_one_operand() -> None:
    first = INT8_PAIRS["zero points, stride 2, to 24"].apart[0]
    tensors = Tensors.random(first)
    packed = pack_prologue(first, tensors.given)
    # 160 channels in rows of four: 9 taps in 16 bytes each, then three constants of four channels.
    assert packed.shape == prologue_shape(first) == (40, 4 * 16 + 3 * 4 * 4)
    taps = packed[:36, :64].reshape(144, 16)
    np.testing.assert_array_equal(taps[:, :9], tensors.weight.reshape(144, 9))
    assert not taps[:, 9:].any()
    assert not packed[36:].any()
    constants = np.ascontiguousarray(packed[:36, 64:]).view(CHANNEL).reshape(36, 3, 4)
    named = (tensors.bias, tensors.scales[SCALE], tensors.scales[RESULT_ZERO])
    for number, values in enumerate(named):
        assert values is not None
        np.testing.assert_array_equal(constants[:, number].reshape(-1), values)


# ---------------------------------------------------------------- the choice


def test_at_batch_1_pairs_are_predicted_to_gain_where_channels_are_few() -> None:
    gain = {
        shape: sum(choose(one, SM_90A).cost.us for one in w.apart) / choose(w, SM_90A).cost.us
        for shape, w in zip(MOBILENET, int8_mobilenet(1), strict=True)
    }
    assert all(gain[shape] > 1 for shape in MOBILENET if shape[0] <= 384)
    assert gain[960, 7, 1, 320] < 1


def test_few_pixels_are_shared_by_many_warps_and_copied_at_once() -> None:
    small, large = (list(FAMILY.space(int8_mobilenet(n)[10], SM_90A)) for n in (1, 128))
    steps = 960 // 32
    assert any(one.deep == 15 and one.chunk == steps and one.stages == 1 for one in small)
    assert {one.resident for one in small} == {1}
    assert max(one.deep for one in large) == 4
    assert {one.resident for one in large} == {0}


@pytest.mark.parametrize(
    ("w", "hardware", "reason"),
    [
        (W, toolchain.cuda_arch("sm_75"), "need sm_80, this is sm_75"),
        (replace(W, precision=replace(W.precision, split=2)), SM_90A, "not its precision"),
        (replace(W, precision=INT8, epilogue=Epilogue()), SM_90A, "it scales its sums"),
        (of_bytes(pair((1, 9, 9, 36), 16, 3, 3)), SM_90A, "36 channels to 16 of int8: it takes"),
        (of_bytes(pair((1, 9, 9, 32), 20, 3, 3)), SM_90A, "32 channels to 20 of int8: it takes"),
        (replace(pair((1, 9, 11, 32), 16, 3, 3), prologue=W.prologue, precision=Precision("int8")),
         SM_90A, "not its precision"),
        (of_bytes(pair((1, 9, 9, 32), 16, 3, 3, first=Epilogue(activation=Activation("prelu")))),
         SM_90A, "prelu"),
    ],
    ids=["sm_75", "split", "sums", "channels", "outputs", "floats of bytes", "prelu"],
)  # fmt: skip
def test_reject_says_why(w: ConvWorkload, hardware: Hardware, reason: str) -> None:
    answer = FAMILY.match(w, hardware)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


def test_json_has_both_precisions() -> None:
    for w in INT8_PAIRS.values():
        assert ConvWorkload.from_json(w.to_json()) == w


# ---------------------------------------------------------------- compiled for a GPU


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize("hardware", [SM_80, SM_90A], ids=lambda one: one.name)
def test_machine_code_has_the_instructions_and_no_spills(
    hardware: Hardware, tmp_path: Path
) -> None:
    w = quantised_pair(pair((1, 28, 28, 192), 32, 3, 3, epilogue=ALL), "uint8", "uint8", "int8")
    config = C(4, 2, 1, deep=3, chunk=3)
    path = tmp_path / "kernel.so"
    kernels.compiled(FAMILY.schedule(w, config, hardware), hardware).export_library(str(path))
    (text,) = sass.kernels(path).values()
    plan = Plan(w, config)
    products = plan.fragments * (2 * plan.products + plan.columns)
    assert len(re.findall(r"\bIMMA\.16832\.U8\.S8\b", text)) == products
    # The last row of a fragment's taps is the first of the next one's: a compiler may load it once.
    loads = 2 * plan.fragments * plan.tap_pairs
    assert loads - 2 <= len(re.findall(r"\bLDSM\.16\.M88\.4\b", text)) <= loads
    assert not re.search(r"\b(MOVM|SHFL)\b", text), "lanes exchange something"
    assert re.search(r"\bLDGSTS\S*\.128\b", text), "copies are not cp.async of 16 bytes"
    assert re.search(r"\bSTG\.E\.64\b", text), "stores are narrower than eight bytes"
    assert not re.search(r"\b(LDL|STL)\b", text), "registers are spilled"


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*CASES, *INT8_PAIRS])
def test_kernel_on_a_gpu(name: str) -> None:
    hardware = kernels.this_gpu()
    w, *given = CASES.get(name) or (INT8_PAIRS[name],)
    for config in dict.fromkeys((*given, *list(FAMILY.space(w, hardware))[::29])):
        integers.compare(FAMILY, w, config, hardware)
