"""What is said to read an element against what changes when the element does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intrinsics.volta.fragments import ACCUMULATOR_F16, ACCUMULATOR_F32, A, B, FragmentError, held
from intrinsics.volta.hmma import F16, F32, PROGRAM_F16, PROGRAM_F32, State, program, step
from intrinsics.volta.touches import elements, touches
from tests.intrinsics.volta.test_hmma import fragments_of, in_order

PROGRAMS = [
    program(form, a, b) for form in (F32, F16) for a in ("row", "col") for b in ("row", "col")
]
each_program = pytest.mark.parametrize(
    "made", PROGRAMS, ids=lambda made: f"{made.form.name}-{made.a_layout}-{made.b_layout}"
)


def ones(made: Any, **changed: Any) -> State:
    dtypes = {"a": "float16", "b": "float16", "c": made.form.accumulator.dtype}
    matrices = {name: np.ones((1, 16, 16), dtype) for name, dtype in dtypes.items()}
    for name, at in changed.items():
        matrices[name][0][at] = 3
    state = State.of(made, *fragments_of(made, *matrices.values()))
    return State(state.registers[0])


def differing(made: Any, one: State, other: State) -> set[tuple[int, int]]:
    """Elements of the accumulator, out of the registers of two states."""
    values = [
        np.ascontiguousarray(state.accumulator(made)).view(made.form.accumulator.dtype)
        for state in (one, other)
    ]
    where = values[0] != values[1]
    row, column = held(made.form.accumulator, "row")
    return set(zip(row[where].tolist(), column[where].tolist(), strict=True))


@each_program
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("at", [(0, 0), (5, 9), (15, 15), (10, 4), (3, 14)])
def test_what_changes_is_what_is_touched(made: Any, name: str, at: tuple[int, int]) -> None:
    """Two warps, one element apart, step by step; each step from the same accumulators."""
    found = {touch.instruction: touch for touch in touches(made, A if name == "a" else B, *at)}
    state, other = ones(made), ones(made, **{name: at})
    places = np.argwhere(state.registers != other.registers)
    read = {(p.lane, p.register) for touch in found.values() for p in touch.places}
    assert read == {tuple(place) for place in places.tolist()}
    for instruction in made.instructions:
        after = step(state, instruction, in_order)
        changed = differing(made, after, step(other, instruction, in_order))
        results = found[instruction].results if instruction in found else ()
        assert changed == set(results)
        assert len(results) == len(changed)
        other.registers[..., made.d_registers] = after.registers[..., made.d_registers]
        state = after


@each_program
def test_a_half_is_where_it_is_said_to_be(made: Any) -> None:
    for name, operand in (("a", A), ("b", B)):
        state = ones(made, **{name: (6, 11)})
        for touch in touches(made, operand, 6, 11):
            for lane, register, half in touch.places:
                word = int(state.registers[lane, register])
                assert word >> 16 * half & 0xFFFF == 0x4200
                assert word >> 16 * (1 - half) & 0xFFFF == 0x3C00


@each_program
def test_an_accumulator_is_touched_once_a_set_in_one_lane(made: Any) -> None:
    state = ones(made, c=(9, 2))
    found = touches(made, made.form.accumulator, 9, 2)
    assert [touch.instruction.set for touch in found] == [1, 2, 3, 4]
    assert {touch.results for touch in found} == {((9, 2),)}
    (place,) = {place for touch in found for place in touch.places}
    (changed,) = np.argwhere(state.registers != ones(made).registers).tolist()
    assert [place.lane, place.register] == changed


def test_the_notes_on_one_element() -> None:
    """A[5, 9]: set 3, rows 4 to 7 of threadgroups 4 and 6, steps 0 and 2, R14 and the high half."""
    found = touches(PROGRAM_F32, A, 5, 9)
    assert [(t.instruction.set, t.instruction.step) for t in found] == [(3, 0), (3, 2)]
    assert {t.places for t in found} == {((17, 14, 1), (25, 14, 1))}
    assert sorted(c for t in found for _, c in t.results) == list(range(16))
    assert {r for t in found for r, _ in t.results} == {5}


@each_program
def test_every_instruction_reads_each_of_its_operands_elements(made: Any) -> None:
    for instruction in made.instructions:
        row, k = elements(instruction, "a")
        assert set(row.flat) == {4 * i + r for i in range(4) for r in instruction.rows}
        assert set(k.flat) == set(instruction.k)
        k, column = elements(instruction, "b")
        assert set(k.flat) == set(instruction.k)
        assert set(column.flat) == {8 * i + c for i in range(2) for c in instruction.columns}
        pairs = (elements(instruction, name) for name in "cd")
        assert all((x == y).all() for x, y in zip(*pairs, strict=True))


def test_elements_there_are_none_of() -> None:
    with pytest.raises(FragmentError, match=r"no element \[16, 0\]"):
        touches(PROGRAM_F32, A, 16, 0)
    with pytest.raises(FragmentError, match=r"no element \[0, -1\]"):
        touches(PROGRAM_F32, B, 0, -1)
    with pytest.raises(FragmentError, match="C of float16 is not an operand of F32"):
        touches(PROGRAM_F32, ACCUMULATOR_F16, 0, 0)
    assert touches(PROGRAM_F16, ACCUMULATOR_F16, 0, 0)
    assert touches(PROGRAM_F32, ACCUMULATOR_F32, 0, 0)
