"""The rows of element types against NumPy's and ml_dtypes' own account of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from intrinsics import dtypes
from intrinsics.dtypes import ElementType

FLOATS = [one for one in dtypes.TYPES if not one.integer]


@pytest.mark.parametrize("one", dtypes.TYPES, ids=lambda one: one.name)
def test_sizes(one: ElementType) -> None:
    assert one.bytes == np.zeros(1, one.numpy).nbytes
    assert one.bits <= 8 * one.bytes
    assert dtypes.get(one.name) is one
    assert all(dtypes.get(name).bytes >= one.bytes for name in one.accumulators)


@pytest.mark.parametrize("one", FLOATS, ids=lambda one: one.name)
def test_floats_are_as_their_library_has_them(one: ElementType) -> None:
    """tf32 is stored as float32, of whose fraction it drops 13 bits."""
    info = ml_dtypes.finfo(one.numpy)
    dropped = 13 if one.storage else 0
    assert one.fraction == info.nmant - dropped
    assert one.bits == info.bits - dropped
    assert one.least_exponent == info.minexp
    assert one.largest == float(info.max)
    assert one.unit == float(info.eps) / 2 * 2**dropped
    assert one.smallest == float(info.smallest_subnormal) * 2**dropped


@pytest.mark.parametrize("one", [one for one in dtypes.TYPES if one.integer], ids=lambda o: o.name)
def test_integers_are_as_their_library_has_them(one: ElementType) -> None:
    info = np.iinfo(one.numpy)
    assert (one.bits, one.largest) == (info.bits, info.max)


def test_an_unknown_type_lists_the_known() -> None:
    with pytest.raises(LookupError, match=r"no element type 'float64': float16, bfloat16"):
        dtypes.get("float64")
