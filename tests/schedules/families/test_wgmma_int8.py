"""The WGMMA family with integers: its CUDA text run on this CPU, and its machine code."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from intrinsics import wgmma
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
from schedules.errors import KernelFault
from schedules.families.wgmma.config import WgmmaConfig
from schedules.families.wgmma.plan import Plan, depth
from schedules.family import Match, Reject
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.schedules.families.test_wgmma import FAMILY, FUSED, HOPPER, SAME
from tests.support import integers, kernels, sass
from tests.support.workloads import INT8_WORKLOADS, quantised

on_cpu = pytest.mark.skipif(not emulator.available(), reason="no g++")
RELU = Epilogue(True, activation=Activation("relu"))
CLIP_LAST = Epilogue(True, True, activation=Activation("clip", (-1.5, 9.25)), residual_last=True)
CLIP = replace(CLIP_LAST, residual=False, residual_last=False)
SILU = Epilogue(True, activation=Activation("silu"))
SMALL = ConvWorkload(1, 9, 8, 64, 128, 3, 3, padding=SAME, epilogue=RELU)
ADDED = replace(SMALL, epilogue=FUSED)
TO_INT8 = Precision(result="int8", scales=(RESULT_SCALE, RESULT_ZERO))

#: Each a path of its own, and shapes that divide by nothing.
TRIED = {
    "int8": (quantised(SMALL, "int8", "int8", SCALE), WgmmaConfig(2, 1, 96, 3)),
    "uint8, every scale": (
        quantised(ADDED, "uint8", "uint8", *SCALES), WgmmaConfig(1, 1, 128, 3),
    ),
    "tile after tile": (
        quantised(
            ConvWorkload(9, 14, 14, 32, 336, 1, 1, epilogue=FUSED), "int8", "int8",
            SCALE, RESIDUAL_SCALE,
        ),
        WgmmaConfig(1, 1, 48, 3),
    ),
    "columns past the end, rows of 32 bytes": (
        quantised(replace(ADDED, c=16, k=112, epilogue=CLIP), "int8", "uint8", SCALE, RESULT_ZERO),
        WgmmaConfig(1, 2, 80, 3, 1, 2),
    ),
    "5x5, stride 2, result scaled": (
        quantised(
            ConvWorkload(2, 17, 19, 48, 80, 5, 5, (2, 2), (2, 2, 2, 2), epilogue=SILU),
            "uint8", "int8", SCALE, RESULT_SCALE,
        ),
        WgmmaConfig(1, 1, 80, 3),
    ),
    "residual last": (
        quantised(replace(ADDED, epilogue=CLIP_LAST), "uint8", "int8", SCALE, RESIDUAL_SCALE),
        WgmmaConfig(1, 1, 32, 4),
    ),
    "residual of the other sign": (
        quantised(ADDED, "int8", "int8", SCALE, RESIDUAL_SCALE, residual="uint8"),
        WgmmaConfig(1, 1, 64, 3),
    ),
    "fp16 out and residual": (
        quantised(replace(ADDED, k=48), "uint8", "float16", SCALE, residual="float16"),
        WgmmaConfig(1, 1, 48, 3),
    ),
    "256 columns": (
        quantised(replace(ADDED, k=256), "uint8", "int8", SCALE, RESIDUAL_SCALE),
        WgmmaConfig(2, 1, 256, 3),
    ),
    "fp16 in": (replace(SMALL, precision=TO_INT8), WgmmaConfig(1, 1, 64, 3)),
    "split": (quantised(ADDED, "int8", "int8", *SCALES), WgmmaConfig(2, 1, 64, 3, 4)),
    "split, sums": (
        quantised(replace(SMALL, epilogue=Epilogue()), "uint8", "int32"),
        WgmmaConfig(1, 1, 64, 3, 2),
    ),
    "int8 residual, fp16 out": (
        quantised(ADDED, "int8", "float16", SCALE, RESIDUAL_SCALE), WgmmaConfig(1, 1, 64, 3),
    ),
    "fp16 residual, int8 out": (
        quantised(ADDED, "int8", "int8", SCALE, RESULT_SCALE, residual="float16"),
        WgmmaConfig(1, 1, 64, 3),
    ),
    "41 channels": (
        quantised(replace(SMALL, c=48, k=41), "int8", "int8", SCALE), WgmmaConfig(1, 1, 48, 3),
    ),
    "fp32 out": (
        quantised(replace(SMALL, c=48, k=44), "int8", "float32", SCALE), WgmmaConfig(1, 1, 48, 3),
    ),
    "fp16 in, split": (replace(SMALL, precision=TO_INT8), WgmmaConfig(1, 1, 64, 3, 2)),
    "window": (
        quantised(
            replace(SMALL, k=24, window=Window(18, 16, 72, 1, 0, 24, 2, 2, 3)), "int8", "int8",
            SCALE,
        ),
        WgmmaConfig(1, 1, 32),
    ),
    "part of a concatenation": (
        quantised(replace(SMALL, k=32, window=Window(9, 8, 96, channel=48)), "int8", "int8", SCALE),
        WgmmaConfig(1, 1, 32, 3),
    ),
}  # fmt: skip
TAKEN = {n: w for n, w in INT8_WORKLOADS.items() if isinstance(FAMILY.match(w, HOPPER), Match)}


def compare(w: ConvWorkload, config: Any, execute: Any = emulator.run) -> None:
    FAMILY.check(w, config, HOPPER)
    integers.compare(FAMILY, w, config, HOPPER, execute)


@on_cpu
@pytest.mark.parametrize("name", TRIED)
def test_it_gives_what_onnxruntime_gives(name: str) -> None:
    compare(*TRIED[name])


@on_cpu
@pytest.mark.parametrize("name", TAKEN)
def test_workloads(name: str) -> None:
    compare(TAKEN[name], FAMILY.match(TAKEN[name], HOPPER).config)


def test_the_paths_are_taken() -> None:
    plans = {name: Plan(*one) for name, one in TRIED.items()}
    for name in ("int8", "uint8, every scale", "tile after tile", "fp16 out and residual"):
        assert not plans[name].clustered, plans[name].engine_problems
    assert plans["tile after tile"].tiles > plans["tile after tile"].grid(HOPPER)
    assert not plans["part of a concatenation"].clustered
    for name, problem in (
        ("int8 residual, fp16 out", "int8 residual of float16 output"),
        ("fp16 residual, int8 out", "float16 residual of int8 output"),
        ("41 channels", "output channels no multiple of 16"),
        ("fp32 out", "float32 output"),
    ):
        assert problem in plans[name].engine_problems


@on_cpu
def test_largest_sums_are_exact() -> None:
    """Every product is the largest that there is."""
    w = quantised(replace(SMALL, epilogue=Epilogue()), "uint8", "int32")
    tensors = Tensors.random(w)
    x, weight = np.full_like(tensors.x, 255), np.full_like(tensors.weight, -128)
    config = WgmmaConfig(1, 1, 64, 3)
    tensors = replace(tensors, x=x, weight=weight)
    got = kernels.run(FAMILY, w, config, HOPPER, tensors, emulator.run)
    assert got.min() == -255 * 128 * 9 * 64
    assert got[0, 0, 0, 0] == -255 * 128 * 4 * 64


@pytest.mark.parametrize(
    ("c", "wide"), [(16, 32), (32, 32), (48, 64), (80, 32), (96, 128), (512, 128)]
)
def test_depth_is_a_row_of_bytes(c: int, wide: int) -> None:
    assert depth(quantised(replace(SMALL, c=c), "int8", "int8", SCALE)) == wide


@pytest.mark.parametrize("k", [16, 41, 200])
def test_packed_weights_can_be_read_back(k: int) -> None:
    w = quantised(replace(SMALL, c=48, k=k), "int8", "int8", SCALE)
    weight = np.random.default_rng(k).integers(-128, 128, (k, 48, 3, 3), np.int8)
    given = {"weight": weight, "bias": np.zeros(k), SCALE: np.ones(k)}
    packed = FAMILY.pack(w, WgmmaConfig(columns=16), given)["weight"]
    assert packed.shape == (9, 1, -(-k // 16) * 16, 64)
    row, channel = np.indices((k, 48))
    # Of 16 columns, a thread's are 2 t, 2 t + 1, 2 t + 8, 2 t + 9 in the figure of the PTX ISA.
    t, number = row % 16 // 4, row % 4
    row = row // 16 * 16 + 2 * t + number % 2 + number // 2 * 8
    chunk = wgmma.swizzled(row % wgmma.SWIZZLE_ROWS, channel // 16, 64)
    for r in range(3):
        for s in range(3):
            read = packed[r * 3 + s, 0, row, chunk * 16 + channel % 16]
            assert np.array_equal(read, weight[:, :, r, s])


def test_adjacent_columns_are_the_instructions() -> None:
    """Where `adjacent_row` puts a column, `element` finds it."""
    thread, register = np.indices((wgmma.WARPGROUP, 128))
    row, column = wgmma.adjacent_element(thread, register)
    at = column // 16 * 16 + wgmma.adjacent_row(column % 16)
    expected = wgmma.element(thread, register)
    assert np.array_equal(row, expected[0])
    assert np.array_equal(at, expected[1])


def test_instructions_of_integers() -> None:
    """PTX ISA, "wgmma.mma_async", shapes of .s32 accumulators."""
    for n in (8, 16, 24, 32, 48, 240, 256):
        one = wgmma.get(n, "uint8", "int32")
        assert (one.m, one.n, one.k, one.b_dtype) == (64, n, 32, "int8")
        assert one.ptx.endswith(f"m64n{n}k32.s32.u8.s8")
        assert one.accumulator_registers() == n // 2
    assert wgmma.get(64, "int8", "int32").name == "wgmma_m64n64k32_s8_s32"
    for n in (0, 12, 40, 264):
        with pytest.raises(LookupError, match=f"not {n}"):
            wgmma.get(n, "int8", "int32")
    with pytest.raises(LookupError, match="in int32, not float32"):
        wgmma.get(64, "int8", "float32")
    with pytest.raises(LookupError, match="wgmma multiplies"):
        wgmma.get(64, "int32", "int32")


@pytest.mark.parametrize(
    ("w", "reason"),
    [
        (quantised(replace(SMALL, c=24), "int8", "int8", SCALE), "16 channels at least, of 24"),
        (replace(SMALL, precision=Precision(result="int32")), "not its precision"),
        (
            replace(SMALL, precision=Precision("float16", ("int8", "int8"), "int32", "int8")),
            "not its precision",
        ),
    ],
)
def test_it_says_why_it_declines(w: ConvWorkload, reason: str) -> None:
    answer = FAMILY.match(w, HOPPER)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


#: Name: what is run, what is replaced in its text and by what, and what is said of it then.
BROKEN = {
    "stage not waited for": ("int8", r"\w+_mbarrier_wait\(.*stage_ptr_1.*\n", "",
        "steps|more arrive|differ"),
    "products not waited for": ("int8", r"\w+_aligned_[01]\(\);\n", ";\n", "steps|differ"),
    "buffers not waited for": ("tile after tile",
        r"\w+_mbarrier_wait\(.*arrived.*\n", ";\n", "steps|more arrive|has started|differ"),
    "warpgroup does not wait": ("int8", r"\w+bar_sync_count_sync\(.*;", ";", "steps|differ"),
    "cluster does not wait": ("split", r"\w+_cluster_(arrive|wait)_aligned\(\);", ";",
        "steps|differ|has ended"),
}  # fmt: skip


@on_cpu
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    tried, pattern, replacement, complaint = BROKEN[name]
    with pytest.raises((AssertionError, KernelFault), match=complaint):
        compare(*TRIED[tried], kernels.broken(pattern, replacement))


#: Conversions that run on the unit of transcendental functions.
SLOW = re.compile(r"\b(I2F|F2I|FRND)\b")


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_machine_code(tmp_path: Path) -> None:
    names = {f"conv_{i}": name for i, name in enumerate(TRIED)}
    functions = {
        symbol: FAMILY.schedule(*TRIED[name], HOPPER).with_attr("global_symbol", symbol)
        for symbol, name in names.items()
    }
    library = tmp_path / "kernels.so"
    kernels.compiled(tvm.IRModule(functions), HOPPER).export_library(str(library))
    listing = sass.kernels(library)
    for symbol, name in names.items():
        code, (w, config) = listing[symbol + "_kernel"], TRIED[name]
        plan = Plan(w, config)
        if w.precision.accumulator == "int32":
            sign = "U8" if w.precision.x == "uint8" else "S8"
            assert f"IGMMA.64x{config.columns}x32.{sign}.S8" in code, name
        assert ("UTMASTG" in code) == (not plan.clustered), name
        if not plan.clustered:
            assert not SLOW.search(code), f"{name}: {SLOW.findall(code)}"
            assert "I2FP" in code or w.precision.x == "float16", name
        for spilled in ("STL", "LDL"):
            assert spilled not in code, name
