"""Parts of shared memory as arrays: of stages that other parts lie between, as packed pairs."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.dtypes import FP16
from schedules.conv.signature import Operand
from schedules.threads import emulator, ptx
from schedules.threads.control import grid, shared_out
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Launch
from schedules.threads.shared_layout import Part, SharedLayout, Stages
from schedules.threads.shared_memory import SharedMemory
from tests.schedules.threads.test_dialect import HOPPER

STAGES, THREADS = 2, 48
#: Two parts in each stage; 48 threads do not share their elements evenly.
SHAPES = {"a": (7, 10), "b": (3, 10)}


def through_shared(read: str) -> tirx.PrimFunc:
    """Writes a and b to shared memory as elements; reads one of them as packed pairs."""
    operands = [Operand(name, FP16.name, (STAGES, *shape), "") for name, shape in SHAPES.items()]
    rows, columns = SHAPES[read][0], SHAPES[read][1] // 2
    operands.append(Operand("y", "uint32", (STAGES, rows, columns), ""))
    layout = SharedLayout(
        Part("before", FP16.name, (8,)),
        Stages(STAGES, *(Part(name, FP16.name, shape) for name, shape in SHAPES.items())),
    )
    launch = Launch(blocks=1, threads=THREADS)
    with Kernel(operands, plans_barriers=True) as kernel, kernel.launch(launch) as thread:
        shared = SharedMemory(layout, dtype="uint32")
        for name, (height, width) in SHAPES.items():
            elements = shared.array(name)
            with grid(STAGES) as (stage,), shared_out(height * width, THREADS, thread.number) as i:
                at = (stage, i // width, i % width)
                elements[at] = kernel[name][at]
        ptx.shared_sync()
        pairs = shared.array(read, "uint32")
        with grid(STAGES) as (stage,), shared_out(rows * columns, THREADS, thread.number) as i:
            at = (stage, i // columns, i % columns)
            T.buffer_store(kernel["y"], pairs[at], list(at))
    return kernel.function


@pytest.mark.skipif(not emulator.available(), reason="no g++")
@pytest.mark.parametrize("read", SHAPES)
def test_elements_and_packed_pairs_are_the_same_bytes(read: str) -> None:
    draw = np.random.default_rng(0).standard_normal
    x = {
        name: draw((STAGES, *shape)).astype(dtypes.get(FP16.name).numpy)
        for name, shape in SHAPES.items()
    }
    pairs = x[read].view(np.uint32)
    got = emulator.run(through_shared(read), [*x.values(), np.zeros_like(pairs)], HOPPER)
    np.testing.assert_array_equal(got, pairs)
