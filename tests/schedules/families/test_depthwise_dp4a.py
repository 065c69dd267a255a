"""`depthwise_dp4a`: its CUDA text on this CPU against onnxruntime, and its machine code."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.choose import choose, predict
from schedules.conv.activations import Activation
from schedules.conv.precision import RESULT_SCALE, RESULT_ZERO, SCALE, Precision
from schedules.conv.signature import WEIGHT
from schedules.conv.workload import PACKED, ConvWorkload, Epilogue, Window
from schedules.errors import ConfigError, KernelFault
from schedules.families.depthwise_dp4a.config import DepthwiseDp4aConfig
from schedules.families.depthwise_dp4a.plan import Plan
from schedules.families.depthwise_dp4a.space import problems
from schedules.family import Match, Reject
from schedules.machine.cost import conv_floor
from schedules.machine.hardware import CPU, Hardware
from schedules.registry import family
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import integers, kernels, sass
from tests.support.thinned import thinned
from tests.support.workloads import INT8_WORKLOADS, RELU, SAME, WORKLOADS, quantised
from tvmconv.compiler import toolchain

FAMILY = family("depthwise_dp4a")
SM_75, SM_80, SM_90A = (toolchain.cuda_arch(name) for name in ("sm_75", "sm_80", "sm_90a"))
C = DepthwiseDp4aConfig
on_cpu = pytest.mark.skipif(not emulator.available(), reason="no g++")

#: Those of MobileNetV2: rows of the image, channels, stride.
MOBILENET = (
    (112, 32, 1), (112, 96, 2), (56, 144, 1), (56, 144, 2), (28, 192, 1), (28, 192, 2),
    (14, 384, 1), (14, 576, 1), (14, 576, 2), (7, 960, 1),
)  # fmt: skip


def depthwise(
    size: tuple[int, int, int, int],
    filter: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = SAME,
    activation: Activation = RELU,
    **others: Any,
) -> ConvWorkload:
    """Of an (N, H, W, C) image, with a bias."""
    c = size[3]
    epilogue = Epilogue(True, activation=activation)
    return ConvWorkload(*size, c, *filter, stride, padding, groups=c, epilogue=epilogue, **others)


def mobilenet(batch: int) -> list[ConvWorkload]:
    return [
        quantised(depthwise((batch, h, h, c), stride=(s, s)), "int8", "int8", SCALE)
        for h, c, s in MOBILENET
    ]


def clip(low: float, high: float) -> Activation:
    return Activation("clip", (low, high))


NONE = Activation()
#: Each knob, strides and filters, sizes that nothing divides, and every form of limits.
CASES = {
    "relu": (quantised(depthwise((2, 9, 11, 16)), "int8", "int8", SCALE), C(4, 4)),
    "one pixel": (quantised(depthwise((1, 5, 7, 8)), "uint8", "uint8", SCALE), C(1, 1)),
    "two words": (
        quantised(depthwise((2, 7, 7, 24), activation=NONE), "int8", "int8", SCALE), C(7, 3, 2, 64)
    ),
    "stride 2": (
        quantised(depthwise((1, 14, 13, 12), stride=(2, 2)), "uint8", "int8", SCALE), C(3, 4)
    ),
    "5x5": (
        quantised(depthwise((1, 9, 8, 8), (5, 5), padding=(2, 2, 2, 2)), "int8", "uint8", SCALE),
        C(2, 5),
    ),
    "5x5, stride 2": (
        quantised(depthwise((1, 11, 12, 16), (5, 5), (2, 2), (1, 2, 3, 2)), "int8", "int8", SCALE),
        C(2, 3),
    ),
    "strides differ, 2x4": (
        quantised(depthwise((2, 10, 14, 8), (2, 4), (3, 1), (0, 3, 2, 0)), "uint8", "uint8", SCALE),
        C(2, 6),
    ),
    "stride 3, 1x7": (
        quantised(depthwise((1, 4, 20, 4), (1, 7), (1, 3), (0, 2, 0, 1)), "int8", "int8", SCALE),
        C(4, 3),
    ),
    "cropped, 1x1": (
        quantised(depthwise((1, 6, 9, 8), (1, 1), padding=(-1, -2, 0, -1)), "int8", "int8"),
        C(2, 4),
    ),
    "far padding": (
        quantised(depthwise((1, 3, 3, 4), (5, 3), padding=(4, 5, 3, 6)), "int8", "int8", SCALE),
        C(4, 5),
    ),
    "dilated rows": (
        quantised(depthwise((1, 12, 6, 8), dilation=(3, 1)), "int8", "int8", SCALE), C(3, 4)
    ),
    "odd limits": (
        quantised(depthwise((1, 7, 9, 8), activation=clip(-20.5, 90.25)), "int8", "int8", SCALE),
        C(2, 4),
    ),
    "zero point": (
        quantised(depthwise((1, 7, 9, 8)), "uint8", "uint8", SCALE, RESULT_ZERO), C(2, 4, 2)
    ),
    "zero point, limits": (
        quantised(
            depthwise((1, 7, 9, 8), activation=clip(-33, 51)), "int8", "int8", SCALE, RESULT_ZERO
        ),
        C(3, 3),
    ),
    "zero point, no limits": (
        quantised(depthwise((1, 7, 9, 8), activation=NONE), "int8", "int8", SCALE, RESULT_ZERO),
        C(2, 4),
    ),
    "result scaled": (
        quantised(
            depthwise((1, 7, 9, 8), activation=clip(0, 60)), "int8", "int8", SCALE, RESULT_SCALE
        ),
        C(2, 4),
    ),
    "no bias": (
        replace(quantised(WORKLOADS["depthwise"], "int8", "int8", SCALE), epilogue=Epilogue()),
        C(2, 4, 2),
    ),
    "fp16 out": (quantised(depthwise((1, 7, 9, 8)), "uint8", "float16", SCALE), C(2, 4, 2)),
    "sums": (
        quantised(replace(depthwise((1, 7, 9, 8)), epilogue=Epilogue()), "uint8", "int32"),
        C(2, 4, 2),
    ),
    "stride phase": (
        quantised(
            replace(depthwise((1, 6, 5, 16)), window=Window(14, 18, 48, 1, 2, 16, 2, 3)),
            "int8", "int8", SCALE,
        ),
        C(2, 3, 2),
    ),
}  # fmt: skip


def compare(
    w: ConvWorkload, config: Any, execute: Any = emulator.run, seed: int = 0, on: Hardware = SM_80
) -> None:
    integers.compare(FAMILY, w, config, on, execute, seed)


@on_cpu
@pytest.mark.parametrize("name", thinned(CASES, 2))
def test_it_gives_what_onnxruntime_gives(name: str) -> None:
    w, config = CASES[name]
    assert not problems(w, config, SM_80)
    compare(w, config)


@on_cpu
@pytest.mark.parametrize("name", [name for name, w in INT8_WORKLOADS.items() if w.depthwise])
def test_workloads(name: str) -> None:
    """The first of the space and the last, with a residual of bytes or of fp16."""
    w = INT8_WORKLOADS[name]
    space = list(FAMILY.space(w, SM_90A))
    compare(w, space[0])
    halves = replace(w, precision=replace(w.precision, residual="float16"))
    compare(halves, space[-1])


@st.composite
def drawn(draw: st.DrawFn) -> tuple[ConvWorkload, DepthwiseDp4aConfig]:
    filter = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    size = [draw(st.integers(taps, 12)) for taps in filter]
    w = depthwise(
        (draw(st.integers(1, 2)), size[0], size[1], 4 * draw(st.integers(1, 5))),
        filter,
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        draw(st.tuples(*[st.integers(0, 3)] * 4)),
        draw(st.sampled_from([RELU, NONE, clip(-3, 77)])),
    )
    x, result = (draw(st.sampled_from(["int8", "uint8"])) for _ in range(2))
    config = C(draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.sampled_from([1, 1, 2])))
    return quantised(w, x, result, SCALE), config


@on_cpu
@given(drawn(), st.integers(0, 99))
@settings(max_examples=8)
def test_random_kernels(case: tuple[ConvWorkload, DepthwiseDp4aConfig], seed: int) -> None:
    w, config = case
    if not problems(w, config, SM_80):
        compare(w, config, seed=seed)


#: What is replaced in the CUDA text of "stride 2" and by what.
BROKEN = {
    "padding not zeros": (r"= \(uint\)0;", "= (uint)16843009;"),
    "other columns": (r"\(uint\)21520\b", "(uint)30258"),
    "other taps": (r"taps_ptr\[8\]", "taps_ptr[4]"),
    "a row is left out": (r"dot_of_uint8\(quads_ptr\[\d+\], taps_ptr\[8\], (\w+\()", r"(\1"),
    "sums start elsewhere": (r"\b1262485504\b", "1262486504"),
    "stored past the image": (r"\w+_ptr\[0\] < 4\b", "true"),
}  # fmt: skip


@on_cpu
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    with pytest.raises((AssertionError, KernelFault), match=r"steps|differ|bounds|beside"):
        compare(*CASES["stride 2"], kernels.broken(*BROKEN[name]))


@on_cpu
@pytest.mark.parametrize("zero", [None, 3, -4, -127])
@pytest.mark.parametrize("activation", [NONE, RELU, clip(-2, 3), clip(-3, 77)], ids=str)
def test_rounding_is_to_even_and_saturates(activation: Activation, zero: int | None) -> None:
    """Ties, and values far past the range, through a 1x1 filter."""
    scales = (SCALE,) if zero is None else (SCALE, RESULT_ZERO)
    w = depthwise((1, 1, 256, 4), (1, 1), padding=(0, 0, 0, 0), activation=activation)
    w = quantised(w, "int8", "int8", *scales)
    x = np.broadcast_to(np.arange(-128, 128, dtype=np.int8)[:, None], (1, 1, 256, 4)).copy()
    weight = np.array([1, -3, 127, 1], np.int8).reshape(4, 1, 1, 1)
    values = {SCALE: np.float32([0.5, 0.25, 0.125, 1e9]), RESULT_ZERO: np.full(4, zero or 0)}
    bias = np.float32([0, 1.5, -0.5, 7])
    tensors = replace(
        Tensors.random(w), x=x, weight=weight, bias=bias,
        scales={name: values[name].astype(np.float32) for name in scales},
    )  # fmt: skip
    got = kernels.run(FAMILY, w, C(1, 8), SM_80, tensors, emulator.run)
    real = x.astype(np.float64) * weight.ravel() * values[SCALE] + bias
    expected = np.clip(np.rint(activation.numpy(real)) + (zero or 0), -128, 127)
    np.testing.assert_array_equal(got, expected)


def test_each_filter_row_is_packed_for_even_and_for_odd_columns() -> None:
    w, config = CASES["5x5"]
    tensors = Tensors.random(w)
    packed = FAMILY.pack(w, config, tensors.given)[WEIGHT]
    assert packed.shape == (2, 5, 4, 4, 4)
    for (k, r), taps in np.ndenumerate(np.zeros((8, 5))):
        del taps
        row = packed[k // 4, r, :, k % 4]
        w0, w1, w2, w3, w4 = tensors.weight[k, 0, r]
        assert row.tolist() == [[w0, w1, w2, w3], [w4, 0, 0, 0], [0, w0, w1, w2], [w3, w4, 0, 0]]
    # Buckets share weights.
    assert len({FAMILY.signature(w, one)[WEIGHT] for one in FAMILY.space(w, SM_90A)}) == 1


# ---------------------------------------------------------------- the choice


@pytest.mark.parametrize("batch", [1, 128])
def test_it_is_chosen_for_mobilenet(batch: int) -> None:
    for w in mobilenet(batch):
        choice = choose(w, SM_90A)
        assert choice.family is FAMILY
        assert choice.runner_up is not None
        assert conv_floor(w, SM_90A.card).us < choice.cost.us < choice.runner_up.cost.us
        assert predict(w, choice.config, SM_90A).us == choice.cost.us


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90a"])
def test_every_configuration_of_the_space_fits(arch: str) -> None:
    hardware = toolchain.cuda_arch(arch)
    for w in (*mobilenet(128)[::3], *(w for w, _ in CASES.values())):
        space = list(FAMILY.space(w, hardware))
        assert 1 <= len(set(space)) == len(space) <= 100
        assert not any(problems(w, config, hardware) for config in space)


W = CASES["relu"][0]


@pytest.mark.parametrize(
    ("changes", "hardware", "reason"),
    [
        ({}, SM_75, "for sm_80 and later, this is sm_75"),
        ({}, CPU, "instructions of a GPU"),
        ({"precision": Precision()}, SM_90A, "not its precision"),
        ({"groups": 4}, SM_90A, "not depthwise: 4 groups of 4 channels"),
        ({"k": 32}, SM_90A, "2 output channels per input channel"),
        ({"out_layout": PACKED}, SM_90A, "NHWC only"),
        ({"c": 18, "k": 18, "groups": 18}, SM_90A, "4 channels at a time"),
        ({"window": Window(9, 11, 48, channel=2)}, SM_90A, "4 channels at a time"),
        ({"dilation": (1, 2)}, SM_90A, "columns of the filter are not adjacent"),
        ({"h": 40, "w": 40, "r": 12, "s": 11}, SM_90A, "132 taps; it is for at most 128"),
        ({"h": 20, "w": 20, "r": 11, "s": 11}, SM_90A, "no configuration fits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_reject_says_why(changes: dict[str, Any], hardware: Hardware, reason: str) -> None:
    answer = FAMILY.match(replace(W, **changes), hardware)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (C(0, 4), "every knob is at least 1"),
        (C(2, 4, 3), "1, 2 or 4 words, not 3"),
        (C(2, 4, 4), "16 channels are not contiguous"),
        (C(2, 4, 1, 2048), "2048 threads, a block has at most"),
        (C(16, 8), "more than 256 outputs of a thread"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_that_does_not_fit(config: DepthwiseDp4aConfig, complaint: str) -> None:
    w = CASES["two words"][0]
    with pytest.raises(ConfigError, match=complaint):
        FAMILY.schedule(w, config, SM_90A)


def test_config_prints_what_it_sets() -> None:
    assert str(C(4, 2, 2, 64)) == "4x2 pixels of 8 channels, 64 threads"


# ---------------------------------------------------------------- compiled for a GPU


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize("arch", ["sm_80", pytest.param("sm_90a", marks=pytest.mark.slow)])
def test_machine_code(arch: str, tmp_path: Path) -> None:
    """Four taps in an instruction, words and vectors moved, nothing spilled, nothing converted by
    the unit of transcendental functions; about as many instructions as the model counts."""
    hardware = toolchain.cuda_arch(arch)
    cases = [(mobilenet(128)[0], C(8, 4)), (mobilenet(128)[1], C(4, 2, 2))]
    functions = {
        f"conv_{i}": FAMILY.schedule(*case, hardware).with_attr("global_symbol", f"conv_{i}")
        for i, case in enumerate(cases)
    }
    library = tmp_path / "kernels.so"
    kernels.compiled(tvm.IRModule(functions), hardware).export_library(str(library))
    texts = sass.kernels(library)
    for i, (w, config) in enumerate(cases):
        plan, text = Plan(w, config), texts[f"conv_{i}_kernel"]
        outputs = config.rows * config.columns * plan.channels
        assert len(re.findall(r"\bIDP\.4A\.S8\.S8\b", text)) == 3 * outputs
        assert len(re.findall(r"\bI2IP\.S8\.S32\.SAT\b", text)) == outputs // 2
        width = r"\.64" if config.words == 2 else r""
        loads = plan.height * plan.width
        assert len(re.findall(rf"\bLDG\.E{width}\.CONSTANT\b", text)) == loads
        stores = config.rows * config.columns
        assert len(re.findall(rf"\bSTG\.E{width} ", text)) == stores
        assert not re.search(r"\b(LDL|STL|I2F|F2I|FRND|FMNMX)\b", text)
        footprint = FAMILY.footprint(w, config, hardware)
        assert footprint is not None
        listed = len(re.findall(r"/\*[0-9a-f]{4,}\*/ +(?!NOP)\S", text))
        assert footprint.instructions / (config.threads // 32) == pytest.approx(listed, rel=0.15)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_gpu(name: str) -> None:
    hardware = kernels.this_gpu()
    w, config = CASES[name]
    for one in dict.fromkeys((config, *list(FAMILY.space(w, hardware))[::9])):
        compare(w, one, execute=None, on=hardware)


def test_the_default_is_of_its_space() -> None:
    answer = FAMILY.match(W, SM_90A)
    assert isinstance(answer, Match)
    assert answer.config in set(FAMILY.space(W, SM_90A))
