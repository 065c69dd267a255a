"""The instructions, lanes, registers and results that an element of a matrix reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from intrinsics.volta.fragments import TILE, A, B, FragmentError, Holders, Operand, held
from intrinsics.volta.hmma import Instruction, Program, wiring

Index = NDArray[np.intp]


class Place(NamedTuple):
    """A register of the warp in which an element is read, and its half (0 for 32-bit elements)."""

    lane: int
    register: int
    half: int


@dataclass(frozen=True)
class Touch:
    """One instruction that reads an element."""

    instruction: Instruction
    #: Sorted by lane.
    places: tuple[Place, ...]
    #: (row, column) of each element of D that it computes from the element.
    results: tuple[tuple[int, int], ...]


def touches(program: Program, operand: Operand, row: int, column: int) -> tuple[Touch, ...]:
    """Returns the instructions of one WMMA that read [row, column] of an operand, in order.

    For the accumulator these are the instructions that add to it. Raises `FragmentError` for an
    element outside of the tile, and for an accumulator that is not the program's.
    """
    names = {A: "a", B: "b", program.form.accumulator: "c"}
    if operand not in names:
        raise FragmentError(
            f"{operand.name} of {operand.dtype} is not an operand of {program.form.name}"
        )
    if row not in range(TILE) or column not in range(TILE):
        raise FragmentError(f"no element [{row}, {column}] in a tile of {TILE} x {TILE}")
    found = (_touch(i, names[operand], row, column) for i in program.instructions)
    return tuple(touch for touch in found if touch.places)


def elements(instruction: Instruction, name: str) -> tuple[Index, Index]:
    """Returns row and column of the elements that an instruction reads or writes.

    name: ``"a"``, ``"b"``, ``"c"`` or ``"d"``; the axes are those of `hmma.Wiring`.
    """
    accumulator = instruction.form.accumulator
    operand, layout, pair = {
        "a": (A, instruction.a_layout, instruction.set - 1),
        "b": (B, instruction.b_layout, instruction.set - 1),
    }.get(name, (accumulator, "row", instruction.step))
    at: Holders = getattr(wiring(instruction), name)
    # Numbered within the fragment, of which this is pair number `pair`.
    register = at.register - getattr(instruction, name) + 2 * pair
    rows, columns = held(operand, layout)
    element = register * operand.per_register + at.half
    return rows[at.lane, element], columns[at.lane, element]


def _touch(instruction: Instruction, name: str, row: int, column: int) -> Touch:
    at: Holders = getattr(wiring(instruction), name)
    rows, columns = elements(instruction, name)
    here: Any = (rows == row) & (columns == column)
    parts = (at.lane[here], at.register[here], at.half[here])
    places = sorted({Place(*map(int, place)) for place in zip(*parts, strict=True)})
    # Broadcast to the axes of D: octet, threadgroup, row, column.
    if name == "a":
        here = here.any(axis=-1)[..., None]
    elif name == "b":
        here = here.any(axis=-1)[:, None, None]
    d_rows, d_columns = elements(instruction, "d")
    reached = np.broadcast_to(here, d_rows.shape)
    results = zip(d_rows[reached].tolist(), d_columns[reached].tolist(), strict=True)
    return Touch(instruction, tuple(places), tuple(sorted(results)))
