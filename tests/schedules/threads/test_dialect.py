"""A kernel written in the dialect, run by the emulator: a product of matrices, on cp.async."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from intrinsics.dtypes import FP16, FP32
from intrinsics.mma_sync import M16N8K16
from schedules.conv.signature import Operand
from schedules.machine.hardware import CUDA_ARCHS
from schedules.threads import emulator, ptx
from schedules.threads.async_pipeline import AsyncCopyPipeline
from schedules.threads.control import Index, grid, serial, vectorized, when
from schedules.threads.kernel import Kernel
from schedules.threads.launch import WARP, Launch
from schedules.threads.registers import Registers, bind
from schedules.threads.shared_layout import Part, SharedLayout, Stages
from schedules.threads.shared_memory import SharedMemory

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")

HOPPER = next(hardware for hardware in CUDA_ARCHS if hardware.name == "sm_90a")
M, N, DEPTH, STEPS = M16N8K16.m, 2 * M16N8K16.n, M16N8K16.k, 5


def product(stages: int, plans_barriers: bool) -> tirx.PrimFunc:
    """y (16, 16) = a (16, 80) b^T, b (16, 80), by one warp; a stage is 16 columns of each."""
    operands = [
        Operand("a", FP16.name, (M, STEPS * DEPTH), ""),
        Operand("b", FP16.name, (N, STEPS * DEPTH), ""),
        Operand("y", FP32.name, (M, N), ""),
    ]
    layout = SharedLayout(
        Stages(stages, *(Part(name, FP16.name, (16, DEPTH)) for name in ("a", "b")))
    )
    launch = Launch(blocks=1, threads=WARP)
    with Kernel(operands, plans_barriers) as kernel, kernel.launch(launch) as thread:
        shared = SharedMemory(layout)
        pipeline = AsyncCopyPipeline(stages, layout["a"].stride(1))
        lane = bind("lane", thread.lane)
        sums = Registers.array("sums", (2, 4), FP32.name)
        fragments = Registers.array("fragments", (2, 4), "uint32")

        def copy(step: Index) -> None:
            """16 bytes of a and of b for each lane."""
            row, column = lane // 2, lane % 2 * 8
            for name in ("a", "b"):
                to = layout[name].at(pipeline.stage(step), row, column)
                source = T.address_of(kernel[name][row, step * DEPTH + column])
                ptx.cp_async(shared.pointer_to(to), source, 16)
            pipeline.commit()

        with grid(2, 4) as index:
            sums[index] = tirx.const(0, FP32.name)
        for step in range(pipeline.ahead):
            copy(step)
        with serial(STEPS) as step:
            pipeline.wait()
            if stages > 1:
                with when(step + pipeline.ahead < STEPS):
                    copy(step + pipeline.ahead)
                with when(step + pipeline.ahead >= STEPS):
                    pipeline.commit()
            for i, name in enumerate(("a", "b")):
                # Of a the matrices go down first, of b, which is transposed, across.
                row = lane % 16 if name == "a" else lane // 16 * 8 + lane % 8
                column = (lane // 16 if name == "a" else lane // 8 % 2) * 8
                at = layout[name].at(pipeline.stage(step), row, column)
                ptx.ldmatrix([fragments[i, j] for j in range(4)], shared.pointer_to(at))
            for half in range(2):
                accumulators = [sums[half, j] for j in range(4)]
                a = [fragments[0, j] for j in range(4)]
                b = [fragments[1, 2 * half + j] for j in range(2)]
                ptx.mma(M16N8K16, accumulators, a, b)
            if stages == 1:
                ptx.block_sync()
                with when(step + 1 < STEPS):
                    copy(step + 1)
        with grid(2, 2) as (half, low), vectorized(2) as v:
            row, column = lane // 4 + low * 8, half * 8 + lane % 4 * 2 + v
            T.buffer_store(kernel["y"], sums[half, low * 2 + v], [row, column])
    return kernel.function


def run(function: tirx.PrimFunc, **change: object) -> float:
    """The greatest difference from NumPy's product."""
    draw = np.random.default_rng(0).standard_normal
    a, b = (draw((16, STEPS * DEPTH)).astype(np.float16) for _ in range(2))
    got = emulator.run(function, [a, b, np.zeros((M, N), np.float32)], HOPPER, **change)
    return float(np.abs(got - a.astype(np.float64) @ b.astype(np.float64).T).max())


@pytest.mark.parametrize("plans_barriers", [False, True])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_product(stages: int, plans_barriers: bool) -> None:
    assert run(product(stages, plans_barriers)) < 1e-4


@pytest.mark.parametrize("missing", ["cp_async_wait_group", "cp_async_commit_group"])
def test_a_missing_wait_is_noticed(missing: str) -> None:
    def without(text: str) -> str:
        changed, count = re.subn(rf"\w*{missing}\w*\(\);", ";", text[text.rindex("__global__") :])
        assert count
        return text[: text.rindex("__global__")] + changed

    assert not run(product(stages=3, plans_barriers=False), change=without) < 1e-2
