"""The HMMA instructions: products bit for bit, and each step's piece and registers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from intrinsics import emulate, get
from intrinsics.volta.fragments import A, B, FragmentError, load, store
from intrinsics.volta.hmma import (
    F16,
    F32,
    PROGRAM_F16,
    PROGRAM_F32,
    Form,
    Program,
    State,
    program,
    run,
    step,
    wiring,
    wmma,
)

FORMS = (F32, F16)
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
each_layouts = pytest.mark.parametrize(
    ("a_layout", "b_layout"), [(a, b) for a in ("row", "col") for b in ("row", "col")]
)


def in_order(a: Any, b: Any, c: Any) -> Any:
    """k ascending, every addition rounded to fp32, the sum to c's dtype."""
    total = c.astype(np.float32)
    for k in range(4):
        total = total + a[..., k].astype(np.float32) * b[..., k].astype(np.float32)
    return total.astype(c.dtype)


def in_memory(tiles: Any, layout: str) -> Any:
    return np.ascontiguousarray(tiles if layout == "row" else tiles.swapaxes(-1, -2)).reshape(-1)


def random_tiles(form: Form, count: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(5)
    shape = (count, 16, 16)
    a, b = ((rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 5, shape)) for _ in range(2))
    c = rng.standard_normal(shape)
    return a.astype(np.float16), b.astype(np.float16), c.astype(form.accumulator.dtype)


def fragments_of(program: Program, a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
    starts = np.arange(len(a)) * 256
    return (
        load(A, in_memory(a, program.a_layout), 16, program.a_layout, starts),
        load(B, in_memory(b, program.b_layout), 16, program.b_layout, starts),
        load(program.form.accumulator, in_memory(c, "row"), 16, "row", starts),
    )


def expected(a: Any, b: Any, c: Any) -> Any:
    """All of k at once but in the order of the sets, on whole tiles."""
    for k in range(0, 16, 4):
        c = in_order(a[:, :, None, k : k + 4], b.swapaxes(1, 2)[:, None, :, k : k + 4], c)
    return c


@each_layouts
@each_form
def test_a_thousand_tiles_bit_for_bit(form: Form, a_layout: str, b_layout: str) -> None:
    made = program(form, a_layout, b_layout)
    a, b, c = random_tiles(form, 1000)
    registers = wmma(made, *fragments_of(made, a, b, c), in_order)
    out = np.empty(256_000, form.accumulator.dtype)
    store(form.accumulator, registers, out, 16, "col", np.arange(1000) * 256)
    bits = f"u{out.itemsize}"
    found = out.reshape(1000, 16, 16).swapaxes(1, 2).copy().view(bits)
    assert (found == expected(a, b, c).view(bits)).all()


def test_in_the_order_of_the_record_it_is_the_record() -> None:
    """The compiler's m16n16k16 adds in ascending k, and so does this, set after set."""
    a, b, c = random_tiles(F32, 2)
    registers = wmma(PROGRAM_F32, *fragments_of(PROGRAM_F32, a, b, c), in_order)
    out = np.empty(512, np.float32)
    store(F32.accumulator, registers, out, 16, "row", [0, 256])
    for tile in range(2):
        meant = emulate.mma(get(16, 16, 16), a[tile], b[tile], c[tile])
        assert (out.reshape(2, 16, 16)[tile].view(np.uint32) == meant.view(np.uint32)).all()


def test_tiles_of_a_and_b_broadcast() -> None:
    a, b, c = random_tiles(F32, 6)
    fragment_a, fragment_b, fragment_c = fragments_of(PROGRAM_F32, a, b, c)
    zero = np.zeros_like(fragment_c[0])
    many = wmma(PROGRAM_F32, fragment_a[:2, None], fragment_b[None, 2:5], zero, in_order)
    assert many.shape == (2, 3, 32, 8)
    one = wmma(PROGRAM_F32, fragment_a[1], fragment_b[4], zero, in_order)
    assert (many[1, 2] == one).all()


@each_form
def test_a_step_changes_its_own_registers_and_nothing_of_the_state_given(form: Form) -> None:
    made = program(form)
    a, b, c = random_tiles(form, 3)
    state = State.of(made, *fragments_of(made, a, b, c))
    for instruction in made.instructions:
        before = state.registers.copy()
        after = step(state, instruction, in_order)
        assert (state.registers == before).all()
        changed = (after.registers != before).any(axis=(0, 1))
        assert np.flatnonzero(changed).tolist() == [instruction.d, instruction.d + 1]
        again = step(state, instruction, in_order)
        assert (again.registers == after.registers).all()
        state = after
    whole = run(State.of(made, *fragments_of(made, a, b, c)), made.instructions, in_order)
    assert (state.registers == whole.registers).all()


# Raihan et al., figure 10 and table III: rows of a threadgroup's four, columns of its octet's
# eight, and which threadgroup of the octet B comes from.
STEPS_F32 = {
    0: (range(2), range(4), "lower"),
    1: (range(2, 4), range(4), "lower"),
    2: (range(2), range(4, 8), "upper"),
    3: (range(2, 4), range(4, 8), "upper"),
}
STEPS_F16 = {0: (range(4), range(4), "lower"), 1: (range(4), range(4, 8), "upper")}


@each_layouts
@each_form
def test_each_step_computes_the_published_piece_of_the_published_operands(
    form: Form, a_layout: str, b_layout: str
) -> None:
    table = STEPS_F32 if form is F32 else STEPS_F16
    for instruction in program(form, a_layout, b_layout).instructions:
        rows, columns, source = table[instruction.step]
        assert (instruction.rows, instruction.columns) == (rows, columns)
        k = 4 * (instruction.set - 1)
        assert instruction.k == range(k, k + 4)
        wires = wiring(instruction)
        for octet in range(4):
            own = {4 * octet + t for t in range(4)} | {16 + 4 * octet + t for t in range(4)}
            lower = {lane for lane in own if lane < 16}
            assert set(wires.b.lane[octet].flat) == (lower if source == "lower" else own - lower)
            for upper, group in enumerate((lower, own - lower)):
                assert set(wires.a.lane[octet, upper].flat) <= group
                assert set(wires.d.lane[octet, upper].flat) == group
        # Of a column-major A two rows are one register, which is all that steps of two rows read.
        one = form is F32 and a_layout == "col"
        a_pair = {instruction.a + rows.start // 2} if one else {instruction.a, instruction.a + 1}
        assert set(wires.a.register.flat) == a_pair
        assert set(wires.b.register.flat) == {instruction.b, instruction.b + 1}
        assert set(wires.c.register.flat) == {instruction.c, instruction.c + 1}


def test_one_element_reaches_only_the_lanes_and_steps_that_use_it() -> None:
    """A[5, 9]: set 3, upper threadgroups of octets 0 and 2, steps 0 and 2, row 5."""
    made = PROGRAM_F32
    a, b = np.zeros((1, 16, 16), np.float16), np.ones((1, 16, 16), np.float16)
    c = np.zeros((1, 16, 16), np.float32)
    a[0, 5, 9] = 3
    state = State.of(made, *fragments_of(made, a, b, c))
    touched = {}
    for instruction in made.instructions:
        after = step(state, instruction, in_order)
        lanes = np.flatnonzero((after.registers != state.registers).any(axis=(0, 2)))
        if lanes.size:
            touched[instruction.set, instruction.step] = set((lanes // 4).tolist())
        state = after
    assert touched == {(3, 0): {4, 6}, (3, 2): {4, 6}}


def test_the_listings() -> None:
    """The disassembled ones of Raihan et al., with the layouts of this project's default."""
    text = [str(instruction) for instruction in PROGRAM_F32.instructions]
    assert text[0] == "HMMA.884.F32.F32.STEP0 R8, R24.ROW, R22.COL, R8"
    assert text[7] == "HMMA.884.F32.F32.STEP3 R6, R20.ROW, R18.COL, R6"
    assert text[14] == "HMMA.884.F32.F32.STEP2 R4, R16.ROW, R2.COL, R4"
    assert [i.d for i in PROGRAM_F32.instructions] == [8, 10, 4, 6] * 4
    pairs = [(i.a, i.b) for i in PROGRAM_F32.instructions[::4]]
    assert pairs == [(24, 22), (20, 18), (14, 12), (16, 2)]
    text = [str(instruction) for instruction in PROGRAM_F16.instructions]
    assert text[0] == "HMMA.884.F16.F16.STEP0 R4, R22.ROW, R12.COL, R4"
    assert text[7] == "HMMA.884.F16.F16.STEP1 R6, R2.ROW, R10.COL, R6"
    pairs = [(i.a, i.b) for i in PROGRAM_F16.instructions[::2]]
    assert pairs == [(22, 12), (16, 14), (18, 8), (2, 10)]


def test_an_instruction_reads_c_and_writes_d() -> None:
    a, b, c = random_tiles(F32, 2)
    state = State.of(PROGRAM_F32, *fragments_of(PROGRAM_F32, a, b, c))
    instruction = PROGRAM_F32.instructions[0]
    plain = step(state, instruction, in_order).registers
    moved = step(state, replace(instruction, d=0), in_order).registers
    assert (moved[..., 0:2] == plain[..., 8:10]).all()
    assert (moved[..., 2:] == state.registers[..., 2:]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"set": 0}, "sets are 1 to 4"),
        ({"set": 5}, "sets are 1 to 4"),
        ({"step": 4}, "steps are 0 to 3"),
        ({"a": 23}, "even register"),
        ({"d": 26}, "even register below 26"),
        ({"b_layout": "tile"}, "layouts are"),
    ],
)
def test_there_is_no_such_instruction(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(PROGRAM_F32.instructions[0], **changes)


def test_fragments_that_do_not_fit_a_program() -> None:
    eight, four = np.zeros((2, 32, 8), np.uint32), np.zeros((2, 32, 4), np.uint32)
    State.of(PROGRAM_F16, eight, eight, four)
    with pytest.raises(FragmentError, match=r"C's registers are uint32\(2, 32, 8\), not .* 4\)"):
        State.of(PROGRAM_F16, eight, eight, eight)
    with pytest.raises(FragmentError, match="A's registers are float32"):
        State.of(PROGRAM_F32, eight.view(np.float32), eight, eight)
    with pytest.raises(FragmentError, match="do not broadcast"):
        State.of(PROGRAM_F32, eight, np.zeros((3, 32, 8), np.uint32), eight)
    with pytest.raises(ValueError, match="layouts are"):
        program(F32, "rows")
