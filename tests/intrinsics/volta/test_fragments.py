"""Who holds what: against the published tables and formulas, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrinsics.errors import TvmconvError
from intrinsics.volta import fragments
from intrinsics.volta.fragments import (
    ACCUMULATOR_F16,
    ACCUMULATOR_F32,
    OCTETS,
    A,
    B,
    FragmentError,
    Operand,
    held,
    holders,
    load,
    store,
)

OPERANDS = (A, B, ACCUMULATOR_F32, ACCUMULATOR_F16)
each_layout = pytest.mark.parametrize("layout", ["row", "col"])
each_operand = pytest.mark.parametrize("operand", OPERANDS, ids=("a", "b", "f32", "f16"))

#: Raihan et al., figure 7: the threadgroups that load each four rows of A and columns of B.
A_SEGMENTS = {0: (0, 2), 4: (4, 6), 8: (1, 3), 12: (5, 7)}
B_SEGMENTS = {0: (0, 1), 4: (4, 5), 8: (2, 3), 12: (6, 7)}
#: And table II: first row and column of each octet's block.
BLOCKS = {0: (0, 0), 1: (8, 0), 2: (0, 8), 3: (8, 8)}


def first_of(segments: dict[int, tuple[int, int]], lane: int) -> int:
    return next(first for first, groups in segments.items() if lane // 4 in groups)


def published(operand: Operand, layout: str, lane: int, i: int) -> tuple[int, int]:
    """Row and column of element i of a lane, as the paper and the PTX ISA have it."""
    t = lane % 4
    row, column = BLOCKS[lane // 4 % 4]
    upper = 0 if lane < 16 else 4
    if operand is A:
        first = first_of(A_SEGMENTS, lane)
        if layout == "row":
            return first + t, i
        return first + i % 4, i // 4 * 4 + t
    if operand is B:
        first = first_of(B_SEGMENTS, lane)
        if layout == "col":
            return i, first + t
        return i // 4 * 4 + t, first + i % 4
    if operand is ACCUMULATOR_F16:
        return row + t + upper, column + i
    return row + (t & 1) + (i & 2) + upper, column + (i & 4) + (t & 2) + (i & 1)


def numbered(operand: Operand) -> Any:
    """A tile whose elements are all different, also in fp16."""
    return np.arange(256, dtype=operand.dtype).reshape(16, 16)


def values(operand: Operand, registers: Any) -> Any:
    """(..., lane, element)."""
    return np.ascontiguousarray(registers).view(operand.dtype)


@each_layout
@each_operand
def test_every_element_of_every_lane_is_where_it_was_published(
    operand: Operand, layout: str
) -> None:
    row, column = held(operand, layout)
    found = [
        [(int(row[lane, i]), int(column[lane, i])) for i in range(operand.elements)]
        for lane in range(32)
    ]
    assert found == [
        [published(operand, layout, lane, i) for i in range(operand.elements)] for lane in range(32)
    ]


@each_layout
@each_operand
def test_every_element_is_held_as_often_as_it_should_be_and_found_again(
    operand: Operand, layout: str
) -> None:
    row, column = held(operand, layout)
    count = np.zeros((16, 16), int)
    np.add.at(count, (row, column), 1)
    assert (count == operand.copies).all()
    where = holders(operand, layout)
    element = where.register * operand.per_register + where.half
    assert (row[where.lane, element] == np.arange(16)[:, None, None]).all()
    assert (column[where.lane, element] == np.arange(16)[:, None]).all()
    assert (np.diff(where.lane, axis=-1) > 0).all()


def test_octets_are_their_threadgroups_lanes_and_block() -> None:
    assert OCTETS[1].threadgroups == (1, 5)
    assert OCTETS[1].lanes == (4, 5, 6, 7, 20, 21, 22, 23)
    assert {o.number: (o.row, o.column) for o in OCTETS} == BLOCKS
    for octet in OCTETS:
        assert {int(fragments.octet(lane)) for lane in octet.lanes} == {octet.number}
    assert sorted(lane for octet in OCTETS for lane in octet.lanes) == list(range(32))


@each_layout
@each_operand
def test_a_load_puts_the_low_half_first(operand: Operand, layout: str) -> None:
    tile = numbered(operand)
    memory = np.ascontiguousarray(tile if layout == "row" else tile.T).reshape(-1)
    registers = load(operand, memory, 16, layout)
    assert registers.shape == (32, operand.registers)
    assert registers.dtype == np.uint32
    lane = 22
    expected = [tile[published(operand, layout, lane, i)] for i in range(operand.elements)]
    assert values(operand, registers)[lane].tolist() == expected
    if operand.per_register == 2:
        low = int(np.asarray(expected[0]).view(np.uint16))
        assert int(registers[lane, 0]) & 0xFFFF == low


@pytest.mark.parametrize("operand", [A, B])
def test_four_neighbours_in_memory_are_one_set_of_a_lane(operand: Operand) -> None:
    """LD.E.64 or half an LD.E.128: each pair of registers is 8 consecutive bytes."""
    for layout in ("row", "col"):
        found = values(operand, load(operand, np.arange(256, dtype=np.float16), 16, layout))
        sets = found.reshape(32, 4, 4)
        assert (sets == sets[..., :1] + np.arange(4)).all()
        assert (sets[..., 0] % 4 == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    operand=st.sampled_from(OPERANDS),
    layout=st.sampled_from(("row", "col")),
    wider=st.integers(0, 6),
    down=st.integers(0, 3),
    right=st.integers(0, 2),
)
def test_tiles_of_a_wider_matrix(
    operand: Operand, layout: str, wider: int, down: int, right: int
) -> None:
    stride = 8 if operand.dtype == "float16" else 4
    leading = 48 + wider * stride
    matrix = np.random.default_rng(0).standard_normal((20, leading)).astype(operand.dtype)
    align = 16 if operand.dtype == "float16" else 8
    start = right * align + (down * leading // align * align)
    memory = matrix.reshape(-1)
    registers = load(operand, memory, leading, layout, start)
    found = values(operand, registers)
    for lane in (0, 7, 18, 31):
        for i in range(operand.elements):
            row, column = published(operand, layout, lane, i)
            outer, inner = (row, column) if layout == "row" else (column, row)
            assert found[lane, i] == memory[start + outer * leading + inner]
    if operand.copies == 1:
        copy = np.zeros_like(memory)
        store(operand, registers, copy, leading, layout, start)
        inside = start + np.add.outer(np.arange(16) * leading, np.arange(16))
        assert (copy[inside] == memory[inside]).all()
        copy[inside] = 0
        assert not copy.any()


def test_many_tiles_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(1)
    memory = rng.standard_normal(64 * 96).astype(np.float16)
    start = np.array([[0, 16, 32], [16 * 96, 16 * 96 + 48, 80]])
    registers = load(A, memory, 96, "col", start)
    assert registers.shape == (2, 3, 32, 8)
    for index in np.ndindex(2, 3):
        assert (registers[index] == load(A, memory, 96, "col", int(start[index]))).all()
    c = load(ACCUMULATOR_F16, memory, 96, "row", start[:, :2])
    out = np.zeros_like(memory)
    store(ACCUMULATOR_F16, c, out, 96, "row", start[:, :2])
    assert (load(ACCUMULATOR_F16, out, 96, "row", start[:, :2]) == c).all()


def test_signed_zero_nan_and_infinity_keep_their_bits() -> None:
    bits = np.arange(256, dtype=np.uint16) * 257
    bits[:6] = 0x8000, 0x7C00, 0xFC00, 0x7E01, 0x7D01, 1
    memory = bits.view(np.float16)
    out = np.zeros_like(memory)
    store(ACCUMULATOR_F16, load(ACCUMULATOR_F16, memory, 16), out, 16)
    assert (out.view(np.uint16) == bits).all()


def good(**changes: Any) -> Any:
    memory = np.zeros(512, np.float16)
    given: dict[str, Any] = {"operand": A, "memory": memory, "leading_dimension": 16} | changes
    return load(**given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "diagonal"}, "no layout 'diagonal'"),
        ({"leading_dimension": 20}, "20 is not a multiple of 8"),
        ({"leading_dimension": 8}, "from 16"),
        ({"leading_dimension": -16}, "from 16"),
        ({"leading_dimension": 40}, "elements 0 to 615 of 512"),
        ({"start": 272}, "elements 272 to 527 of 512"),
        ({"start": -16}, "at -16"),
        ({"start": [0, 8]}, "at element 8, not a multiple of 16"),
        ({"start": 0.5}, "counts elements"),
        ({"memory": np.zeros((16, 16), np.float16)}, "one-dimensional float16"),
        ({"memory": np.zeros(512, np.float32)}, "one-dimensional float16"),
        ({"memory": np.zeros(1024, np.float16)[::2]}, "one-dimensional float16"),
        ({"operand": ACCUMULATOR_F32}, "one-dimensional float32"),
    ],
)
def test_what_the_hardware_would_not_take_is_refused(changes: dict[str, Any], said: str) -> None:
    good()
    with pytest.raises(FragmentError, match=said) as caught:
        good(**changes)
    assert isinstance(caught.value, TvmconvError)


def test_a_store_refuses_operands_and_registers_of_another_shape() -> None:
    memory = np.zeros(512, np.float32)
    registers = np.zeros((2, 32, 8), np.uint32)
    store(ACCUMULATOR_F32, registers, memory, 16, start=[0, 256])
    with pytest.raises(FragmentError, match="A is not stored"):
        store(A, registers, memory, 16, start=[0, 256])
    with pytest.raises(FragmentError, match=r"not uint32\(32, 8\)"):
        store(ACCUMULATOR_F32, registers, memory, 16)
    with pytest.raises(FragmentError, match="registers are float32"):
        store(ACCUMULATOR_F32, registers[0].view(np.float32), memory, 16)
