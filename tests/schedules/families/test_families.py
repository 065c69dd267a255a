"""Every family against onnxruntime, on this CPU by emulation and on a GPU where there is one.

Adding a family to `FAMILIES` or a line to `WORKLOADS` is all it takes to test it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from intrinsics import INTRINSICS, dtypes
from schedules.conv.gemm import Gemm
from schedules.conv.precision import Precision
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.families.wmma.config import WmmaConfig
from schedules.families.wmma.family import WmmaFamily
from schedules.family import Family, Reject
from schedules.machine.hardware import CPU, Hardware
from schedules.registry import FAMILIES
from schedules.tensors import Tensors
from schedules.threads import emulator
from tests.support import kernels
from tests.support.thinned import thinned
from tests.support.workloads import PAIRS, WORKLOADS, workloads
from tvmconv.compiler import toolchain


def bound(family: Family, w: ConvWorkload) -> float:
    """How far the relative l2 error may go.

    A narrow output rounds each element by at most its unit roundoff: fp16 by 2**-11 = 4.9e-4 of
    itself. Sums in fp32 add (terms) x 2**-24 of the sum of magnitudes at most, 1e-4 for the
    2304 terms of a 3x3 convolution over 256 channels, and far less where roundings differ in sign:
    two roundings cover both, and 2e-5 the sums alone.

    An fp16 accumulator is rounded once per instruction, so by 2**-11 of a partial sum in each of
    the steps along the reduction; partial sums of independent terms are on average no larger
    than the last, and independent roundings grow with the root of their number.
    """
    result = dtypes.get(w.precision.result)
    sums = 2e-5 if result is dtypes.FP32 else 2 * result.unit
    if family.tensorized and w.precision.accumulator == "float16":
        # A step has 16 channels at most; rounded up here, never less than by the families.
        steps = w.r * w.s * (w.c // 16 + 1)
        sums += 2.0**-11 * np.sqrt(steps)
    return sums


def check(
    family: Family,
    w: ConvWorkload,
    config: Any,
    hardware: Hardware = CPU,
    *,
    seed: int = 0,
    least: float = 0.0,
    execute: kernels.Execute | None = None,
) -> None:
    """Runs the kernel and holds it to onnxruntime, within `bound`.

    Relative to the output, or to outputs of `least` on average where they are smaller.
    """
    operands = Tensors.random(w, seed)
    got = kernels.run(family, w, config, hardware, operands, execute)
    error = kernels.relative_l2(got, kernels.reference(w, operands), least)
    assert error <= bound(family, w), f"{family.name} with {config}: {w} is {error:.2e} off"
    assert family.padded_macs(w, config) >= w.useful_macs


def matching(w: ConvWorkload, hardware: Hardware) -> list[Family]:
    return [f for f in FAMILIES if not isinstance(f.match(w, hardware), Reject)]


def configs(family: Family, w: ConvWorkload) -> list[Any]:
    """The default, the first of the space, and its last."""
    space = list(family.space(w, CPU))
    chosen = [family.match(w, CPU).config, space[0], space[-1]]
    return list(dict.fromkeys(chosen))


def cases() -> Iterator[Any]:
    for name, w in WORKLOADS.items():
        for family in matching(w, CPU):
            for i, config in enumerate(configs(family, w)):
                marks = pytest.mark.slow if i else ()
                yield pytest.param(family, w, config, id=f"{name}-{family.name}-{i}", marks=marks)


@pytest.mark.parametrize(("family", "w", "config"), list(cases()))
def test_family_gives_what_onnxruntime_gives(family: Family, w: ConvWorkload, config: Any) -> None:
    check(family, w, config)


def wmma_cases() -> Iterator[Any]:
    """Every instruction; fp16 accumulators where the sum has many steps or fragments are packed."""
    for name in ("not square", "batch 5, packed", "20 to 10 channels", "stem"):
        for i in INTRINSICS:
            if dtypes.get(i.accumulator_dtype).integer:
                continue  # in test_int8.py
            if i.accumulator_dtype == "float32" or name in ("not square", "batch 5, packed"):
                precision = Precision(i.a_dtype, (i.a_dtype, i.b_dtype), i.accumulator_dtype)
                w = replace(WORKLOADS[name], precision=replace(precision, result=i.a_dtype))
                yield pytest.param(w, (i.m, i.n, i.k), id=f"{name}-{i.name}")


@pytest.mark.parametrize(("w", "instruction"), thinned(wmma_cases(), 5))
def test_every_instruction_serves_every_layout(
    w: ConvWorkload, instruction: tuple[int, int, int]
) -> None:
    """Several warps, fragments and chunks at once: what GPUs use, though here it runs on a CPU."""
    (family,) = (f for f in matching(w, CPU) if isinstance(f, WmmaFamily))
    check(family, w, WmmaConfig(2, 2, 2, 2, 2, instruction=instruction))


@pytest.mark.parametrize("k", [10, 70, 144])
def test_weight_may_have_more_columns_than_the_tiles_read(k: int) -> None:
    w = ConvWorkload(2, 5, 4, 24, k, 3, 3, padding=(1, 1, 1, 1), epilogue=Epilogue(bias=True))
    config = WmmaConfig(1, 1, 2, 1 if k == 10 else 2, 2)
    gemm = Gemm.of(w, config.tile)
    assert gemm.weight_columns > gemm.k_pad
    check(matching(w, CPU)[0], w, config)


@pytest.mark.parametrize(
    "knobs", [{"pad": 8}, {"swizzle": 2}, {"chunk": 3}, {"stages": 3}], ids=str
)
def test_knobs_change_no_result(knobs: dict[str, int]) -> None:
    w = WORKLOADS["1x1"]
    family = matching(w, CPU)[0]
    operands = Tensors.random(w)
    plain, tuned = (
        kernels.run(family, w, config, CPU, operands)
        for config in (WmmaConfig(1, 2, 1, 1, 1), replace(WmmaConfig(1, 2, 1, 1, 1), **knobs))
    )
    # The sums are done in the same order whatever the tiles are.
    np.testing.assert_array_equal(plain, tuned)


@pytest.mark.parametrize("name", ["not square", "stem", "20 to 10 channels", "depthwise"])
def test_a_wrong_kernel_would_be_noticed(name: str) -> None:
    """A kernel that leaves one filter tap of one input channel out is far outside `bound`."""
    w = WORKLOADS[name]
    operands = Tensors.random(w)
    weight = operands.weight.copy()
    weight[:, 0, 0, 0] = 0
    wrong = replace(operands, weight=weight)
    for family in matching(w, CPU):
        got = kernels.run(family, w, family.match(w, CPU).config, CPU, wrong)
        error = kernels.relative_l2(got, kernels.reference(w, operands))
        assert error > 10 * bound(family, w)


@pytest.mark.skipif(not emulator.available(), reason="no g++")
@pytest.mark.parametrize("name", thinned((name for name, w in WORKLOADS.items() if w.depthwise), 3))
def test_what_depthwise_does_on_a_gpu(name: str) -> None:
    """Its schedule for a GPU, which differs in more than names, in the emulator."""
    w, sm_90 = WORKLOADS[name], toolchain.cuda_arch("sm_90")
    for one in matching(w, sm_90):
        if one.name == "depthwise":
            space = list(one.space(w, sm_90))
            for config in dict.fromkeys((one.match(w, sm_90).config, space[0], space[-1])):
                check(one, w, config, sm_90, execute=emulator.run)


# ---------------------------------------------------------------- convolutions drawn at random


# By chance, or by an activation, few outputs can all be close to zero; the terms are of order one.
LEAST = 1.0


@given(workloads(), st.integers(0, 99))
@settings(max_examples=20)
def test_random_convolutions(w: ConvWorkload, seed: int) -> None:
    for family in matching(w, CPU):
        check(family, w, family.match(w, CPU).config, seed=seed, least=LEAST)


#: 2,000 convolutions, in parts that run in processes of their own.
SHARDS, EXAMPLES = 8, 250


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_larger_convolutions_in_random_configurations(shard: int) -> None:
    checked = []

    @seed(shard)
    @given(workloads(largest=20, channels=70), st.integers(0, 99), st.data())
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    def right(w: ConvWorkload, number: int, data: st.DataObject) -> None:
        for family in matching(w, CPU):
            config = data.draw(st.sampled_from(list(family.space(w, CPU))))
            check(family, w, config, seed=number, least=LEAST)
        checked.append(w)

    right()
    assert len(checked) >= EXAMPLES


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", WORKLOADS | PAIRS)
def test_family_gives_what_onnxruntime_gives_on_a_gpu(name: str) -> None:
    w = (WORKLOADS | PAIRS)[name]
    for family in matching(w, kernels.this_gpu()):
        check(family, w, family.match(w, kernels.this_gpu()).config, kernels.this_gpu())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["1x1", "not square", "batch 5, packed", "stem", *PAIRS])
def test_spread_of_the_space_on_a_gpu(name: str) -> None:
    w = (WORKLOADS | PAIRS)[name]
    family = matching(w, kernels.this_gpu())[0]
    space = list(family.space(w, kernels.this_gpu()))
    for config in space[:: max(1, len(space) // 12)]:
        check(family, w, config, kernels.this_gpu())


@pytest.mark.gpu
@pytest.mark.parametrize(("w", "instruction"), thinned(wmma_cases(), 5))
def test_every_instruction_on_a_gpu(w: ConvWorkload, instruction: tuple[int, int, int]) -> None:
    (family,) = (f for f in matching(w, kernels.this_gpu()) if isinstance(f, WmmaFamily))
    for stages, pad in ((1, 0), (2, 8)):
        config = WmmaConfig(2, 2, 2, 2, 2, stages, pad=pad, instruction=instruction)
        check(family, w, config, kernels.this_gpu())
