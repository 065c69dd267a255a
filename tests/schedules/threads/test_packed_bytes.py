"""Bytes in registers: against NumPy, in the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from schedules.conv.activations import Activation
from schedules.conv.precision import RESULT_ZERO, Precision
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.expressions.packed_results import packed_results
from schedules.threads import emulator, packed_bytes
from tvmconv.compiler import toolchain

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")
SM_90A = toolchain.cuda_arch("sm_90a")


def run(arrays: dict[str, Any], y: Any, body: Any) -> Any:
    """y of a kernel of one block, with a thread for each element. body: is given the thread's
    number, then the arguments' buffers."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        given = {**arrays, "y": y}
        buffers = [T.arg(n, T.buffer(one.shape, str(one.dtype))) for n, one in given.items()]
        with (
            T.launch_thread("blockIdx.x", 1),
            T.launch_thread("threadIdx.x", len(y)) as thread,
        ):
            body(thread, *buffers)
    return emulator.run(builder.get(), [*arrays.values(), y], SM_90A)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_byte_is_read(dtype: str) -> None:
    x = np.arange(256, dtype=np.uint8).view(dtype)

    def body(thread: Any, words: Any, y: Any) -> None:
        for i in range(4):
            T.buffer_store(y, packed_bytes.unpack(words[thread], i, dtype), [thread, i])

    got = run({"words": x.view(np.uint32)}, np.zeros((64, 4), np.float32), body)
    np.testing.assert_array_equal(got.ravel(), x)


@pytest.mark.parametrize("zero", [None, 3, -128])
@pytest.mark.parametrize("result", ["int8", "uint8"])
@pytest.mark.parametrize("kind", ["none", "relu", "clip"])
def test_what_is_packed_is_what_quantising_gives(result: str, kind: str, zero: int | None) -> None:
    """Ties, what saturates, and infinities; limits of the activation that are no whole numbers."""
    fine = np.arange(-1200, 1200, dtype=np.float32) / 4
    sums = np.concatenate([fine, np.float32([-3e9, -1e7, 8388609, 1e20, -np.inf, np.inf, -0.0])])
    sums = np.resize(sums, (602, 4))
    activation = Activation(kind, (-20.75, 90.5) if kind == "clip" else ())
    scales = () if zero is None else (RESULT_ZERO,)
    w = ConvWorkload(
        1, 1, 1, 1, 1, 1, 1,
        epilogue=Epilogue(activation=activation), precision=Precision(result=result, scales=scales),
    )  # fmt: skip

    def body(thread: Any, x: Any, y: Any) -> None:
        given = {} if zero is None else {RESULT_ZERO: tirx.const(float(zero), "float32")}
        packed = packed_results(w, [x[thread, i] for i in range(4)], [given] * 4)
        T.buffer_store(y, packed, [thread])

    got = run({"x": sums}, np.zeros(602, np.uint32), body).view(result).reshape(-1, 4)
    limits = np.iinfo(result)
    rounded = np.rint(activation.numpy(sums.astype(np.float64))) + (zero or 0)
    np.testing.assert_array_equal(got, np.clip(rounded, limits.min, limits.max))
