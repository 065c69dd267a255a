"""`few_channels` with 8-bit results: its CUDA text on this CPU against onnxruntime."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from schedules.choose import choose
from schedules.conv.activations import Activation
from schedules.conv.precision import RESULT_SCALE, RESULT_ZERO, SCALE, Precision
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.errors import KernelFault
from schedules.families.few_channels.space import default, problems
from schedules.family import Match, Reject
from schedules.machine.hardware import Hardware
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.schedules.families.test_few_channels import CASES, FAMILY, SM_80, SM_90, STEM, C
from tests.schedules.families.test_few_channels_pool import CASES as POOLED
from tests.schedules.families.test_few_channels_pool import RESNET, unpooled
from tests.support import integers, kernels, sass
from tests.support.thinned import thinned
from tests.support.workloads import INT8_WORKLOADS, SAME, quantised

on_cpu = pytest.mark.skipif(not emulator.available(), reason="no g++")
CLIP = Epilogue(True, activation=Activation("clip", (-20.5, 90.25)))
SILU = Epilogue(True, activation=Activation("silu"))


def to(
    case: tuple[ConvWorkload, Any], result: str, *scales: str, epilogue: Epilogue | None = None
) -> tuple[ConvWorkload, Any]:
    """The case with another result, and other epilogue but for the pool."""
    w, config = case
    if epilogue is not None:
        w = replace(w, epilogue=replace(epilogue, pool=w.epilogue.pool))
    return replace(w, precision=Precision(result=result, scales=scales)), config


def of(case: tuple[ConvWorkload, Any], x: str, *own: str) -> tuple[ConvWorkload, Any]:
    """The case with an input of bytes, another result, and scales."""
    w, config = case
    return quantised(w, x, *own), config


TRIED = {
    "stem": to(CASES["stem"], "int8", SCALE),
    "uint8, zero point": to(CASES["8 bytes"], "uint8", SCALE, RESULT_ZERO),
    "result scaled, clip": to(CASES["stride 1"], "int8", RESULT_SCALE, epilogue=CLIP),
    "clip": to(CASES["2 bytes"], "int8", SCALE, RESULT_ZERO, epilogue=CLIP),
    "silu": to(CASES["4 bytes"], "uint8", SCALE, RESULT_SCALE, RESULT_ZERO, epilogue=SILU),
    "no epilogue": to(CASES["1x1"], "int8", SCALE),
    "prelu": to(CASES["two channels, prelu"], "int8", SCALE),
    "scaled fp16": to(CASES["four channels"], "float16", SCALE, RESULT_SCALE),
    "pool": to(POOLED["padded"], "int8", SCALE),
    "pool, zero point": to(POOLED["warps side by side"], "uint8", SCALE, RESULT_ZERO),
    "pool, clip": to(POOLED["rounded up"], "int8", SCALE, RESULT_ZERO, epilogue=CLIP),
    "pool, not padded": to(POOLED["tiles side by side, not padded"], "int8", RESULT_SCALE),
    "pool, scaled fp16": to(POOLED["padded above"], "float16", SCALE, RESULT_SCALE),
    "bytes": of(CASES["stem"], "uint8", "int8", SCALE),
    "bytes, warps and turns": of(CASES["two channels, prelu"], "int8", "uint8", SCALE, RESULT_ZERO),
    "bytes, 8 at a time": of(CASES["8 bytes"], "int8", "int8", SCALE),
    "bytes, 4 at a time": of(CASES["four channels"], "uint8", "int8", SCALE),
    "bytes, one by one": of(CASES["4 bytes"], "int8", "float16", SCALE),
    "bytes, one by one, odd": of(CASES["2 bytes"], "uint8", "float16", SCALE),
    "bytes, second copy": of(CASES["stride 1"], "uint8", "uint8", SCALE, RESULT_SCALE, RESULT_ZERO),
    "bytes, filter in registers": of(CASES["filter in registers"], "int8", "int8", SCALE),
    "bytes, pool": of(POOLED["padded"], "uint8", "int8", SCALE),
    "bytes, pool, tile after tile": of(
        POOLED["blocks that end in the middle of an image"], "uint8", "uint8", SCALE, RESULT_ZERO
    ),
    "bytes, pool, tiles side by side": of(
        POOLED["tiles side by side, not padded"], "int8", "int8", SCALE
    ),
}  # fmt: skip
TAKEN = {n: w for n, w in INT8_WORKLOADS.items() if isinstance(FAMILY.match(w, SM_80), Match)}


def compare(w: ConvWorkload, config: Any, execute: Any = emulator.run) -> Any:
    return integers.compare(FAMILY, w, config, SM_80, execute)


@on_cpu
@pytest.mark.parametrize("name", thinned(TRIED, 2))
def test_it_gives_what_onnxruntime_gives(name: str) -> None:
    w, config = TRIED[name]
    assert not problems(w, config, SM_90)
    got, tensors = compare(w, config)
    if w.epilogue.pool is not None:
        one = C(1, config.across)
        whole = kernels.run(FAMILY, unpooled(w), one, SM_80, tensors, emulator.run)
        np.testing.assert_array_equal(got, w.epilogue.pool.apply(whole.astype(np.float32)))


@on_cpu
@pytest.mark.parametrize("name", TAKEN)
def test_workloads(name: str) -> None:
    match = FAMILY.match(TAKEN[name], SM_80)
    assert isinstance(match, Match)
    compare(TAKEN[name], match.config)


#: Name: what is run, what is replaced in its text and by what.
BROKEN = {
    "cut off, not rounded": ("stem", r"nearest_integer\(", "int("),
    "zero point left out": (
        "pool, zero point", r", result_zero_ptr_1\[\d+\]\)", ", 0.0f)"),
    "pairs in the wrong order": (
        "pool", r"joined_bytes\((\w+\[\d\]), (\w+\[\d\])\)", r"joined_bytes(\2, \1)"),
    "a window's maximum left out": (
        "pool", r"\w+max_NaN_f16x2\((\w+\[0\]), \w+\[\d+\], \w+\[.*\);", ";"),
}  # fmt: skip


@on_cpu
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    tried, pattern, replacement = BROKEN[name]
    with pytest.raises((AssertionError, KernelFault), match=r"steps|differ"):
        compare(*TRIED[tried], kernels.broken(pattern, replacement))


def test_it_is_chosen_for_the_stem() -> None:
    for w in (STEM, RESNET, replace(STEM, n=1), replace(STEM, k=32, r=3, s=3, padding=SAME)):
        own = replace(w, precision=Precision(result="int8", scales=(SCALE,)))
        for one in (own, quantised(w, "uint8", "int8", SCALE)):
            assert choose(one, SM_90).family is FAMILY


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        (Precision(result="int32"), "not 64 int32"),
        (Precision(result="float32", scales=(SCALE,)), "not 64 float32"),
        (Precision("int8", ("int8", "int8"), "int32", "int32"), "not 64 int32"),
        (Precision("float16", ("int8", "int8"), "int32", "int8"), "not its precision"),
    ],
    ids=["32 bits", "fp32", "sums", "rounded to int8"],
)
def test_it_says_why_it_declines(precision: Precision, reason: str) -> None:
    epilogue = Epilogue() if precision.sums else STEM.epilogue
    answer = FAMILY.match(replace(STEM, precision=precision, epilogue=epilogue), SM_90)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


@on_cpu
def test_largest_sums_are_exact() -> None:
    w, config = of(CASES["8 bytes"], "uint8", "float16", SCALE)
    w = replace(w, epilogue=Epilogue())
    tensors = Tensors.random(w)
    x, weight = np.full_like(tensors.x, 255), np.full_like(tensors.weight, -127)
    scales = {SCALE: np.full(w.k, 2.0**-8, np.float32)}
    tensors = replace(tensors, x=x, weight=weight, scales=scales)
    got = kernels.run(FAMILY, w, config, SM_80, tensors, emulator.run)
    np.testing.assert_array_equal(got, kernels.reference(w, tensors).astype(np.float16))


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize(
    "hardware",
    [pytest.param(SM_80, id="sm_80", marks=pytest.mark.slow), pytest.param(SM_90, id="sm_90")],
)
def test_machine_code(tmp_path: Path, hardware: Hardware) -> None:
    precision = Precision(result="uint8", scales=(SCALE, RESULT_ZERO))  # conv_0 has no pool
    bytes = Precision("uint8", ("uint8", "int8"), "int32", "int8", scales=(SCALE,))
    functions = {}
    for i, (w, own) in enumerate([(STEM, precision), (RESNET, precision), (RESNET, bytes)]):
        own = replace(w, precision=own)
        config = default(own, hardware)
        function = FAMILY.schedule(own, config, hardware)
        functions[f"conv_{i}"] = function.with_attr("global_symbol", f"conv_{i}")
    library = tmp_path / "kernels.so"
    kernels.compiled(tvm.IRModule(functions), hardware).export_library(str(library))
    for name, text in sass.kernels(library).items():
        # Conversions that run on the unit of transcendental functions; sm_80 has no others.
        assert hardware is SM_80 or not re.search(r"\b(F2I|FRND|I2F)\b", text)
        assert ("IMMA.16832.U8.S8" in text) == (name == "conv_2_kernel")
        assert bool(re.search(r"\bHMNMX2\b", text)) == (name != "conv_0_kernel")
        assert re.search(r"\bSTG\.E\.64\b", text)
        multiply = "IMMA.16832.U8.S8" if "IMMA" in text else "HMMA"
        sums = text[text.index(multiply) : text.rindex(multiply)]
        assert not re.search(r"\b(LDL|STL)\b", sums), "registers are spilled where it multiplies"
