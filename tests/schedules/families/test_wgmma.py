"""The WGMMA family: its numbers against the PTX ISA, its packing, and what nvcc makes of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from intrinsics import wgmma
from schedules.conv.activations import Activation
from schedules.conv.workload import PACKED, ConvWorkload, Epilogue, Window
from schedules.families.wgmma.config import PRODUCER_REGISTERS, WgmmaConfig
from schedules.families.wgmma.plan import Plan, depth
from schedules.families.wgmma.space import check, fits
from schedules.families.wgmma.tensor_maps import pixels
from schedules.family import Match, Reject
from schedules.machine.hardware import CUDA_ARCHS
from schedules.registry import family
from schedules.threads.tensor_map import Im2col
from tests.support import kernels, sass
from tests.support.workloads import FP16_SUMS, FP32_OUT
from tvmconv.compiler import cubins

FAMILY: Any = family("wgmma")
HOPPER = next(hardware for hardware in CUDA_ARCHS if hardware.name == "sm_90a")
SAME = (1, 1, 1, 1)
W = ConvWorkload(8, 14, 14, 256, 512, 3, 3, padding=SAME)
FUSED = Epilogue(True, True, activation=Activation("relu"))


def test_every_sum_is_held_once() -> None:
    """Figure "WGMMA .m64nNk16 register fragment layout for accumulator matrix D" of the PTX ISA."""
    thread, register = np.indices((wgmma.WARPGROUP, 128))
    row, column = wgmma.element(thread, register)
    assert len({*zip(row.flat, column.flat, strict=True)}) == 64 * 256
    # Corners of the figure: thread 0's first and third pair, thread 35's second.
    assert wgmma.element(0, 1) == (0, 1)
    assert wgmma.element(0, 2) == (8, 0)
    assert wgmma.element(35, 4) == (16, 14)


@pytest.mark.parametrize("row_bytes", [32, 64, 128])
def test_swizzle_permutes_rows_and_spreads_banks(row_bytes: int) -> None:
    row, chunk = np.indices((8, row_bytes // 16))
    swizzled = wgmma.swizzled(row, chunk, row_bytes)
    assert (np.sort(swizzled, axis=1) == chunk).all()
    # "Swizzling modes": bits 4 to 6 of the address are exclusive-ored with bits 7 to 9.
    address = row * row_bytes + chunk * 16
    mask = row_bytes // 16 - 1
    assert (row * row_bytes + swizzled * 16 == address ^ (address >> 3 & mask << 4)).all()
    for column in range(row_bytes // 16):
        places = (row[:, column] * row_bytes + swizzled[:, column] * 16) % 128
        assert len(set(places)) == 8, "eight rows of one column lie in different banks"


def test_instruction_names_what_there_is() -> None:
    assert wgmma.get(256, "float16", "float32").ptx.endswith("m64n256k16.f32.f16.f16")
    for n in (0, 12, 264):
        with pytest.raises(LookupError, match=f"not {n}"):
            wgmma.get(n, "float16", "float32")


@given(
    k=st.integers(1, 300),
    c=st.sampled_from([8, 16, 24, 40, 64, 96, 144, 512]),
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(deadline=None, max_examples=40)
def test_packed_weights_can_be_read_back(k: int, c: int, taps: tuple[int, int]) -> None:
    w = replace(W, k=k, c=c, r=taps[0], s=taps[1])
    weight = np.random.default_rng(k).standard_normal((k, c, *taps)).astype(np.float16)
    config = WgmmaConfig(columns=16)
    plan = Plan(w, config)
    packed = FAMILY.pack(w, config, {"weight": weight})["weight"]
    assert packed.shape == plan.weight_shape
    assert packed.dtype == np.float16
    # The same whatever the tile and the batch, so that buckets share it.
    other = FAMILY.pack(replace(w, n=1), WgmmaConfig(columns=64), {"weight": weight})
    assert np.array_equal(packed, other["weight"])
    d = depth(w)
    row, channel = np.indices((k, c))
    chunk = wgmma.swizzled(row % wgmma.SWIZZLE_ROWS, channel % d // 8, 2 * d)
    for r in range(taps[0]):
        for s in range(taps[1]):
            read = packed[r * taps[1] + s, channel // d, row, chunk * 8 + channel % 8]
            assert np.array_equal(read, weight[:, :, r, s])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"groups": 2}, "2 groups"),
        ({"c": 20}, "8 channels at least, of 20"),
        ({"in_layout": PACKED}, "reads and writes NHWC"),
        ({"out_layout": PACKED}, "reads and writes NHWC"),
        ({"stride": (9, 9)}, "stride"),
        ({"precision": FP16_SUMS}, "not its precision"),
        ({"epilogue": Epilogue(residual=True, residual_layout=PACKED)}, "the residual"),
        ({"h": 400, "w": 400, "dilation": (130, 130)}, "taps"),
        ({"padding": (130, 0, 0, 0)}, "padding"),
        # Each for itself it could, but the box of first pixels ends 220 before the image.
        ({"h": 400, "w": 400, "dilation": (60, 60), "padding": (0, 0, -100, -100)}, "padding"),
    ],
)
def test_it_says_why_it_declines(changes: dict[str, Any], reason: str) -> None:
    answer = FAMILY.match(replace(W, **changes), HOPPER)
    assert isinstance(answer, Reject)
    assert reason in answer.reason


def test_other_architectures_do_not_have_it() -> None:
    for hardware in CUDA_ARCHS:
        assert isinstance(FAMILY.match(W, hardware), Match) == (hardware.name == "sm_90a")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (WgmmaConfig(columns=24), "24 columns"),
        (WgmmaConfig(columns=272), "272 columns"),
        (WgmmaConfig(split=3), "1, 2, 4 or 8"),
        (WgmmaConfig(2, 1, 256, 8), "bytes of shared memory"),
        (WgmmaConfig(2, 2, 256, 2), "accumulators a thread"),
        (WgmmaConfig(8, 1, 64), "1152 threads"),
        (WgmmaConfig(3, 1, 208, 2), "one instruction of 208 columns"),
    ],
)
def test_what_does_not_fit_is_said(config: WgmmaConfig, problem: str) -> None:
    with pytest.raises(Exception, match="does not fit") as raised:
        check(W, config, HOPPER)
    assert problem in str(raised.value)


def test_the_box_of_first_pixels_is_that_of_the_outputs() -> None:
    """PTX ISA, "im2col mode": the walk goes from the lower corner to the upper, inclusive."""
    for w in (
        W,
        replace(W, stride=(2, 2)),
        replace(W, r=5, s=3, dilation=(2, 3), padding=(4, 1, 2, 5), stride=(3, 2)),
        replace(W, padding=(-1, -2, 0, 1)),
    ):
        view = pixels(Plan(w, WgmmaConfig()))
        assert isinstance(view, Im2col)
        (left, top), (right, bottom) = view.lower, view.upper
        assert (w.w - 1 + right - left) // w.stride[1] + 1 == w.q
        assert (w.h - 1 + bottom - top) // w.stride[0] + 1 == w.p


#: Each a path of its own through the kernel.
TRIED = {
    "two warpgroups": (W, WgmmaConfig(2, 1, 256, 4)),
    "residual": (replace(W, epilogue=FUSED), WgmmaConfig(3, 1, 128, 4)),
    "two fragments": (W, WgmmaConfig(2, 2, 128, 4)),
    "split": (replace(W, epilogue=FUSED), WgmmaConfig(1, 1, 64, 6, 8)),
    "two blocks": (W, WgmmaConfig(1, 1, 64, 4, 1, 2)),
    "rows of 64 bytes": (replace(W, c=96, k=96), WgmmaConfig(2, 1, 96, 4)),
    "rows of 32 bytes": (replace(W, c=40, k=80), WgmmaConfig(1, 1, 80, 4)),
    "fp32 out": (replace(W, epilogue=Epilogue(True), precision=FP32_OUT), WgmmaConfig(1, 1, 64)),
    "gated": (replace(W, r=1, s=1, padding=(0,) * 4, gate=True), WgmmaConfig(2, 2, 64, 4)),
    "gated, three blocks": (
        replace(W, c=240, k=40, r=1, s=1, padding=(0,) * 4, epilogue=FUSED, gate=True),
        WgmmaConfig(1, 1, 48, 4, 1, 3),
    ),
    "window": (
        replace(W, k=24, window=Window(28, 28, 72, 1, 0, 24, 2, 2, 3)), WgmmaConfig(1, 1, 32),
    ),
}  # fmt: skip


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_machine_code(tmp_path: Path) -> None:
    functions = {}
    for name, (w, config) in TRIED.items():
        function = FAMILY.schedule(w, config, HOPPER)
        functions[_symbol(name)] = function.with_attr("global_symbol", _symbol(name))
    library = tmp_path / "kernels.so"
    kernels.compiled(tvm.IRModule(functions), HOPPER).export_library(str(library))
    cubins.require_cubin(library, "sm_90a")
    listing = sass.kernels(library)
    for name, (w, config) in TRIED.items():
        code = listing[_symbol(name) + "_kernel"]
        plan = Plan(w, config)
        assert f"HGMMA.64x{config.columns}x16" in code, name
        assert "UTMALDG" in code, "the gather is the copy engine's"
        assert ("UTMASTG" in code) == (not plan.clustered), name
        assert ("HMUL2" in code) == w.gate, name
        for spilled in ("STL", "LDL"):
            assert spilled not in code, name


def _symbol(name: str) -> str:
    return "conv_" + name.replace(",", "").replace(" ", "_")


def test_space_holds_what_fits() -> None:
    for w in (W, replace(W, n=1), replace(W, n=128, c=24, k=144, r=1, s=1, padding=(0,) * 4)):
        space = list(FAMILY.space(w, HOPPER))
        assert 10 < len(space) == len(set(space)) < 1000
        assert all(fits(w, config, HOPPER) for config in space)
        assert FAMILY.match(w, HOPPER).config in space


@pytest.mark.parametrize("name", ["W", "batch 1"])
def test_nobody_asks_for_registers_that_are_not_there(name: str) -> None:
    """setmaxnreg waits for ever where they are not: PTX ISA, "setmaxnreg"."""
    w = W if name == "W" else replace(W, n=1)
    asked = 0
    for config in FAMILY.space(w, HOPPER):
        share = HOPPER.limits.registers // config.resident // config.threads // 8 * 8
        consumers = config.warpgroups * wgmma.WARPGROUP * config.registers
        producers = wgmma.WARPGROUP * PRODUCER_REGISTERS
        if config.exchanges_registers:
            asked += 1
            assert consumers + producers <= share * config.threads, config
            assert config.registers % 8 == 0
    assert asked
