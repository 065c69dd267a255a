"""The simulator that kernels call: through registers it gives what the sums without them give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrinsics.numerics import arithmetic as numerics
from tvmconv.errors import TvmconvError
from tvmconv.runtime import simulator


def halves(rng: Any, shape: tuple[int, int], special: bool) -> Any:
    """Any finite fp16 numbers, subnormal ones among them, all bit patterns alike; or those that
    are infinite or none as well."""
    bits = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    values = bits.view(np.float16)
    return values if special else np.where(np.isfinite(values), values, np.float16(0))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, 50),) * 3),
    dtype=st.sampled_from(("float32", "float16")),
    special=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_through_registers_is_the_fused_sum_bit_for_bit(
    sizes: tuple[int, int, int], dtype: str, special: bool, seed: int
) -> None:
    m, k, n = sizes
    rng = np.random.default_rng(seed)
    a, b = halves(rng, (m, k), special), halves(rng, (k, n), special)
    c = rng.standard_normal((m, n)).astype(dtype)
    through = simulator.matmul(a, b, c, numerics.V100)
    direct = numerics.matmul(a, b, c, numerics.V100)
    assert through.dtype == direct.dtype == np.dtype(dtype)
    assert through.tobytes() == direct.tobytes()


def test_cancellation_keeps_what_truncation_leaves() -> None:
    """4096 + 2**-13 - 4096 in one block: the small one lies below the bits that are kept."""
    a = np.array([[4096, 2**-13, 4096, 0]], np.float16)
    b = np.array([[1], [1], [-1], [0]], np.float16)
    zero = np.zeros((1, 1), np.float32)
    assert simulator.matmul(a, b, zero, numerics.V100) == 0
    assert simulator.matmul(a, b, zero, numerics.EXACT) == 2**-13


def test_unknown_numerics_are_refused_with_those_there_are() -> None:
    with pytest.raises(TvmconvError, match="no numerics 'b200'") as refused:
        simulator.arithmetic("b200")
    assert "one of exact, ieee, v100, a100, h100" in str(refused.value)
