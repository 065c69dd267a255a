"""`few_channels` with the max pool that follows, in the emulator, and on a GPU.

What it gives is, bit by bit, what the pool gives of what the kernel without one gives.
"""

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
from schedules.conv.max_pool import MaxPool
from schedules.conv.workload import Activation, ConvWorkload, Epilogue, Window
from schedules.errors import ConfigError, KernelFault
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.few_channels.plan import PooledPlan
from schedules.families.few_channels.space import default, problems
from schedules.family import ONE_CONVOLUTION, Reject, alone
from schedules.machine.hardware import CPU, Hardware
from schedules.registry import FAMILIES, family
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.schedules.families.test_few_channels import RELU, STEM, THREE
from tests.support import kernels, sass
from tests.support.thinned import thinned
from tests.support.workloads import SAME
from tvmconv.compiler import toolchain

FAMILY = family("few_channels")
SM_80, SM_90 = (toolchain.cuda_arch(name) for name in ("sm_80", "sm_90"))
PRELU = Epilogue(True, activation=Activation("prelu"))
C = FewChannelsConfig


def pooled(w: ConvWorkload, top: int, left: int, up: bool = False) -> ConvWorkload:
    """With a 3x3 pool at stride 2 after it, its size rounded up or down."""
    rows, columns = (
        (size + 2 * pad - 3 + (up and (size - 1) // 2 * 2 - pad < size)) // 2 + 1
        for size, pad in ((w.p, top), (w.q, left))
    )
    pool = MaxPool((3, 3), (2, 2), (top, left), (rows, columns))
    return replace(w, epilogue=replace(w.epilogue, pool=pool))


def unpooled(w: ConvWorkload) -> ConvWorkload:
    return replace(w, epilogue=replace(w.epilogue, pool=None))


RESNET = pooled(STEM, 1, 1)
SMALL = ConvWorkload(2, 23, 24, 3, 40, 7, 7, (2, 2), THREE, epilogue=RELU)
WIDE = ConvWorkload(1, 9, 77, 3, 64, 3, 3, (1, 2), SAME, epilogue=PRELU)

#: Every padding; one tile a block, and several, of several images; warps side by side.
CASES = {
    "padded": (pooled(SMALL, 1, 1), C(2, 1)),
    "not padded": (pooled(SMALL, 0, 0), C(2, 1)),
    "padded above": (pooled(SMALL, 1, 0), C(2, 1, blocks=3)),
    "padded at the left, rounded up": (pooled(SMALL, 0, 1, up=True), C(2, 1, blocks=3)),
    "blocks that end in the middle of an image": (
        pooled(replace(SMALL, n=3), 1, 1), C(2, 1, blocks=5),
    ),
    "the same, not padded": (pooled(replace(SMALL, n=3), 0, 0), C(4, 1, blocks=4)),
    "warps side by side": (pooled(WIDE, 1, 1), C(2, 3, 2)),
    "warps side by side, not padded": (pooled(WIDE, 0, 0), C(2, 3, blocks=2)),
    "rows of whole warps": (pooled(replace(WIDE, w=96), 1, 1), C(4, 3, 2)),
    "rows of whole warps, not padded": (pooled(replace(WIDE, w=96), 0, 0), C(4, 3, blocks=1)),
    "a column for a warp of its own": (pooled(replace(WIDE, w=65), 0, 0), C(2, 3)),
    "tiles side by side": (pooled(WIDE, 1, 1), C(2, 2, blocks=3)),
    "tiles side by side, not padded": (pooled(replace(WIDE, n=2), 0, 0), C(2, 1, blocks=5)),
    "the last tile has one column": (pooled(replace(WIDE, w=98), 1, 0), C(2, 2, 2)),
    "rounded up": (pooled(replace(SMALL, h=24, w=32), 1, 1, up=True), C(2, 2, blocks=4)),
    "filter in registers": (
        pooled(ConvWorkload(2, 17, 28, 1, 32, 5, 5, padding=(2,) * 4), 1, 1),
        C(2, 2, weights="registers", blocks=3),
    ),
    "one window": (pooled(ConvWorkload(1, 5, 10, 3, 8, 3, 3), 0, 0), C(2, 1)),
}  # fmt: skip


emulated = pytest.mark.skipif(not emulator.available(), reason="no g++")


def check(
    w: ConvWorkload, config: Any, hardware: Hardware, seed: int = 0, execute: Any = None
) -> None:
    operands = Tensors.random(w, seed)
    got = kernels.run(FAMILY, w, config, hardware, operands, execute)
    error = kernels.relative_l2(got, kernels.reference(w, operands), 1.0)
    assert error < 1e-3, f"{config}: {w} is {error:.2e} off"
    whole = kernels.run(FAMILY, unpooled(w), C(1, config.across), hardware, operands, execute)
    assert w.epilogue.pool is not None
    np.testing.assert_array_equal(got, w.epilogue.pool.apply(whole))


@emulated
@pytest.mark.parametrize("name", thinned(CASES, 3))
def test_kernel(name: str) -> None:
    w, config = CASES[name]
    assert not problems(w, config, SM_90)
    check(w, config, SM_80, execute=emulator.run)


#: What is replaced in the CUDA text and by what.
BROKEN = {
    "copies not waited for": (r"\w+cp_async_wait_group\w+\(\);", ";"),
    "warps side by side do not wait": (r"(?s)(\w+st_vec_shared.*?)__syncthreads\(\);", r"\1"),
    "another column left for the warp beside": (
        r"(st_vec_shared.*?\w+_shared_ptr\[)", r"\1 16 + "),
    "another lane asked": (r"\^ 4", "^ 8"),
    "a window's maximum left out": (r"\w+max_NaN_f16x2\((\w+\[0\]), .*\);", ";"),
}  # fmt: skip


@emulated
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_noticed(name: str) -> None:
    w, config = CASES["warps side by side, not padded"]
    with pytest.raises((AssertionError, KernelFault), match=r"finite|off|outside"):
        check(w, config, SM_80, execute=kernels.broken(*BROKEN[name]))


@st.composite
def drawn(draw: st.DrawFn) -> tuple[ConvWorkload, FewChannelsConfig]:
    r, s = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    w = ConvWorkload(
        draw(st.integers(1, 3)), draw(st.integers(r + 4, 18)), draw(st.integers(s + 20, 60)),
        draw(st.integers(1, 4)), 8 * draw(st.integers(1, 9)), r, s,
        draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])), draw(st.tuples(*[st.integers(0, 2)] * 4)),
        epilogue=draw(st.sampled_from([RELU, PRELU, Epilogue()])),
    )  # fmt: skip
    w = pooled(w, draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.booleans()))
    config = C(
        2 * draw(st.integers(1, 2)), draw(st.integers(1, 4)),
        parts=draw(st.sampled_from([n for n in (1, 2, 3) if -(-w.k // 32) % n == 0])),
        blocks=draw(st.sampled_from([0, 1, 2, 5])),
    )  # fmt: skip
    return w, config


@pytest.mark.slow
@emulated
@given(drawn(), st.integers(0, 99))
@settings(max_examples=10)
def test_random_kernels(case: tuple[ConvWorkload, FewChannelsConfig], seed: int) -> None:
    w, config = case
    if not problems(w, config, SM_90):
        check(w, config, SM_80, seed, emulator.run)


def test_the_pool_by_definition() -> None:
    """What kernels are held to is held to onnxruntime, by a convolution that changes nothing."""
    w = ConvWorkload(2, 11, 14, 4, 4, 1, 1)
    operands = replace(Tensors.random(w), weight=np.eye(4, dtype=np.float16).reshape(4, 4, 1, 1))
    for pool in (
        MaxPool((3, 3), (2, 2), (1, 1), (6, 7)),
        MaxPool((3, 3), (2, 2), (0, 1), (5, 8)),
        MaxPool((2, 4), (3, 1), (1, 0), (4, 11)),
    ):
        after = replace(w, epilogue=Epilogue(pool=pool))
        expected = kernels.reference(after, operands)
        np.testing.assert_array_equal(pool.apply(operands.x).astype("f"), expected)


# ---------------------------------------------------------------- what is asked for


def test_every_row_is_computed_once_but_for_a_tile_of_each_block() -> None:
    config = default(RESNET, SM_90)
    assert config is not None
    assert PooledPlan(RESNET, config).blocks <= config.blocks
    assert FAMILY.padded_macs(RESNET, config) < 1.05 * FAMILY.padded_macs(STEM, C(2, 7))
    assert FAMILY.footprint(RESNET, config, SM_90).dram_bytes < 100e6


def test_no_other_family_pools() -> None:
    for one in FAMILIES[1:]:
        reason = ONE_CONVOLUTION if one.name == "depthwise_projection" else alone(RESNET)
        assert one.match(RESNET, SM_90) == Reject(one.name, reason)
    assert choose(RESNET, SM_90).family is FAMILY
    with pytest.raises(LookupError, match=r"(?s)max pool 3x3/2.*direct: does not pool"):
        choose(RESNET, CPU)


@pytest.mark.parametrize(
    "pool",
    [
        MaxPool((2, 2), (2, 2), (0, 0), (56, 56)),
        MaxPool((3, 3), (1, 1), (1, 1), (112, 112)),
        MaxPool((3, 3), (2, 2), (2, 1), (57, 56)),
        MaxPool((3, 2), (2, 2), (1, 1), (56, 56)),
    ],
    ids=str,
)
def test_reject_says_why(pool: MaxPool) -> None:
    answer = FAMILY.match(replace(STEM, epilogue=replace(RELU, pool=pool)), SM_90)
    assert isinstance(answer, Reject)
    assert re.search("pools 3x3 windows at stride 2, padded by at most 1, not max", answer.reason)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (C(1, 7), "a pool takes 2 rows, or a multiple, of one warp above each other"),
        (C(2, 7, tall=2), "of one warp above each other"),
        (C(2, 33), "1056 threads, a block has at most 1024"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_that_does_not_fit(config: FewChannelsConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        FAMILY.schedule(RESNET, config, SM_90)


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90a"])
def test_every_configuration_of_the_space_fits(arch: str) -> None:
    hardware = toolchain.cuda_arch(arch)
    for w in (RESNET, replace(RESNET, n=1), CASES["warps side by side"][0]):
        space = list(FAMILY.space(w, hardware))
        assert len(space) == len(set(space)) > 1
        assert not any(problems(w, config, hardware) for config in space)


def test_workloads_go_through_json() -> None:
    assert ConvWorkload.from_json(RESNET.to_json()) == RESNET
    assert str(RESNET.epilogue) == "bias + relu + max pool 3x3/2"
    # As records have them that were written before there were pools.
    assert ConvWorkload.from_json(STEM.to_json().replace('"pool": null, ', "")) == STEM


@pytest.mark.parametrize(
    ("pool", "window"),
    [
        (MaxPool((3, 3), (2, 2), (1, 1), (58, 56)), None),
        (MaxPool((3, 3), (2, 2), (3, 1), (56, 56)), None),
        (MaxPool((3, 3), (2, 2), (1, 1), (56, 56)), Window(112, 112, 64)),
    ],
    ids=["below the image", "above it", "a part of a larger tensor"],
)
def test_no_workload(pool: MaxPool, window: Window | None) -> None:
    with pytest.raises(ValueError, match="an empty window of the pool, or a pool in a window"):
        replace(STEM, epilogue=replace(RELU, pool=pool), window=window)


@pytest.mark.parametrize("fields", [{"kernel": (0, 3)}, {"padding": (-1, 0)}, {"size": (0, 1)}])
def test_no_pool(fields: dict[str, Any]) -> None:
    good = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "size": (56, 56)}
    with pytest.raises(ValueError, match="sizes are at least 1, padding at least 0"):
        MaxPool(**{**good, **fields})


# ---------------------------------------------------------------- compiled for a GPU


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_machine_code_pools_in_registers(tmp_path: Path) -> None:
    path = tmp_path / "kernel.so"
    config = default(RESNET, SM_90)
    kernels.compiled(FAMILY.schedule(RESNET, config, SM_90), SM_90).export_library(str(path))
    (text,) = sass.kernels(path).values()
    assert len(re.findall(r"\bSHFL\b", text)) == 16
    assert re.search(r"\bHMNMX2\b", text)
    assert len(re.findall(r"\bSTG\.E\.128\b", text)) == 2
    # For the next tile, and for what warps leave for each other.
    assert len(re.findall(r"\bBAR\.SYNC\b", text)) == 2
    sums = text[text.index("HMMA") : text.rindex("HMMA")]
    assert not re.search(r"\b(LDL|STL)\b", sums), "registers are spilled where it multiplies"


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_gpu(name: str) -> None:
    hardware = kernels.this_gpu()
    w, config = CASES[name]
    for one in dict.fromkeys((config, default(w, hardware), *list(FAMILY.space(w, hardware))[::9])):
        check(w, one, hardware)
