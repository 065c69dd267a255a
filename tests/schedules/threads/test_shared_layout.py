"""The layout of shared memory: parts are where their alignment and their overlays say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrinsics import dtypes
from schedules.threads.shared_layout import BARRIER, Part, SharedLayout, Stages

DTYPES = [one.name for one in dtypes.TYPES]
PARTS = st.tuples(
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from([1, 4, 16, 128, 1024]),
)


@given(parts=st.lists(PARTS, min_size=1, max_size=6))
@settings(deadline=None, max_examples=100)
def test_parts_are_aligned_and_apart(parts: list[tuple[str, list[int], int]]) -> None:
    layout = SharedLayout(
        *(Part(str(i), dtype, tuple(shape), align) for i, (dtype, shape, align) in enumerate(parts))
    )
    taken: set[int] = set()
    for i, (dtype, shape, align) in enumerate(parts):
        placed = layout[str(i)]
        array = np.zeros(shape, dtypes.get(dtype).numpy)
        assert placed.offset % align == 0
        assert placed.end - placed.offset == array.nbytes
        mine = set(range(placed.offset, placed.end))
        assert not taken & mine
        taken |= mine
        # As NumPy counts bytes.
        for index in itertools.product(*map(range, shape)):
            at = sum(i * stride for i, stride in zip(index, array.strides, strict=True))
            assert placed.at(*index) == placed.offset + at
        assert placed.at(0) == placed.at() == placed.offset
        assert placed.stride(1) == array.strides[0]
    assert layout.bytes == max(taken) + 1


@given(parts=st.lists(PARTS, min_size=1, max_size=4), count=st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_stages_hold_all_their_parts(parts: list[tuple[str, list[int], int]], count: int) -> None:
    named = [
        Part(str(i), dtype, tuple(shape), align) for i, (dtype, shape, align) in enumerate(parts)
    ]
    layout = SharedLayout(
        Part("before", "int8", (3,)), Stages(count, *named), Part("z", "int8", (1,))
    )
    inside = SharedLayout(*named)
    pitch = layout["0"].stride(1)
    assert layout["0"].offset >= 3
    assert layout["z"].offset >= layout["0"].offset + (count - 1) * pitch + inside.bytes
    for part in named:
        placed = layout[part.name]
        assert placed.stride(1) == pitch >= inside.bytes
        for stage in range(count):
            assert placed.at(stage) % part.align == 0
            assert placed.at(stage) - placed.at(0) == stage * pitch
            assert placed.at(0) - layout["0"].at(0) == inside[part.name].at()
            last = [extent - 1 for extent in part.shape]
            assert (
                placed.at(stage, *last) - placed.at(stage)
                == inside[part.name].at(*last) - inside[part.name].at()
            )


def test_an_overlay_begins_where_the_other_part_does() -> None:
    layout = SharedLayout(
        Part("pixels", "float16", (2, 8), align=128),
        Part("weights", "float16", (2, 8)),
        Part("accumulators", "float32", (32,), over="pixels"),
        Part("full", BARRIER, (2,)),
    )
    assert layout["accumulators"].offset == layout["pixels"].offset == 0
    assert layout["weights"].offset == 32
    assert layout["full"].offset == 128, "past the longer one"
    assert layout.bytes == 144
    assert "full" in layout
    assert "empty" not in layout
    with pytest.raises(KeyError):
        layout["empty"]


def test_a_part_has_one_name() -> None:
    with pytest.raises(AssertionError, match="two parts are called a"):
        SharedLayout(Part("a", "float16", (1,)), Part("a", "float16", (1,)))
