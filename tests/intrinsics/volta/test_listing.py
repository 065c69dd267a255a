"""The listing of one WMMA, as a reader would check it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intrinsics.volta.fragments import A, B, FragmentError, load
from intrinsics.volta.hmma import F16, F32, Form, State, program
from intrinsics.volta.listing import trace
from tests.intrinsics.volta.test_hmma import in_order

RNG = np.random.default_rng(2)
MATRIX_A, MATRIX_B = (RNG.integers(-8, 9, (16, 16)).astype(np.float16) for _ in range(2))
MATRIX_C = RNG.integers(-8, 9, (16, 16))


def listed(form: Form, a_layout: str, b_layout: str, lane: int) -> str:
    made = program(form, a_layout, b_layout)
    a, b = (
        load(operand, np.ascontiguousarray(x if layout == "row" else x.T).reshape(-1), 16, layout)
        for operand, x, layout in ((A, MATRIX_A, a_layout), (B, MATRIX_B, b_layout))
    )
    c = load(form.accumulator, MATRIX_C.astype(form.accumulator.dtype).reshape(-1), 16)
    return trace(made, State.of(made, a, b, c), in_order, lane)


@pytest.mark.parametrize("lane", [0, 13, 22, 31])
@pytest.mark.parametrize("layouts", [("row", "col"), ("col", "row")])
@pytest.mark.parametrize("form", [F32, F16], ids=lambda form: form.name)
def test_every_value_is_that_of_the_element_it_is_said_to_be(
    form: Form, layouts: tuple[str, str], lane: int
) -> None:
    text = listed(form, *layouts, lane)
    total = MATRIX_A.astype(int) @ MATRIX_B.astype(int) + MATRIX_C
    seen = {"A": set(), "B": set(), "D": set()}
    last = {}
    for name, row, column, value in re.findall(r"([ABCD])\[(\d+),(\d+)\] = ([-\d.]+)", text):
        at = int(row), int(column)
        if name in "AB":
            assert float(value) == (MATRIX_A if name == "A" else MATRIX_B)[at]
            seen[name].add(at)
        elif name == "D":
            seen[name].add(at)
            last[at] = float(value)
        elif at not in last:
            assert float(value) == MATRIX_C[at]
        else:
            assert float(value) == last[at]
    assert {name: len(places) for name, places in seen.items()} == {"A": 16, "B": 16, "D": 8}
    assert last == {at: total[at] for at in last}


def test_instructions_cycles_and_pieces_are_in_order() -> None:
    lines = listed(F32, "row", "col", 21).splitlines()
    rows = [line.split(maxsplit=3) for line in lines if "HMMA" in line]
    assert [(int(s), int(t)) for _, s, t, _ in rows] == [
        (s, t) for s in range(1, 5) for t in range(4)
    ]
    assert [int(row[0]) for row in rows][-4:] == [40, 42, 44, 54]
    assert "lane 21: thread 1 of threadgroup 5, the upper of octet 1" in lines[1]
    third = lines.index(next(line for line in lines if "STEP2" in line))
    assert "threadgroup 1: D[8:10, 4:8] = A[8:10, 0:4] B[0:4, 4:8]" in lines[third + 1]
    assert "threadgroup 5: D[12:14, 4:8] = A[12:14, 0:4] B[0:4, 4:8]" in lines[third + 2]


def test_what_an_instruction_does_not_read_is_in_parentheses() -> None:
    # Lane 21 is of an upper threadgroup and holds row 13: B is read in steps 2 and 3, A in 0 and 2.
    lines = listed(F32, "row", "col", 21).splitlines()
    heads = [i for i, line in enumerate(lines) if "HMMA" in line][:4]
    assert ["(A[" in lines[i + 3] for i in heads] == [False, True, False, True]
    assert ["(B[" in lines[i + 4] for i in heads] == [True, True, False, False]
    assert not any("(D[" in line or "(C[" in line for line in lines)


def test_a_listing_is_of_one_tile_and_one_lane() -> None:
    made = program(F32)
    zeros = np.zeros((2, 32, 8), np.uint32)
    state = State.of(made, zeros, zeros, zeros)
    with pytest.raises(FragmentError, match="one tile"):
        trace(made, state, in_order)
    one = State(state.registers[1])
    with pytest.raises(FragmentError, match="no lane 32"):
        trace(made, one, in_order, 32)
    assert "STEP3" in trace(made, one, in_order, 31)


def test_the_page_about_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "tensor-core.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec("".join(examples), names)
    a, b = (names[name].reshape(16, 16).astype(np.float64) for name in "ab")
    assert np.allclose(names["d"].reshape(16, 16), a @ b.T, atol=1e-5)
    printed = capsys.readouterr().out
    assert "lane 5: thread 1 of threadgroup 1" in printed
    assert printed.endswith("exact 3.0\nv100 0.0\na100 2.0\nh100 3.0\n")
