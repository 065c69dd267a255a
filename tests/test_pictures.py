"""What the pictures of docs/tensor-core.md show against the simulator's and the published facts."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from docs.draw import holders, steps, sums
from docs.draw.pictures import PICTURES
from intrinsics import mma_sync
from intrinsics.numerics import arithmetic as numerics
from intrinsics.numerics.arithmetic import A100, EXACT, H100, IEEE, V100, Numerics
from intrinsics.volta import fragments, timing
from intrinsics.volta.fragments import A, B
from intrinsics.volta.hmma import F16, F32, PROGRAM_F16, Form, program

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
each_picture = pytest.mark.parametrize("name", PICTURES)


def words(svg: str) -> list[tuple[float, float, str, str, float]]:
    """x, y, classes, text and size of every word, or of every line of them."""
    found = []
    for text in ET.fromstring(svg).iter(f"{SVG}text"):
        size = re.search(r"font-size:([\d.]+)px", text.get("style", ""))
        place = float(text.get("x", "nan")), float(text.get("y", "nan"))
        found.append(
            (*place, text.get("class", ""), text.text or "", float(size[1]) if size else 12)
        )
    return found


# --- files ----------------------------------------------------------------------------------
@each_picture
def test_a_picture_is_what_its_program_draws(name: str) -> None:
    assert (DOCS / "pictures" / f"{name}.svg").read_text() == PICTURES[name]()


@each_picture
def test_a_picture_is_small(name: str) -> None:
    svg = PICTURES[name]()
    assert len(svg) < 150_000
    assert ET.fromstring(svg).tag == f"{SVG}svg"


@each_picture
def test_words_lie_on_the_card_and_not_on_each_other(name: str) -> None:
    """In the widest of the fonts that are asked for, which matplotlib brings along."""
    svg = PICTURES[name]()
    size = [float(ET.fromstring(svg).get(side, "nan")) for side in ("width", "height")]
    boxes = extents(svg)
    assert (boxes[:, :2] > 5).all()
    assert (boxes[:, 2:] < np.array(size) - 5).all()
    # (word, other word): each begins, in both directions, before the other ends.
    meet = (boxes[:, None, :2] < boxes[None, :, 2:]).all(axis=-1)
    assert not np.triu(meet & meet.T, 1).any()


def extents(svg: str) -> np.ndarray:
    """Left, top, right and bottom of all words: (words, 4)."""
    fonts = Path(pytest.importorskip("matplotlib").get_data_path(), "fonts", "ttf")
    image_font = pytest.importorskip("PIL.ImageFont")
    found = []
    for x, y, kind, text, size in words(svg):
        face = f"DejaVuSans{'Mono' * ('mono' in kind)}{'-Bold' * ('bold' in kind)}.ttf"
        wide = image_font.truetype(fonts / face, 100).getlength(text) * size / 100
        left = x - wide * (0.5 if "middle" in kind else "end" in kind)
        found.append((left, y - 0.73 * size, left + wide, y))
    return np.array(found)


def test_the_page_shows_every_picture_there_is() -> None:
    page = (DOCS / "tensor-core.md").read_text()
    shown = re.findall(r"!\[[^\]]+\]\(pictures/([^)]+)\.svg\)", page)
    assert sorted(shown) == sorted(PICTURES)
    assert sorted(path.stem for path in (DOCS / "pictures").iterdir()) == sorted(PICTURES)
    linked = re.findall(r"\]\(([^):#]+)\)", page)
    assert all((DOCS / name).exists() for name in linked)


# --- who holds what -------------------------------------------------------------------------
@pytest.mark.parametrize("operand", [A, B], ids=lambda operand: operand.name)
def test_boxes_are_what_each_lane_holds(operand: fragments.Operand) -> None:
    layout = "row" if operand is A else "col"
    drawn = defaultdict(set)
    for other, k, lanes, pair in holders.boxes(operand, layout):
        for lane in lanes:
            drawn[lane] |= {(other, i, pair) if operand is A else (i, other, pair) for i in k}
    row, column = fragments.held(operand, layout)
    for lane in range(32):
        meant = zip(row[lane].tolist(), column[lane].tolist(), np.arange(16) // 4, strict=True)
        assert drawn[lane] == set(meant)


def test_every_accumulator_is_drawn_with_its_lane_and_register() -> None:
    lanes = [int(t) for *_, kind, t, _ in words(holders.volta()) if kind == "dark end bold"]
    names = [t for *_, kind, t, _ in words(holders.volta()) if kind == "mono dark"]
    row, column = fragments.held(F32.accumulator, "row")
    # The notes: value i of a lane, in the order of the steps' registers.
    registers = [f"R{first + i}" for first in (8, 10, 4, 6) for i in range(2)]
    drawn = np.array(lanes).reshape(16, 16), np.array(names).reshape(16, 16)
    for lane in range(32):
        for i in range(8):
            at = row[lane, i], column[lane, i]
            assert (drawn[0][at], drawn[1][at]) == (lane, registers[i])


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_registers_of_later_chips_are_those_of_the_record(name: str) -> None:
    element = mma_sync.Fragment.of(name, mma_sync.M16N8K16).element
    count, each = {"a": (4, 2), "b": (2, 2), "c": (4, 1)}[name]
    drawn = {(lane, r): (rows, columns) for rows, columns, lane, r in holders.registers(name)}
    assert len(drawn) == 32 * count
    for (lane, register), (rows, columns) in drawn.items():
        held = {element(lane, each * register + i) for i in range(each)}
        assert {(r, c) for r in rows for c in columns} == held


# --- steps ----------------------------------------------------------------------------------
@pytest.mark.parametrize("form", [F32, F16], ids=lambda form: form.name)
@pytest.mark.parametrize("layouts", [("row", "col"), ("col", "row")])
def test_frames_show_the_pieces_of_the_published_table(form: Form, layouts: tuple) -> None:
    for instruction in program(form, *layouts).instructions:
        k, step = 4 * (instruction.set - 1), instruction.step
        rows = range(4) if form is F16 else range(2 * (step % 2), 2 * (step % 2) + 2)
        right = step if form is F16 else step // 2
        pieces = {}
        for octet in range(4):
            for upper in range(2):
                row = octet % 2 * 8 + upper * 4 + rows[0]
                block = row, octet // 2 * 8 + 4 * right, len(rows), 4
                pieces[block] = [octet + 4 * upper]
        assert steps.blocks(instruction, "d") == pieces
        # A of threadgroups whose octets share rows; B of those that hold the four columns.
        assert steps.blocks(instruction, "a") == {
            (half * 8 + upper * 4 + rows[0], k, len(rows), 4): [
                half + 4 * upper,
                half + 2 + 4 * upper,
            ]
            for half in range(2)
            for upper in range(2)
        }
        assert steps.blocks(instruction, "b") == {
            (k, half * 8 + 4 * right, 4, 4): [2 * half + 4 * right, 2 * half + 1 + 4 * right]
            for half in range(2)
        }


def test_a_frame_for_each_instruction_with_its_cycle() -> None:
    found = [t for *_, t, _ in words(steps.filmstrip()) if t.startswith("done at cycle")]
    measured = (10, 12, 14, 18, 20, 22, 24, 28, 30, 32, 34, 38, 40, 42, 44, 54)
    assert found == [f"done at cycle {cycle}" for cycle in measured]
    lines = [t for *_, t, _ in words(steps.filmstrip(PROGRAM_F16)) if t.startswith("done")]
    assert len(lines) == 8


# --- cycles ---------------------------------------------------------------------------------
def test_the_timeline_ends_where_it_was_measured() -> None:
    svg = PICTURES["cycles"]()
    numbers = [int(t) for *_, kind, t, _ in words(svg) if kind == "ink bold" and t.isdigit()]
    assert numbers == [
        *(10, 12, 14, 18, 20, 22, 24, 28, 30, 32, 34, 38, 40, 42, 44, 54),
        *(12, 21, 25, 34, 38, 47, 51, 64),
    ]
    text = " ".join(t for *_, t, _ in words(svg))
    for warps, cycles in ((1, 40), (2, 32), (4, 32)):
        one, two = (timing.timeline(F32, warps, n).cycles for n in (1, 2))
        assert (two - one) / warps == cycles
        assert f"{warps} warp{'s' * (warps > 1)}: {cycles} cycles a WMMA" in text


# --- sums -----------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [V100, A100, H100], ids=lambda how: how.name)
def test_what_is_kept_of_the_terms_adds_up_to_the_answer(how: Numerics) -> None:
    total = sum(sums.kept(how), Fraction(0))
    last = Fraction(2) ** (math.floor(math.log2(total)) - 23)
    assert math.trunc(total / last) * last == sums.answer(how)


def test_the_terms_are_those_of_the_exact_sum() -> None:
    total = sum((value for value, _ in sums.terms()), Fraction(0))
    assert np.float32(float(total)) == float(sums.answer(EXACT))
    lowest = min(value.denominator for value, _ in sums.terms())
    assert lowest == 1
    assert max(value.denominator for value, _ in sums.terms()) <= 2**-sums.LAST


def test_the_example_tells_the_arithmetics_apart() -> None:
    unit = Fraction(2) ** -23
    off = {n: (sums.answer(h) - sums.answer(EXACT)) / unit for n, h in numerics.NUMERICS.items()}
    assert off == {"exact": 0, "ieee": 1, "v100": -2, "a100": -1, "h100": 0}
    shown = [t for *_, kind, t, _ in words(PICTURES["sums"]()) if kind == "mono ink bold"]
    assert shown == ["0", "+1", "-2", "-1", "0"]
    assert sums.answer(IEEE) > sums.answer(EXACT) > sums.answer(V100)
