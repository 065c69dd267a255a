"""Who holds what: the fragments of Volta's WMMA, and those of mma.sync m16n8k16."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from docs.draw.svg import OCTETS, Picture, of_threadgroup
from intrinsics.mma_sync import M16N8K16, Fragment
from intrinsics.volta import fragments
from intrinsics.volta.fragments import TILE, A, B, Operand
from intrinsics.volta.hmma import PROGRAM_F32, Program

#: Of one element: its width in A, its height in B, a cell of C.
K_WIDE, K_HIGH, WIDE, HIGH = 22, 16, 46, 28
_MAJOR = {"row": "row", "col": "column"}


def volta() -> str:
    """A left of C, B above it, so that a row and a column meet in what they make."""
    program = PROGRAM_F32
    a_x, b_y = 58, 62
    c_x, c_y = a_x + TILE * K_WIDE + 62, b_y + TILE * K_HIGH + 64
    picture = Picture(c_x + TILE * WIDE + 60, c_y + TILE * HIGH + 30, "Who holds what on Volta")
    _legend(picture, a_x - 34, 34)
    _operand(picture, A, program, a_x, c_y)
    _operand(picture, B, program, c_x, b_y)
    _accumulator(picture, program, c_x, c_y)
    for i in range(TILE):
        picture.text(a_x - 8, c_y + (i + 0.5) * HIGH, str(i), "soft end", 11)
        picture.text(a_x + (i + 0.5) * K_WIDE, c_y - 9, str(i), "soft middle", 11)
        picture.text(c_x + (i + 0.5) * WIDE, b_y - 9, str(i), "soft middle", 11)
        picture.text(c_x - 8, b_y + (i + 0.5) * K_HIGH, str(i), "soft end", 11)
    picture.text(
        a_x, c_y - 48, f"A, {_MAJOR[program.a_layout]}-major: row m, column k", "ink bold", 14
    )
    picture.text(
        c_x, b_y - 32, f"B, {_MAJOR[program.b_layout]}-major: row k, column n", "ink bold", 14
    )
    picture.text(c_x, c_y - 22, "C and D: row m, column n; lane and register", "ink bold", 14)
    return str(picture)


def _legend(picture: Picture, x: float, y: float) -> None:
    picture.text(x, y, "Who holds what", "ink bold", 20)
    picture.text(x, y + 28, "The 32 lanes of a warp are eight threadgroups of four;", "soft")
    picture.text(x, y + 46, "two of them, of one colour, are an octet.", "soft")
    for octet in fragments.OCTETS:
        top = y + 70 + 34 * octet.number
        picture.text(x, top + 13, f"octet {octet.number}", "ink")
        for part, group in enumerate(octet.threadgroups):
            left = x + 62 + 170 * part
            lanes = octet.lanes[4 * part : 4 * part + 4]
            picture.rect(left, top, 162, 26, OCTETS[octet.number][part], radius=4)
            words = f"threadgroup {group}: lanes {lanes[0]}-{lanes[-1]}"
            picture.text(left + 81, top + 13, words, "dark middle", 11)
    picture.text(x, y + 222, "A box of A or B is four elements, of consecutive k. Two", "soft")
    picture.text(x, y + 240, "lanes hold all four, in the registers named beside it.", "soft")


def boxes(operand: Operand, layout: str) -> Iterator[tuple[int, range, list[int], int]]:
    """Of A by row and of B by column: elements of neighbouring k in the same lanes' pair.

    Gives the row (column), the range of k, the lanes, and the pair's number.
    """
    at = fragments.holders(operand, layout)
    lanes, pairs = at.lane, at.register // 2
    if operand is B:
        lanes, pairs = lanes.swapaxes(0, 1), pairs.swapaxes(0, 1)
    for other in range(TILE):
        keys = [(tuple(lanes[other, k]), tuple(pairs[other, k])) for k in range(TILE)]
        for (who, pair), run in groupby(range(TILE), key=keys.__getitem__):
            found = list(run)
            (number,) = set(pair)
            yield other, range(found[0], found[-1] + 1), [int(lane) for lane in who], int(number)


def _operand(picture: Picture, operand: Operand, program: Program, x: float, y: float) -> None:
    layout = program.a_layout if operand is A else program.b_layout
    wide, high = (K_WIDE, HIGH) if operand is A else (WIDE, K_HIGH)
    names = program.a_registers if operand is A else program.b_registers
    width: float
    for other, k, lanes, pair in boxes(operand, layout):
        # Split between the lanes across k, as each of them holds the whole box.
        for part, lane in enumerate(lanes):
            at = other + part / len(lanes)
            if operand is A:
                left, top = x + k.start * wide, y + at * high
                width, height = len(k) * wide, high / len(lanes)
            else:
                left, top = x + at * wide, y + k.start * high
                width, height = wide / len(lanes), float(len(k) * high)
            picture.rect(left, top, width, height, of_threadgroup(fragments.threadgroup(lane)))
            middle = left + width / 2, top + height / 2
            picture.text(*middle, str(lane), "dark middle bold", 11)
        if other == 0:
            text = [f"R{name}" for name in names[2 * pair : 2 * pair + 2]]
            along = k.start + len(k) / 2
            if operand is A:
                picture.text(x + along * wide, y - 27, ", ".join(text), "mono ink middle", 11)
            else:
                picture.text(x + TILE * wide + 8, y + along * high - 7, text[0], "mono ink", 11)
                picture.text(x + TILE * wide + 8, y + along * high + 7, text[1], "mono ink", 11)
    across = [(x, y + i * high, x + TILE * wide, y + i * high) for i in range(1, TILE)]
    down = [(x + i * wide, y, x + i * wide, y + TILE * high) for i in range(1, TILE)]
    picture.lines(across if operand is A else across[3::4], "grid", 1.5)
    picture.lines(down if operand is B else down[3::4], "grid", 1.5)


def _accumulator(picture: Picture, program: Program, x: float, y: float) -> None:
    at = fragments.holders(program.form.accumulator, "row")
    for row, column in np.ndindex(TILE, TILE):
        lane, register = int(at.lane[row, column, 0]), int(at.register[row, column, 0])
        left, top = x + column * WIDE, y + row * HIGH
        color = of_threadgroup(fragments.threadgroup(lane))
        picture.rect(left, top, WIDE - 1, HIGH - 1, color)
        picture.text(left + 19, top + HIGH / 2 - 0.5, str(lane), "dark end bold")
        name = f"R{program.d_registers[register]}"
        picture.text(left + 22, top + HIGH / 2, name, "mono dark", 9.5)
    for octet in fragments.OCTETS:
        left, top = x + octet.column * WIDE, y + octet.row * HIGH
        picture.outline(left - 0.5, top - 0.5, 8 * WIDE, 8 * HIGH)


def later() -> str:
    """mma.sync m16n8k16, fp16 operands, fp32 accumulators: the same picture from other records."""
    wide, k_high = 54, 18
    shapes = {name: M16N8K16.shape(name) for name in "abc"}
    (m, k), (_, n) = shapes["a"], shapes["c"]
    a_x, b_y = 58, 70
    c_x, c_y = a_x + k // 2 * wide + 62, b_y + k * k_high + 60
    picture = Picture(c_x + n * wide + 30, c_y + m * HIGH + 30, "Who holds what in m16n8k16")
    picture.text(24, 34, "mma.sync m16n8k16", "ink bold", 20)
    words = (
        "Ampere and later: two instructions, HMMA.16816, one",
        "for each eight columns, do what takes sixteen on Volta.",
        "Every element is held once; there are no octets.",
        "",
        "Here a box of A or B is one register of one lane,",
        "two elements. The registers of a lane are a0 to a3,",
        "b0, b1 and c0 to c3, its accumulators in fp32.",
        "",
        "Colours: lanes 4 g to 4 g + 3.",
    )
    for i, line in enumerate(words):
        picture.text(24, 64 + 18 * i, line, "soft")
    for group in range(8):
        left, top = 24 + group % 4 * 100, 232 + group // 4 * 34
        picture.rect(left, top, 92, 26, of_threadgroup(group), radius=4)
        text = f"lanes {4 * group}-{4 * group + 3}"
        picture.text(left + 46, top + 13, text, "dark middle", 11)
    cells = {"a": (a_x, c_y, wide / 2, HIGH), "b": (c_x, b_y, wide, k_high)}
    for name, (x, y, width, height) in {**cells, "c": (c_x, c_y, wide, HIGH)}.items():
        for rows, columns, lane, register in registers(name):
            box = (x + columns.start * width, y + rows.start * height)
            size = (len(columns) * width, len(rows) * height)
            picture.rect(*box, size[0] - 1, size[1] - 1, of_threadgroup(lane // 4))
            middle = box[0] + size[0] / 2, box[1] + size[1] / 2
            picture.text(middle[0] - 5, middle[1] - 0.5, str(lane), "dark end bold")
            picture.text(middle[0], middle[1], f"{name}{register}", "mono dark", 10.5)
    _numbers(picture, (a_x, c_y), (wide / 2, HIGH), (m, k))
    _numbers(picture, (c_x, b_y), (wide, k_high), (k, n))
    picture.text(a_x, c_y - 30, "A: row m, column k", "ink bold", 14)
    picture.text(c_x, b_y - 32, "B: row k, column n", "ink bold", 14)
    picture.text(c_x, c_y - 16, "C and D: row m, column n", "ink bold", 14)
    return str(picture)


def _numbers(picture: Picture, at: Any, cell: Any, shape: tuple[int, int]) -> None:
    for i in range(shape[0]):
        picture.text(at[0] - 8, at[1] + (i + 0.5) * cell[1], str(i), "soft end", 11)
    for i in range(shape[1]):
        picture.text(at[0] + (i + 0.5) * cell[0], at[1] - 9, str(i), "soft middle", 11)


def registers(name: str) -> Iterator[tuple[range, range, int, int]]:
    """Of m16n8k16's a, b or c: rows and columns of a register's elements, its lane, its number."""
    fragment = Fragment.of(name, M16N8K16)
    lane, number = fragment.places()
    register = number // fragment.per_register
    for key in sorted(set(zip(lane.flat, register.flat, strict=True))):
        rows, columns = np.nonzero((lane == key[0]) & (register == key[1]))
        yield (
            range(int(rows.min()), int(rows.max()) + 1),
            range(int(columns.min()), int(columns.max()) + 1),
            int(key[0]),
            int(key[1]),
        )
