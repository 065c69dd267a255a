"""Matrix products through the instructions, against the same order on whole matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrinsics.volta import gemm
from intrinsics.volta.fragments import FragmentError
from intrinsics.volta.gemm import matmul
from intrinsics.volta.hmma import F16, F32, Form, program
from tests.intrinsics.volta.test_hmma import in_order


def matrices(form: Form, m: int, n: int, k: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(m + n + k)
    a, b, c = (rng.standard_normal(shape) for shape in ((m, k), (k, n), (m, n)))
    return a.astype(np.float16), b.astype(np.float16), c.astype(form.accumulator.dtype)


def expected(a: Any, b: Any, c: Any) -> Any:
    """Four of k at a time; those that are missing at the end add zero."""
    missing = -a.shape[1] % 4
    a, b = np.pad(a, ((0, 0), (0, missing))), np.pad(b, ((0, missing), (0, 0)))
    for k in range(0, a.shape[1], 4):
        c = in_order(a[:, None, k : k + 4], b.T[None, :, k : k + 4], c)
    return c


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from((F32, F16)),
    sizes=st.tuples(*(st.integers(1, 40),) * 3),
    layouts=st.tuples(*(st.sampled_from(("row", "col")),) * 2),
)
def test_any_size_and_layout(
    form: Form, sizes: tuple[int, int, int], layouts: tuple[str, str]
) -> None:
    a, b, c = matrices(form, *sizes)
    before = c.copy()
    found = matmul(a, b, c, in_order, program(form, *layouts))
    assert found.dtype == c.dtype
    assert (found == expected(a, b, c)).all()
    assert (c == before).all()


def test_more_tiles_than_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "TILES_AT_ONCE", 4)
    a, b, c = matrices(F32, 50, 70, 33)
    assert (matmul(a, b, c, in_order) == expected(a, b, c)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b, c: (a, b[:3], c),
        lambda a, b, c: (a, b, c[:3]),
        lambda a, b, c: (a[None], b, c),
        lambda a, b, c: (a.astype(np.float32), b, c),
        lambda a, b, c: (a, b, c.astype(np.float16)),
    ],
)
def test_what_is_no_product_is_refused(wrong: Any) -> None:
    given = matrices(F32, 16, 16, 16)
    matmul(*given, in_order)
    with pytest.raises(FragmentError, match="cannot multiply"):
        matmul(*wrong(*given), in_order)
