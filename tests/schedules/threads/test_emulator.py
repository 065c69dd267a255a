"""The emulator: what instructions do, against the records of `intrinsics` and NumPy; what it finds
wrong, in small kernels and broken ones; what it can't run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.script import tirx as script
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from intrinsics import dtypes, mma_sync
from intrinsics.record import TensorIntrinsic
from schedules.errors import EmulatorError, KernelFault
from schedules.threads import emulator
from schedules.threads.emulator.guarded import Array
from tvmconv.compiler import toolchain

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")
SM_90A = toolchain.cuda_arch("sm_90a")


def kernel(
    arguments: dict[str, tuple[tuple[int, ...], str]], threads: int, body: Callable[..., None]
) -> tirx.PrimFunc:
    """A kernel of one block. body: is given the thread's number, then the arguments' buffers."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        buffers = [T.arg(name, T.buffer(*of)) for name, of in arguments.items()]
        with (
            T.launch_thread("blockIdx.x", 1),
            T.launch_thread("threadIdx.x", threads) as thread,
        ):
            body(thread, *buffers)
    return builder.get()


def random(*shape: int, dtype: Any = np.float16) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


# ---------------------------------------------------------------- instructions


KNOWN = [
    *mma_sync.INTEGER_INSTRUCTIONS,
    *(one for one in mma_sync.INSTRUCTIONS if (one.k, one.accumulator_dtype) == (16, "float32")),
]


@pytest.mark.parametrize("instruction", KNOWN, ids=lambda one: one.name)
def test_mma_sync_is_the_product_of_fragments(instruction: TensorIntrinsic) -> None:
    integer = dtypes.get(instruction.accumulator_dtype).integer
    held = "uint32" if integer else "float32"

    def body(thread: Any, *buffers: Any) -> None:
        a, b, c, d = buffers
        registers = T.alloc_buffer((4,), held, scope="local")
        with T.unroll(4) as i:
            T.buffer_store(registers, c[thread, i], [i])
        operands = [*(a[thread, i] for i in range(4)), *(b[thread, i] for i in range(2))]
        both = [registers[i] for i in range(4)]
        T.evaluate(script.ptx[instruction.ptx](*both, *operands, *both))
        with T.unroll(4) as i:
            T.buffer_store(d, registers[i], [thread, i])

    matrices = []
    for operand in "abc":
        type_ = dtypes.get(instruction.dtype(operand)).numpy
        values = random(*instruction.shape(operand), dtype=np.float32)
        bits = (values * 1e6).astype(np.int64).astype(type_) if integer else values
        matrices.append(bits.astype(type_))
    registers = []
    for operand, matrix in zip("abc", matrices, strict=True):
        fragment = mma_sync.Fragment.of(operand, instruction)
        lanes = np.empty((32, fragment.elements), matrix.dtype)
        lanes[fragment.places()] = matrix
        registers.append(lanes.view(held if operand == "c" else np.uint32))
    shapes = {name: (one.shape, str(one.dtype)) for name, one in zip("abc", registers, strict=True)}
    function = kernel({**shapes, "d": ((32, 4), held)}, 32, body)
    got = emulator.run(function, [*registers, np.zeros((32, 4), held)], SM_90A)
    got = got.view(instruction.accumulator_dtype)
    a, b, c = (matrix.astype(np.float64) for matrix in matrices)
    places = mma_sync.Fragment.of("c", instruction).places()
    within = 0 if integer else 1e-5
    np.testing.assert_allclose(got[places], a @ b + c, rtol=within, atol=within)


@pytest.mark.parametrize(
    ("ptx", "transposed"),
    [(mma_sync.LDMATRIX, False), (mma_sync.LDMATRIX_TRANSPOSED, True)],
    ids=["as it is", "transposed"],
)
def test_ldmatrix_gives_every_lane_its_elements(ptx: str, transposed: bool) -> None:
    def body(thread: Any, x: Any, y: Any) -> None:
        shared = T.alloc_buffer((256,), "float16", scope="shared.dyn")
        words = T.alloc_buffer((4,), "uint32", scope="local")
        with T.unroll(8) as i:
            T.buffer_store(shared, x[thread, i], [thread * 8 + i])
        T.evaluate(T.tvm_storage_sync("shared.dyn"))
        row = script.cuda.cvta_generic_to_shared(T.address_of(shared[thread * 8]))
        T.evaluate(script.ptx[ptx](*(words[i] for i in range(4)), row))
        with T.unroll(4) as i:
            T.buffer_store(y, words[i], [thread, i])

    x = random(32, 8)
    function = kernel({"x": ((32, 8), "float16"), "y": ((32, 4), "uint32")}, 32, body)
    got = emulator.run(function, [x, np.zeros((32, 4), np.uint32)], SM_90A).view(np.float16)
    # (matrix, lane / 4, lane % 4, element)
    matrices = x.reshape(4, 8, 8)
    matrices = matrices.transpose(0, 2, 1) if transposed else matrices
    np.testing.assert_array_equal(
        got.reshape(8, 4, 4, 2).transpose(2, 0, 1, 3).reshape(4, 8, 8), matrices
    )


# ---------------------------------------------------------------- what it finds


def turned_round() -> tirx.PrimFunc:
    """y[i] = x[63 - i], through shared memory."""

    def body(thread: Any, x: Any, y: Any) -> None:
        shared = T.alloc_buffer((64,), "float32", scope="shared.dyn")
        T.buffer_store(shared, x[thread], [thread])
        T.evaluate(T.tvm_storage_sync("shared.dyn"))
        T.buffer_store(y, shared[63 - thread], [thread])

    return kernel({"x": ((64,), "float32"), "y": ((64,), "float32")}, 64, body)


def run(pattern: str = "", replacement: str = "") -> Array:
    def change(text: str) -> str:
        at = text.rindex('extern "C" __global__')
        body, count = re.subn(pattern, replacement, text[at:])
        assert count
        return text[:at] + body

    arrays = [np.arange(64, dtype=np.float32), np.full(64, np.nan, np.float32)]
    return emulator.run(turned_round(), arrays, SM_90A, change if pattern else str)


BARRIER = r"__syncthreads\(\);"


def test_a_right_kernel_is_right() -> None:
    np.testing.assert_array_equal(run(), np.arange(63, -1, -1))


def test_without_a_barrier_what_is_missing_is_nan() -> None:
    assert np.isnan(run(BARRIER, "")).any()


@pytest.mark.parametrize(
    ("pattern", "replacement", "complaint"),
    [
        (BARRIER, "if (threadIdx.x < 32) emulator::bar_sync(1, 64);",
         "deadlock: 32 wait for a named barrier"),
        (BARRIER, "emulator::bar_sync(1, threadIdx.x < 32 ? 64 : 96);", "expect different numbers"),
        (BARRIER, "emulator::bar_sync(16, 64);", "there is no such barrier"),
        (BARRIER, "if (threadIdx.x % 2) __syncwarp(); else __shfl_sync(~0u, 1, 0);",
         "lanes of a warp are at"),
        (BARRIER, "emulator::shared_memory()[256] = 0; __syncthreads();", "beside shared memory"),
        (BARRIER, "emulator::cp_async(emulator::shared_address(emulator::shared_memory()) + 2,"
         " x_ptr, 4); __syncthreads();", "byte 2 of shared memory is not aligned to 4"),
        (BARRIER, "emulator::cp_async(1024 + 256, x_ptr, 16); __syncthreads();",
         "byte 256 is outside of shared memory"),
        (BARRIER, "emulator::mbarrier_wait(1024, 0); __syncthreads();", "before it is initialised"),
        (BARRIER, "x_ptr[0] = 7; __syncthreads();", "an input was written to"),
        (BARRIER, "y_ptr[64] = 7; __syncthreads();", "something was written out of bounds"),
        (BARRIER, "*(float2*)(y_ptr + 1) = {}; __syncthreads();", "where it is not aligned"),
        (BARRIER, "emulator::setmaxnreg(true, 512); __syncthreads();",
         "deadlock: 64 wait for registers"),
    ],
)  # fmt: skip
def test_a_fault_is_told(pattern: str, replacement: str, complaint: str) -> None:
    with pytest.raises(KernelFault, match=complaint):
        run(pattern, replacement)


# ---------------------------------------------------------------- what it can't run


def test_an_unknown_instruction_is_named() -> None:
    def body(thread: Any, x: Any, y: Any) -> None:
        word = T.alloc_buffer((1,), "uint32", scope="local")
        T.evaluate(script.ptx["min.f16x2"](word[0], x[thread], x[thread]))
        T.buffer_store(y, word[0], [thread])

    function = kernel({"x": ((32,), "uint32"), "y": ((32,), "uint32")}, 32, body)
    words = np.zeros(32, np.uint32)
    with pytest.raises(EmulatorError, match=r"does not know the instruction min\.f16x2"):
        emulator.run(function, [words, words], SM_90A)


def test_text_that_does_not_compile_is_told() -> None:
    with pytest.raises(EmulatorError, match="no_such_function"):
        run(BARRIER, "no_such_function();")


def test_no_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not emulator.available()
    with pytest.raises(EmulatorError, match="needs a C"):
        run()
