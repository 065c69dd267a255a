"""Vectors of bytes are moved as words: the same bytes, on this CPU; and only where there are 16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule

from schedules.byte_copies import copy_bytes_as_words
from schedules.lowering import KERNELS, LOWERING
from schedules.machine.hardware import CPU
from tests.support import kernels

ROWS, COLUMNS, LEFT = 3, 64, 1


def copy(dtype: str, vector: int, fill: int = 0) -> Any:
    """y has x one row lower, and `fill` above it."""
    x = te.placeholder((ROWS, COLUMNS), dtype, name="x")
    y = te.compute(
        (ROWS, COLUMNS),
        lambda i, j: tirx.if_then_else(i >= LEFT, x[i - LEFT, j], tirx.const(fill, dtype)),
        name="y",
    )
    sch = Schedule(te.create_prim_func([x, y]).with_attr("global_symbol", "main"))
    _, lane = sch.split(sch.get_loops(sch.get_sblock("y"))[-1], [None, vector])
    sch.vectorize(lane)
    return sch.mod["main"]


def rewritten(function: Any) -> bool:
    """Whether the pass changes the function with its loops vectorised."""
    steps = [
        tvm.s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.VectorizeLoop(),
    ]
    opaque = tvm.s_tir.transform.ConvertBlocksToOpaque()(tvm.IRModule({"main": function}))
    flat = tvm.transform.Sequential(steps)(opaque)
    return "words" in copy_bytes_as_words()(flat)["main"].script()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("vector", [8, 16])
def test_the_bytes_are_the_same(dtype: str, vector: int) -> None:
    function = copy(dtype, vector)
    assert rewritten(function)
    x = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS)).astype(dtype)
    y = kernels.build_and_call(function, [x, np.full_like(x, 7)], CPU)
    np.testing.assert_array_equal(y, np.vstack([np.zeros((LEFT, COLUMNS), dtype), x[:-LEFT]]))


@pytest.mark.parametrize(
    ("dtype", "vector", "fill"), [("int8", 4, 0), ("int8", 16, 1), ("int16", 16, 0)]
)
def test_other_copies_stay_as_they_are(dtype: str, vector: int, fill: int) -> None:
    assert not rewritten(copy(dtype, vector, fill))


@tvm.instrument.pass_instrument
class Passes:
    """Notes the names of the passes that run."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def run_before_pass(self, _: Any, info: Any) -> None:
        self.names.append(str(info.name))


def passes(pipeline: str) -> list[str]:
    noted = Passes()
    target = tvm.target.Target("llvm")
    # The option by which TVM's own pipeline has cp.async.
    config = {**LOWERING, "tirx.use_async_copy": True}
    with target, tvm.transform.PassContext(config=config, instruments=[noted]):
        tvm.compile(copy("int8", 16), target=target, tir_pipeline=pipeline)
    return noted.names


def test_the_pipeline_is_tvms_with_our_passes_in_it() -> None:
    ours, theirs = passes(KERNELS), passes("s_tir")
    ours_alone = ("copy_bytes_as_words", "keep_nan")
    added = (*ours_alone, "lower_kernels", "_pipeline", "sequential")
    wanted = [name for name in theirs if name not in added]
    assert [name for name in ours if name not in added] == wanted
    assert [ours.count(name) for name in ours_alone] == [1, 1]
    assert "s_tir.InjectPTXAsyncCopy" in wanted
