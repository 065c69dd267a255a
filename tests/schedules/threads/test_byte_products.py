"""Products of bytes and their sums: against NumPy, in the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm.tirx.script import builder as T

from schedules.threads import byte_products, emulator, packed_bytes
from tests.schedules.threads.test_packed_bytes import run

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")
RNG = np.random.default_rng(0)


def registers(*shape: int) -> Any:
    return RNG.integers(0, 256, (*shape, 4), np.uint8).view(np.uint32)[..., 0]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_dot(dtype: str) -> None:
    a, b = registers(64), registers(64)
    start = RNG.integers(-(1 << 20), 1 << 20, 64, np.int32)

    def body(thread: Any, a: Any, b: Any, start: Any, y: Any) -> None:
        total = byte_products.dot(a[thread], b[thread], start[thread], dtype)
        T.buffer_store(y, total, [thread])

    got = run({"a": a, "b": b, "start": start}, np.zeros(64, np.int32), body)
    products = a.view(dtype).astype(np.int32) * b.view(np.int8)
    np.testing.assert_array_equal(got, start + products.reshape(64, 4).sum(1))


def test_four_registers_are_transposed() -> None:
    x = registers(32, 4)

    def body(thread: Any, x: Any, y: Any) -> None:
        pairs = [byte_products.pair(x[thread, i], x[thread, i + 1]) for i in (0, 2)]
        for i, value in enumerate(byte_products.transposed(*pairs)):
            T.buffer_store(y, value, [thread, i])

    got = run({"x": x}, np.zeros((32, 4), np.uint32), body)
    expected = x.view(np.uint8).reshape(32, 4, 4).swapaxes(1, 2)
    np.testing.assert_array_equal(got.view(np.uint8).reshape(32, 4, 4), expected)


def test_sums_are_exact_in_fp32() -> None:
    most = byte_products.MOST
    sums = np.array([0, 1, -1, 12345, most - 1, -most], np.int32)

    def body(thread: Any, sums: Any, y: Any) -> None:
        started = sums[thread] + T.int32(byte_products.START)
        T.buffer_store(y, byte_products.real(started), [thread])

    got = run({"sums": sums}, np.zeros(6, np.float32), body)
    np.testing.assert_array_equal(got, sums)


@pytest.mark.parametrize("range", [128, 256])
def test_whole_rounds_ties_to_even(range: int) -> None:
    part = np.concatenate([np.arange(4 * range + 1, dtype=np.float32) / 4 / range, [2**-140]])
    part = part.astype(np.float32)

    def body(thread: Any, part: Any, y: Any) -> None:
        T.buffer_store(y, byte_products.whole(part[thread], range), [thread])

    got = run({"part": part}, np.zeros(len(part), np.int32), body)
    np.testing.assert_array_equal(got, np.rint(part.astype(np.float64) * range))


def test_limited_takes_both_limits_and_rounds_once() -> None:
    a = np.array([0.5, -3, 2, 1e30, -1e30, 1 + 2**-12, np.inf], np.float32)
    c = np.array([0.25, 0, 0, 0, 0, -1 - 2**-11, 0], np.float32)

    def body(thread: Any, a: Any, c: Any, y: Any) -> None:
        T.buffer_store(y, byte_products.limited(a[thread], a[thread], c[thread]), [thread])

    got = run({"a": a, "c": c}, np.zeros(7, np.float32), body)
    np.testing.assert_array_equal(got, np.float32([0.5, 1, 1, 1, 1, 2**-24, 1]))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_saturated(dtype: str) -> None:
    x = np.array([-(1 << 31), -129, -128, -1, 0, 127, 128, 255, 256, 1 << 30, 3, -3], np.int32)

    def body(thread: Any, x: Any, y: Any) -> None:
        four = [x[thread * 4 + i] for i in range(4)]
        T.buffer_store(y, packed_bytes.saturated(four, dtype), [thread])

    got = run({"x": x}, np.zeros(3, np.uint32), body).view(dtype)
    limits = np.iinfo(dtype)
    np.testing.assert_array_equal(got, np.clip(x, limits.min, limits.max))


def test_permuted() -> None:
    x = registers(8, 2)

    def body(thread: Any, x: Any, y: Any) -> None:
        value = byte_products.permuted(x[thread, 0], x[thread, 1], 7, 0, 3, 3)
        T.buffer_store(y, value, [thread])

    got = run({"x": x}, np.zeros(8, np.uint32), body).view(np.uint8).reshape(8, 4)
    np.testing.assert_array_equal(got, x.view(np.uint8).reshape(8, 8)[:, [7, 0, 3, 3]])
