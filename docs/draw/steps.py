"""The instructions of one WMMA as a filmstrip: what each reads, and which pieces it computes."""

from __future__ import annotations

from collections import defaultdict

from docs.draw.svg import Picture, of_threadgroup
from intrinsics.volta import timing
from intrinsics.volta.fragments import OCTETS, THREADS, TILE
from intrinsics.volta.hmma import PROGRAM_F32, Instruction, Program, wiring
from intrinsics.volta.touches import elements

CELL, GAP = 7, 10
#: A frame: two matrices beside each other, and two above each other.
SIDE = 2 * TILE * CELL + GAP
#: First row, first column, rows and columns of a piece of a matrix.
Block = tuple[int, int, int, int]


def filmstrip(program: Program = PROGRAM_F32) -> str:
    """A row for each set, a frame for each step."""
    steps = program.form.steps
    left, top, right, below = 108, 150, 30, 34
    width = left + steps * (SIDE + right)
    picture = Picture(width, top + 4 * (SIDE + below) - 10, "The steps of one WMMA")
    picture.text(24, 34, f"{len(program.instructions)} steps", "ink bold", 20)
    words = (
        "In each frame A is on the left, B above, D where they meet. Bright: what the instruction "
        "reads and the pieces it computes,",
        "in the colours of the threadgroups whose registers these are; two colours: read from both."
        " Pale: pieces that the set has done already.",
    )
    for i, line in enumerate(words):
        picture.text(24, 62 + 18 * i, line, "soft")
    for instruction in program.instructions:
        x = left + instruction.step * (SIDE + right)
        y = top + (instruction.set - 1) * (SIDE + below)
        if instruction.set == 1:
            _step(picture, instruction, x)
        if instruction.step == 0:
            _set(picture, instruction, y)
        _frame(picture, program, instruction, x, y)
    return str(picture)


def _step(picture: Picture, instruction: Instruction, x: float) -> None:
    rows, columns = instruction.rows, instruction.columns
    picture.text(x, 110, f"step {instruction.step}", "ink bold", 14)
    picture.text(x + SIDE, 110, f"D: R{instruction.d}, R{instruction.d + 1}", "mono ink end", 11)
    words = f"rows {rows[0]}-{rows[-1]} of 4, columns {columns[0]}-{columns[-1]} of 8"
    picture.text(x, 130, words, "soft", 11)


def _set(picture: Picture, instruction: Instruction, y: float) -> None:
    words = (
        (f"set {instruction.set}", "ink bold", 14),
        (f"k = {instruction.k[0]}-{instruction.k[-1]}", "soft", 12),
        (f"A: R{instruction.a},", "mono ink", 11),
        (f"   R{instruction.a + 1}", "mono ink", 11),
        (f"B: R{instruction.b},", "mono ink", 11),
        (f"   R{instruction.b + 1}", "mono ink", 11),
    )
    for i, (text, kind, size) in enumerate(words):
        shift = len(text) - len(text.lstrip())
        picture.text(24 + 6.7 * shift, y + SIDE / 2 + 12 + 18 * i, text.lstrip(), kind, size)


def _frame(
    picture: Picture, program: Program, instruction: Instruction, x: float, y: float
) -> None:
    far = TILE * CELL + GAP
    places = {"a": (x, y + far), "b": (x + far, y), "d": (x + far, y + far)}
    for at in places.values():
        picture.grid(*at, TILE, TILE, CELL, CELL)
    for other in program.instructions:
        if other.set == instruction.set and other.step < instruction.step:
            for block in blocks(other, "d"):
                _block(picture, "d", places["d"], block, ["pale"])
    for name, at in places.items():
        for block, groups in blocks(instruction, name).items():
            _block(picture, name, at, block, [of_threadgroup(group) for group in groups])
    d_x, d_y = places["d"]
    middle, end = d_x + TILE / 2 * CELL, TILE * CELL
    across = (d_x, d_y + end / 2, d_x + end, d_y + end / 2)
    picture.lines([(middle, d_y, middle, d_y + end), across], "rule", 0.75)
    cycle = timing.completes(instruction)
    name, d, a, b, c = str(instruction).split()
    head, _, tail = name.rpartition(".")
    for i, words in enumerate((head, f".{tail}", f"{d} {a}", f"{b} {c}")):
        picture.text(x, y + 6 + 14 * i, words, "mono soft", 10)
    picture.text(x, y + far - 18, f"done at cycle {cycle}", "ink", 11)


def blocks(instruction: Instruction, name: str) -> dict[Block, list[int]]:
    """What the instruction reads of "a" or "b", or writes of "d": whose registers each piece is.

    Keys are rectangles, values threadgroups. Raises ``ValueError`` where some are none.
    """
    lane = getattr(wiring(instruction), name).lane
    group = lane // THREADS
    rows, columns = elements(instruction, name)
    found: dict[Block, list[int]] = defaultdict(list)
    for number in range(2 * len(OCTETS)):
        of = group == number
        if of.any():
            places = set(zip(rows[of].tolist(), columns[of].tolist(), strict=True))
            found[_rectangle(places)].append(number)
    return dict(found)


def _rectangle(places: set[tuple[int, int]]) -> Block:
    rows, columns = ({place[axis] for place in places} for axis in range(2))
    block = min(rows), min(columns), max(rows) - min(rows) + 1, max(columns) - min(columns) + 1
    if len(places) != block[2] * block[3]:
        raise ValueError(f"{sorted(places)} are no rectangle")
    return block


def _block(
    picture: Picture, name: str, at: tuple[float, float], block: Block, fills: list[str]
) -> None:
    """A piece of a matrix that begins at ``at``. Of several colours each row of A has its share,
    and each column of B: across k, as every owner holds all of the piece."""
    row, column, rows, columns = block
    x, y = at[0] + column * CELL, at[1] + row * CELL
    wide, high = columns * CELL, rows * CELL
    share = CELL / len(fills)
    if len(fills) == 1:
        picture.rect(x, y, wide, high, fills[0])
        ends = [(x + i * CELL, y, x + i * CELL, y + high) for i in range(1, columns)]
        ends += [(x, y + i * CELL, x + wide, y + i * CELL) for i in range(1, rows)]
        picture.lines(ends, "grid", 0.6)
    elif name == "a":
        for i in range(rows * len(fills)):
            picture.rect(x, y + i * share, wide, share, fills[i % len(fills)])
    else:
        for i in range(columns * len(fills)):
            picture.rect(x + i * share, y, share, high, fills[i % len(fills)])
