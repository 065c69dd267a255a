"""8-bit integers as pairs of fp16, against NumPy, in the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm.tirx.script import builder as T

from schedules.threads import emulator, packed_integers, ptx
from schedules.threads.registers import Registers
from tests.schedules.threads.test_packed_bytes import run

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_larger_of_two_bytes(dtype: str) -> None:
    """Every byte with many others, and with the least, which is what begins a window."""
    a, b = np.indices((256, 32)).reshape(2, -1, 4).astype(np.uint8)
    b = b * 8 + b % 8

    def body(thread: Any, a: Any, b: Any, y: Any) -> None:
        for column, first in enumerate((a[thread], None)):
            larger = Registers.array("larger", (packed_integers.PAIRS,), "uint32")
            for i, other in enumerate(packed_integers.split(b[thread], dtype)):
                begin = T.uint32(packed_integers.LEAST)
                larger[i] = begin if first is None else packed_integers.split(first, dtype)[i]
                ptx.maximum_of_pairs(larger[i], other, packed_integers.ELEMENT)
            pairs = [larger[i] for i in range(packed_integers.PAIRS)]
            T.buffer_store(y, packed_integers.join(pairs, dtype), [thread, column])

    words = {"a": a.view(np.uint32).ravel(), "b": b.view(np.uint32).ravel()}
    got = np.concatenate(
        [
            run({n: one[i : i + 1024] for n, one in words.items()}, np.zeros((1024, 2), "u4"), body)
            for i in range(0, len(words["a"]), 1024)
        ]
    ).view(dtype).reshape(-1, 2, 4)  # fmt: skip
    np.testing.assert_array_equal(got[:, 0], np.maximum(a.view(dtype), b.view(dtype)))
    np.testing.assert_array_equal(got[:, 1], b.view(dtype))
