"""Every family that multiplies integers, against onnxruntime, on this CPU.

Sums of integers are exact. What follows is fp32 in the order of `compute.finished`; where a
compiler contracts a product and a sum, a value may fall on the other side of a tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schedules.choose import choose
from schedules.conv.precision import RESIDUAL_SCALE, RESULT_SCALE, RESULT_ZERO, SCALE, Precision
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.families.depthwise.config import DepthwiseConfig, registers
from schedules.families.wmma.config import WmmaConfig
from schedules.families.wmma.family import WmmaFamily
from schedules.family import Family, Reject
from schedules.machine.hardware import CPU
from schedules.registry import FAMILIES
from schedules.tensors import Tensors
from tests.support import integers, kernels
from tests.support.thinned import thinned
from tests.support.workloads import INT8_WORKLOADS, WORKLOADS, quantised
from tvmconv.runtime.device import cpu_features

#: This CPU: with its VNNI, if it has it.
HERE = replace(CPU, vnni="avx512vnni" in cpu_features())


def matching(w: ConvWorkload) -> list[Family]:
    return [f for f in FAMILIES if not isinstance(f.match(w, HERE), Reject)]


def cases() -> Iterator[Any]:
    for name, w in INT8_WORKLOADS.items():
        for family in matching(w):
            yield pytest.param(family, w, id=f"{name}-{family.name}")


@pytest.mark.parametrize(("family", "w"), thinned(list(cases()), 2))
def test_integers(family: Family, w: ConvWorkload) -> None:
    match = family.match(w, HERE)
    assert not isinstance(match, Reject)
    integers.compare(family, w, match.config, HERE)


@pytest.mark.parametrize("instruction", [(16, 16, 16), (32, 8, 16), (8, 32, 16)])
@pytest.mark.parametrize("name", thinned(["not square, int8", "batch 5, packed, uint8"], 2))
def test_every_instruction_and_vnni_give_the_same(
    name: str, instruction: tuple[int, int, int]
) -> None:
    """Several warps, fragments and chunks at once, with and without VNNI: the same bits."""
    w = INT8_WORKLOADS[name]
    (family,) = (f for f in matching(w) if isinstance(f, WmmaFamily))
    config = WmmaConfig(2, 2, 2, 2, 2, instruction=instruction)
    tensors = Tensors.random(w)
    plain, here = (kernels.run(family, w, config, cpu, tensors) for cpu in (CPU, HERE))
    np.testing.assert_array_equal(plain, here)
    integers.check(w, here, kernels.reference(w, tensors))


@pytest.mark.parametrize("x", ["int8", "uint8"])
@pytest.mark.parametrize("name", ["not square", "batch 5, packed", "depthwise"])
def test_the_fastest_family_is_chosen_on_a_cpu(name: str, x: str) -> None:
    w = quantised(WORKLOADS[name], x, x, SCALE)
    families = {"not square": "wmma_nhwc", "batch 5, packed": "wmma_packed"}
    choice = choose(w, HERE)
    assert choice.family.name == families.get(name, name)


@pytest.mark.parametrize("name", INT8_WORKLOADS)
def test_some_family_takes_it(name: str) -> None:
    assert matching(INT8_WORKLOADS[name])


def test_registers_hold_four_bytes() -> None:
    """A row of taps and of x at a time, 16 channels each."""
    w = ConvWorkload(1, 8, 8, 16, 16, 3, 3, padding=(1, 1, 1, 1), groups=16)
    config = DepthwiseConfig(vector=16, columns=4)
    x, taps = 4 + 2, 3
    halves = registers(replace(w, precision=Precision("float16")), config)
    of_bytes = registers(quantised(w, "int8", "int8", SCALE), config)
    assert halves - of_bytes == (x + taps) * 16 // 2 - (x + taps) * 16 // 4


def test_rounding_is_to_even_and_saturates() -> None:
    """Ties and values past the range, through a 1x1 convolution of one channel."""
    own = Precision("int8", ("int8", "int8"), "int32", "int8", scales=(SCALE, RESULT_ZERO))
    w = ConvWorkload(1, 1, 8, 1, 1, 1, 1, precision=own)
    x = np.array([1, 3, 5, -1, -3, 127, -127, 0], np.int8).reshape(1, 1, 8, 1)
    scales = {SCALE: np.full(1, 0.5, np.float32), RESULT_ZERO: np.full(1, 3, np.float32)}
    tensors = replace(Tensors.random(w), x=x, weight=np.full((1, 1, 1, 1), 1, np.int8))
    direct = matching(w)[-1]
    config = direct.match(w, CPU).config  # type: ignore[union-attr]
    got = kernels.run(direct, w, config, CPU, replace(tensors, scales=scales))
    # 0.5, 1.5, 2.5, -0.5, -1.5, 63.5, -63.5, 0, to even, and 3 more
    assert got.ravel().tolist() == [3, 5, 5, 3, 1, 67, -61, 3]
    scales[SCALE][:] = 2
    got = kernels.run(direct, w, config, CPU, replace(tensors, scales=scales))
    assert got.ravel().tolist() == [5, 9, 13, 1, -3, 127, -128, 3]


@pytest.mark.parametrize(
    "scales", [("zoom",), (RESULT_SCALE, SCALE), (SCALE, SCALE)], ids=["unknown", "order", "twice"]
)
def test_bad_scales_are_refused(scales: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="scales are some of"):
        Precision(scales=scales)


def test_sums_have_no_epilogue() -> None:
    own = Precision("int8", ("int8", "int8"), "int32", "int32")
    with pytest.raises(ValueError, match="no epilogue"):
        ConvWorkload(1, 4, 4, 16, 16, 1, 1, precision=own, epilogue=Epilogue(bias=True))


def test_json_keeps_scales_and_the_residuals_dtype() -> None:
    own = Precision("int8", ("int8", "int8"), "int32", "uint8", residual="float16")
    own = replace(own, scales=(SCALE, RESIDUAL_SCALE))
    w = ConvWorkload(1, 4, 4, 16, 16, 1, 1, precision=own, epilogue=Epilogue(residual=True))
    assert ConvWorkload.from_json(w.to_json()) == w
    assert "residual" not in Precision().to_json()


@pytest.mark.gpu
@pytest.mark.parametrize("name", INT8_WORKLOADS)
def test_integers_on_a_gpu(name: str) -> None:
    """Every family of a GPU that takes it, by its default and by the last of its space."""
    hardware, w = kernels.this_gpu(), INT8_WORKLOADS[name]
    for family in FAMILIES:
        match = family.match(w, hardware)
        if isinstance(match, Reject):
            continue
        for config in dict.fromkeys((match.config, list(family.space(w, hardware))[-1])):
            integers.compare(family, w, config, hardware)
