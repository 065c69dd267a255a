"""The listing of one WMMA: each instruction, its cycle, and one lane's part of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from intrinsics.volta import fragments, timing
from intrinsics.volta.fragments import LANES, OCTETS, A, B, FragmentError
from intrinsics.volta.hmma import REGISTERS, Fused, Instruction, Program, State, step, wiring


def trace(program: Program, state: State, fused: Fused, lane: int = 0) -> str:
    """Returns the listing as text.

    Each instruction has its cumulative cycle, set, step and SASS, the piece that the lane's octet
    computes, and the lane's operands, with its accumulators before and after.

    state: of one tile, (32, 26) registers, from `State.of`. Raises `FragmentError` for several
    tiles or a lane out of range.
    """
    if state.registers.shape != (LANES, REGISTERS):
        raise FragmentError(
            f"a listing shows one tile, but the registers are {state.registers.shape}",
            hint="`State(state.registers[tile])` selects one",
        )
    if lane not in range(LANES):
        raise FragmentError(f"no lane {lane}", hint=f"lanes are 0 to {LANES - 1}")
    lines = [*_head(program, lane)]
    for instruction in program.instructions:
        after = step(state, instruction, fused)
        lines += _lines(instruction, state, after, lane)
        state = after
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _head(program: Program, lane: int) -> Iterator[str]:
    octet = OCTETS[fragments.octet(lane)]
    part = ("lower", "upper")[fragments.is_upper(lane)]
    accumulator = program.form.accumulator.dtype
    yield (
        f"wmma.mma m16n16k16, A {program.a_layout}-major, B {program.b_layout}-major, "
        f"{accumulator} accumulators: {len(program.instructions)} instructions"
    )
    yield (
        f"lane {lane}: thread {fragments.thread(lane)} of threadgroup {fragments.threadgroup(lane)}"
        f", the {part} of octet {octet.number} (threadgroups {octet.threadgroups[0]} and "
        f"{octet.threadgroups[1]})"
    )
    yield "below, its registers before and after; in parentheses: not used by this instruction"
    yield ""
    yield "cycle  set  step  instruction"


def _lines(instruction: Instruction, before: State, after: State, lane: int) -> Iterator[str]:
    cycle = timing.completes(instruction)
    yield f"{cycle:5d}  {instruction.set:3d}  {instruction.step:4d}  {instruction}"
    octet = OCTETS[fragments.octet(lane)]
    k = _span(instruction.k)
    columns = _span(instruction.columns, octet.column)
    for part, group in enumerate(octet.threadgroups):
        rows = _span(instruction.rows, octet.row + 4 * part)
        yield (
            f"{'':18}octet {octet.number}, threadgroup {group}: "
            f"D[{rows}, {columns}] = A[{rows}, {k}] B[{k}, {columns}] + C[{rows}, {columns}]"
        )
    wires, form = wiring(instruction), instruction.form.accumulator
    yield _values("A", A, instruction.a_layout, instruction, wires.a, before, lane)
    yield _values("B", B, instruction.b_layout, instruction, wires.b, before, lane)
    yield _values("C", form, "row", instruction, wires.c, before, lane)
    yield _values("D", form, "row", instruction, wires.d, after, lane)


def _values(
    name: str,
    operand: fragments.Operand,
    layout: str,
    instruction: Instruction,
    used: fragments.Holders,
    state: State,
    lane: int,
) -> str:
    """Returns the lane's pair of registers: its elements and their values."""
    register = getattr(instruction, name.lower())
    values = np.ascontiguousarray(state.registers[lane, register : register + 2])
    values = values.view(operand.dtype)
    # A pair of A or B belongs to one set; a pair of an accumulator to one step.
    number = instruction.step if operand is instruction.form.accumulator else instruction.set - 1
    row, column = fragments.held(operand, layout)
    mine = used.lane == lane
    places = set(zip(used.register[mine].tolist(), used.half[mine].tolist(), strict=True))
    texts = []
    for i, value in enumerate(values):
        element = number * len(values) + i
        # All digits of an fp16 number, so that products can be checked by hand.
        shown = float(value) if values.dtype == np.float16 else value
        text = f"{name}[{row[lane, element]},{column[lane, element]}] = {shown!s}"
        place = register + i // operand.per_register, i % operand.per_register
        texts.append(text if place in places else f"({text})")
    return f"{'':18}R{register}, R{register + 1}: " + ", ".join(texts)


def _span(values: range, first: int = 0) -> str:
    return f"{values.start + first}:{values.stop + first}"
