"""CUDA's sigmoid and erf: how far they are from exact, on the card's text and on the card."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from schedules.machine.hardware import CPU, Hardware
from schedules.threads import emulator
from tests.support import kernels
from tests.support.models import Array
from tvmconv.compiler import toolchain

SM_80, SM_90A = (toolchain.cuda_arch(name) for name in ("sm_80", "sm_90a"))

X = np.concatenate(
    [
        np.linspace(-12, 12, 60000),
        *(sign * np.geomspace(1e-30, 3e38, 2000) for sign in (-1, 1)),
        [0.0, -0.0, math.inf, -math.inf, math.nan] + [0.5] * 123,
    ]
).astype("float32")
assert len(X) % 128 == 0

with np.errstate(over="ignore"):
    SIGMOID = 1 / (1 + np.exp(-X.astype("d")))
ERF = np.vectorize(math.erf)(X.astype("d"))
#: By operator: its results, and bounds of the relative and of the absolute error.
EXACT: dict[str, tuple[Callable[[Any], Any], Array, float, float]] = {
    # An exponential of a large number keeps the relative error of its argument.
    "sigmoid": (tirx.sigmoid, SIGMOID, 1e-5, 1e-37),
    "erf": (tirx.erf, ERF, 0, 7e-7),
}


def kernel(operator: Callable[[Any], Any], lanes: int) -> tirx.PrimFunc:
    x = te.placeholder(X.shape, "float32", name="x")
    y = te.compute(X.shape, lambda i: operator(x[i]), name="y")
    sch = s_tir.Schedule(te.create_prim_func([x, y]))
    (loop,) = sch.get_loops(sch.get_sblock("y"))
    block, thread, vector = sch.split(loop, [None, 32, 4])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    if lanes > 1:
        sch.vectorize(vector)
    return sch.mod["main"]


def check(name: str, y: Array) -> None:
    _, exact, relative, absolute = EXACT[name]
    np.testing.assert_allclose(y, exact, rtol=relative, atol=absolute)
    assert np.isnan(y[np.isnan(X)]).all()
    assert not np.isnan(y[~np.isnan(X)]).any()


@pytest.mark.skipif(not emulator.available(), reason="no g++")
@pytest.mark.parametrize("hardware", [SM_80, SM_90A], ids=["sm_80", "sm_90a"])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("name", EXACT)
def test_the_text_for_cuda(name: str, lanes: int, hardware: Hardware) -> None:
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    function = kernel(EXACT[name][0], lanes)
    y = emulator.run(function, [X, np.full_like(X, 7)], hardware, note)
    check(name, y)
    body = texts[0][texts[0].rindex("__global__") :]
    assert "__fdividef" in body
    assert "__expf" in body
    assert "erff" not in body


@pytest.mark.gpu
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("name", EXACT)
def test_a_gpu(name: str, lanes: int) -> None:
    arrays = [X, np.full_like(X, 7)]
    check(name, kernels.build_and_call(kernel(EXACT[name][0], lanes), arrays, kernels.this_gpu()))


@pytest.mark.parametrize("name", EXACT)
def test_a_cpu_has_tvms(name: str) -> None:
    operator, exact, *_ = EXACT[name]
    x = te.placeholder(X.shape, "float32", name="x")
    function = te.create_prim_func([x, te.compute(X.shape, lambda i: operator(x[i]), name="y")])
    y = kernels.build_and_call(function, [X, np.full_like(X, 7)], CPU)
    np.testing.assert_allclose(y[:60000], exact[:60000], rtol=1e-5, atol=4e-7)


@pytest.mark.parametrize("name", EXACT)
def test_fp16_is_tvms(name: str) -> None:
    """`tvmconv` computes in fp32; another's kernel may not."""
    x = te.placeholder((64,), "float16", name="x")
    sch = s_tir.Schedule(
        te.create_prim_func([x, te.compute((64,), lambda i: EXACT[name][0](x[i]), name="y")])
    )
    (loop,) = sch.get_loops(sch.get_sblock("y"))
    for part, thread in zip(
        sch.split(loop, [None, 32]), ("blockIdx.x", "threadIdx.x"), strict=True
    ):
        sch.bind(part, thread)
    assert kernels.compiled(sch.mod, SM_90A) is not None
