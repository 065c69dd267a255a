"""The mma.sync family on integers: its CUDA text on this CPU against onnxruntime; machine code."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from intrinsics import mma_sync
from intrinsics.mma_sync import Fragment
from schedules.conv.activations import Activation
from schedules.conv.precision import (
    RESIDUAL_SCALE,
    RESULT_SCALE,
    RESULT_ZERO,
    SCALE,
    SCALES,
    Precision,
)
from schedules.conv.workload import ConvWorkload, Epilogue, Window
from schedules.errors import ConfigError, KernelFault
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.plan import Plan, adjacent_channel, swizzled
from schedules.family import Match, Reject
from schedules.machine.hardware import Hardware
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.schedules.families.test_mma_sync import FAMILY, SM_80, SM_90A
from tests.support import integers, kernels, sass
from tests.support.thinned import thinned
from tests.support.workloads import ALL, INT8_WORKLOADS, SAME, quantised

on_cpu = pytest.mark.skipif(not emulator.available(), reason="no g++")
C = MmaSyncConfig
CLIP = Epilogue(True, True, activation=Activation("clip", (-1.5, 9.25)), residual_last=True)
SMALL = ConvWorkload(2, 9, 8, 64, 48, 3, 3, padding=SAME, epilogue=Epilogue(True))
ADDED = replace(SMALL, epilogue=ALL)

#: Each a path of its own, and shapes that divide by nothing.
TRIED = {
    "int8": (quantised(SMALL, "int8", "int8", SCALE), C(2, 1, 2, 2, 2, 3)),
    "uint8, every scale": (quantised(ADDED, "uint8", "uint8", *SCALES), C(1, 2, 1, 2, 4, 2)),
    "16 channels": (
        quantised(replace(ADDED, c=16), "int8", "int8", SCALE, RESIDUAL_SCALE), C(2, 1, 1, 2, 2, 2),
    ),
    "80 channels, stride 2": (
        quantised(
            ConvWorkload(2, 11, 13, 80, 72, 5, 3, (2, 2), (2, 1, 2, 1), epilogue=ALL),
            "uint8", "int8", SCALE, RESIDUAL_SCALE, RESULT_ZERO,
        ),
        C(1, 1, 2, 4, 4, 2),
    ),
    "residual of the other sign": (
        quantised(ADDED, "int8", "int8", SCALE, RESIDUAL_SCALE, residual="uint8"),
        C(1, 1, 2, 2, 8, 2),
    ),
    "residual last, fp16": (
        quantised(replace(SMALL, epilogue=CLIP), "int8", "int8", SCALE, RESULT_SCALE,
            residual="float16"),
        C(1, 1, 2, 2, 2, 2),
    ),
    "fp16 out": (quantised(ADDED, "uint8", "float16", SCALE, RESIDUAL_SCALE), C(1, 1, 2, 2, 2, 2)),
    "fp32 out": (quantised(replace(SMALL, k=41), "int8", "float32", SCALE), C(1, 1, 2, 2, 2, 2)),
    "sums": (quantised(replace(SMALL, epilogue=Epilogue()), "uint8", "int32"), C(2, 1, 1, 2, 4, 3)),
    "41 channels": (
        quantised(replace(ADDED, k=41), "int8", "int8", SCALE, RESIDUAL_SCALE), C(1, 2, 2, 2, 2, 2),
    ),
    "four warps": (
        quantised(ADDED, "int8", "int8", SCALE, RESIDUAL_SCALE), C(1, 1, 1, 2, 8, 2, 4),
    ),
    "blocks": (quantised(ADDED, "uint8", "uint8", *SCALES), C(1, 1, 2, 4, 2, 3, 1, 4)),
    "warps and blocks, sums": (
        quantised(replace(SMALL, epilogue=Epilogue()), "int8", "int32"), C(1, 1, 1, 2, 4, 2, 2, 2),
    ),
    "groups, shuffled": (
        quantised(
            replace(SMALL, c=48, k=72, groups=3, window=Window(9, 8, 72, shuffle=3)),
            "int8", "int8", SCALE,
        ),
        C(1, 1, 2, 2, 2, 2),
    ),
    "part of a concatenation": (
        quantised(
            replace(SMALL, k=20, window=Window(9, 8, 60, channel=12)), "int8", "uint8", SCALE
        ),
        C(1, 1, 2, 2, 2, 2),
    ),
    "fp16 in": (
        replace(ADDED, precision=Precision(result="int8", scales=(RESULT_SCALE, RESULT_ZERO))),
        C(1, 1, 2, 2, 2, 2),
    ),
}  # fmt: skip
TAKEN = {n: w for n, w in INT8_WORKLOADS.items() if isinstance(FAMILY.match(w, SM_90A), Match)}


def compare(
    w: ConvWorkload, config: Any, hardware: Hardware = SM_90A, execute: Any = emulator.run
) -> None:
    integers.compare(FAMILY, w, config, hardware, execute)


@on_cpu
@pytest.mark.parametrize("name", thinned(TRIED, 2))
def test_it_gives_what_onnxruntime_gives(name: str) -> None:
    compare(*TRIED[name])


@on_cpu
@pytest.mark.parametrize("name", thinned(TAKEN, 2))
def test_workloads(name: str) -> None:
    compare(TAKEN[name], FAMILY.match(TAKEN[name], SM_80).config, SM_80)


@on_cpu
def test_largest_sums_are_exact() -> None:
    """Every product is the largest that there is."""
    w, config = TRIED["sums"]
    tensors = Tensors.random(w)
    x, weight = np.full_like(tensors.x, 255), np.full_like(tensors.weight, -128)
    tensors = replace(tensors, x=x, weight=weight)
    got = kernels.run(FAMILY, w, config, SM_90A, tensors, emulator.run)
    assert got.min() == -255 * 128 * 9 * 64
    assert got[0, 0, 0, 0] == -255 * 128 * 4 * 64


@pytest.mark.parametrize("k", [32, 41, 200])
def test_packed_weights_can_be_read_back(k: int) -> None:
    w = quantised(replace(SMALL, c=48, k=k), "int8", "int8", SCALE)
    weight = np.random.default_rng(k).integers(-128, 128, (k, 48, 3, 3), np.int8)
    given = {"weight": weight, "bias": np.zeros(k), SCALE: np.ones(k)}
    packed = FAMILY.pack(w, C(), given)["weight"]
    assert packed.shape[:3] == (1, 9, 2)
    assert packed.shape[-2:] == (16, 32)
    rows = packed.reshape(9, 2, -1, 32)
    # Of 32 rows, lane t of four multiplies 2 t and 2 t + 1 of each instruction's 8.
    for channel in range(k):
        t, i = channel % 32 // 8, channel % 8
        row = channel // 32 * 32 + i // 2 * 8 + t * 2 + i % 2
        read = rows[:, :, row].reshape(9, 64)[:, :48]
        np.testing.assert_array_equal(read, weight[channel].reshape(48, 9).T)
    assert np.count_nonzero(packed) == np.count_nonzero(weight)


def test_lanes_hold_adjacent_channels() -> None:
    instruction = mma_sync.get(32, "int8", "int32")
    lane, number = np.indices((32, 8))
    # Accumulators 0 and 1 are of one row, of four instructions.
    _, column = Fragment.of("c", instruction).element(lane, number % 2)
    channel = adjacent_channel(number // 2 * 8 + column)
    np.testing.assert_array_equal(channel, lane % 4 * 8 + number)


def test_chunks_of_a_tile_lie_in_different_banks() -> None:
    """The eight rows that a matrix of ldmatrix reads: 16 bytes each, all of 128."""
    for first in (0, 8):
        for half in range(2):
            chunks = {((first + i) * 2 + swizzled(first + i, half, 2)) % 8 for i in range(8)}
            assert len(chunks) == 8


def test_instructions_of_integers() -> None:
    """PTX ISA, "mma", and the figures of m16n8k32 of 8 bits."""
    for dtype, letter in (("int8", "s"), ("uint8", "u")):
        one = mma_sync.get(32, dtype, "int32")
        assert one.ptx == f"mma.sync.aligned.m16n8k32.row.col.s32.{letter}8.s8.s32"
        assert (one.min_sm, one.b_dtype) == (80, "int8")
        assert [one.registers(operand) for operand in "abc"] == [4, 2, 4]
    for k, dtype, accumulator in ((16, "int8", "int32"), (32, "int8", "float32")):
        with pytest.raises(LookupError, match="m16n8k32_u8_s8_s32"):
            mma_sync.get(k, dtype, accumulator)


@pytest.mark.parametrize(
    ("w", "hardware", "reason"),
    [
        (quantised(replace(SMALL, c=24), "int8", "int8", SCALE), SM_80, "16 channels, and a group"),
        (replace(SMALL, precision=Precision(result="int32")), SM_80, "not its precision"),
        (
            replace(SMALL, precision=Precision("float16", ("int8", "int8"), "int32", "int8")),
            SM_80,
            "not its precision",
        ),
    ],
)
def test_it_says_why_it_declines(w: ConvWorkload, hardware: Hardware, reason: str) -> None:
    answer = FAMILY.match(w, hardware)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


def test_config_that_does_not_fit_says_why() -> None:
    w, config = TRIED["int8"]
    # 18 fragments of 32 channels, two at a time.
    with pytest.raises(ConfigError, match="9 steps are not split among 10 blocks"):
        FAMILY.check(w, replace(config, split=10), SM_90A)


def test_a_stage_has_as_many_bytes_as_of_fp16() -> None:
    w, config = TRIED["int8"]
    wide = Plan(replace(w, precision=Precision()), config)
    assert Plan(w, config).memory.bytes == wide.memory.bytes
    assert Plan(w, config).steps * 2 == wide.steps


#: Name: what is run, what is replaced in its text and by what.
BROKEN = {
    "stage not waited for": ("int8", r"\w+_wait_group_1\(\);", ";"),
    "stage read twice": ("int8", r"read_ptr\[0\] = condval\w*;", ";"),
    "padding not masked": ("int8", r"\(taps_ptr\[\d\] & bit_ptr\[0\]\) == \(uint\)0", "0 != 0"),
    "weights of another fragment": ("16 channels", r"(&\(weight_ptr\[)", r"\1 512 + "),
    "cluster does not wait": ("blocks", r"\w+_cluster_(arrive|wait)_aligned\(\);", ";"),
}  # fmt: skip


@on_cpu
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    tried, pattern, replacement = BROKEN[name]
    with pytest.raises((AssertionError, KernelFault), match=r"steps|differ|has ended"):
        compare(*TRIED[tried], execute=kernels.broken(pattern, replacement))


#: Conversions that run on the unit of transcendental functions; sm_80 has no other from integers.
SLOW = {"sm_80": r"\b(F2I|FRND)\b", "sm_90a": r"\b(I2F|F2I|FRND)\b"}


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize(
    "hardware",
    [pytest.param(SM_80, id="sm_80", marks=pytest.mark.slow), pytest.param(SM_90A, id="sm_90a")],
)
def test_machine_code(tmp_path: Path, hardware: Hardware) -> None:
    large = ConvWorkload(8, 14, 14, 256, 256, 3, 3, padding=SAME, epilogue=ALL)
    functions = {}
    for i, (x, config) in enumerate(
        (("int8", C(2, 2, 4, 4, 4, 3)), ("uint8", C(2, 1, 1, 2, 4, 4, 2)))
    ):
        w = quantised(large, x, "int8", *SCALES)
        function = FAMILY.schedule(w, config, hardware)
        functions[f"conv_{i}"] = function.with_attr("global_symbol", f"conv_{i}")
    library = tmp_path / "kernels.so"
    kernels.compiled(tvm.IRModule(functions), hardware).export_library(str(library))
    listing = sass.kernels(library)
    for i, sign in enumerate(("S8", "U8")):
        code = listing[f"conv_{i}_kernel"]
        assert f"IMMA.16832.{sign}.S8" in code
        assert "LDSM.16.M88.4" in code
        assert "LDSM.16.MT88" not in code
        assert re.search(r"\bSTG\.E\.64\b", code)
        assert not re.search(SLOW[hardware.name], code)
        assert not re.search(r"\b(LDL|STL|SHFL)\b", code)
