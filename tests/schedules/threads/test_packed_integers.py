"""8-bit integers as pairs of fp16, against NumPy, in the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm.tirx.script import builder as T

from schedules.threads import emulator, packed_integers
from schedules.threads.registers import Registers
from tests.schedules.threads.test_packed_bytes import run

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")
BOUNDS = {"none": None, "relu": (0.0, np.finfo(np.float32).max), "clip": (-20.75, 90.5)}


@pytest.mark.parametrize("zero", [None, 3, -128, 255])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("kind", BOUNDS)
def test_what_is_joined_is_what_quantising_gives(dtype: str, kind: str, zero: int | None) -> None:
    """Ties, what saturates, what fp16 rounds, and infinities."""
    bounds, limits = BOUNDS[kind], np.iinfo(dtype)
    fine = np.arange(-1200, 1200, dtype=np.float32) / 4
    far = [-3e9, -1e7, 8388609, 1e20, -np.inf, np.inf, -0.0, 2049, -4097.5, 65519, 65520, -7e4]
    values = np.resize(np.concatenate([fine, np.float32(far)]), (603, 4))

    def body(thread: Any, x: Any, y: Any) -> None:
        pairs = Registers.array("pairs", (2,), "uint32")
        zeros = Registers.array("zeros", (4,), "float16")
        for i in range(2):
            pairs[i] = packed_integers.nearest(*(x[thread, 2 * i + low] for low in range(2)))
        added = None
        if zero is not None:
            for i in range(4):
                zeros[i] = T.float16(zero)
            added = [zeros.view("uint32")[i] for i in range(2)]
        both = [pairs[i] for i in range(2)]
        packed_integers.limit(both, dtype, bounds, added)
        T.buffer_store(y, packed_integers.join(both), [thread])

    got = run({"x": values}, np.zeros(len(values), np.uint32), body).view(dtype).reshape(-1, 4)
    wide = values.astype(np.float64)
    rounded = np.rint(wide if bounds is None else np.clip(wide, *bounds)) + (zero or 0)
    np.testing.assert_array_equal(got, np.clip(rounded, limits.min, limits.max))
