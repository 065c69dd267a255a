"""Fragments of mma.sync: every element against the PTX ISA's formulas, and products of tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from intrinsics import dtypes
from intrinsics.mma_fragments import mma, pack, unpack
from intrinsics.mma_sync import INSTRUCTIONS, INTEGER_INSTRUCTIONS, M16N8K16, Fragment
from intrinsics.numerics import arithmetic as numerics
from intrinsics.record import TensorIntrinsic

Array = NDArray[Any]
every_instruction = pytest.mark.parametrize(
    "instruction", INSTRUCTIONS + INTEGER_INSTRUCTIONS, ids=lambda i: i.name
)
each_instruction = pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: i.name)


def ptx(operand: str, lane: int, element: int) -> tuple[int, int]:
    """(row, column) of an element of a lane, as the PTX ISA writes it for both depths."""
    group, thread = lane >> 2, lane % 4
    if operand == "a":
        row = group if element in (0, 1, 4, 5) else group + 8
        return row, thread * 2 + (element & 1) + (0 if element < 4 else 8)
    if operand == "b":
        return thread * 2 + (element & 1) + (0 if element < 2 else 8), group
    return (group if element < 2 else group + 8), thread * 2 + (element & 1)


def matrix(operand: str, instruction: TensorIntrinsic, values: Array) -> Array:
    return np.asarray(values).astype(dtypes.get(instruction.dtype(operand)).numpy)


def tiles(instruction: TensorIntrinsic, leading: tuple[int, ...], seed: int = 0) -> list[Array]:
    draw = np.random.default_rng(seed).normal
    spread = 40 if dtypes.get(instruction.accumulator_dtype).integer else 1
    return [
        matrix(operand, instruction, spread * draw(size=(*leading, *instruction.shape(operand))))
        for operand in "abc"
    ]


@each_instruction
@pytest.mark.parametrize("operand", "abc")
def test_every_element_lies_where_the_ptx_isa_says(
    operand: str, instruction: TensorIntrinsic
) -> None:
    rows, columns = instruction.shape(operand)
    held = pack(
        matrix(operand, instruction, np.arange(rows * columns).reshape(rows, columns)),
        operand,
        instruction,
    )
    wide = instruction.dtype(operand) == "float32"
    assert held.shape == (32, rows * columns // (32 if wide else 64))
    for lane in range(32):
        for element in range(rows * columns // 32):
            row, column = ptx(operand, lane, element)
            if wide:
                bits = held[lane, element]
            else:
                bits = held[lane, element // 2] >> (16 * (element % 2)) & 0xFFFF
            number = matrix(operand, instruction, np.float32(row * columns + column))
            assert bits == number.view(f"u{number.itemsize}")


#: PTX ISA, "Matrix Fragments for mma.m16n8k32" (8 bits) and "for mma.m16n8k8" (tf32): rows and
#: columns of the elements of A and B that lane 4 g + t holds, by their numbers.
OTHER_WIDTHS = {
    ("a", "int8", (16, 32)): lambda g, t, i: (
        g if i < 4 or 8 <= i < 12 else g + 8, t * 4 + (i & 3) + (0 if i < 8 else 16)
    ),
    ("b", "int8", (32, 8)): lambda g, t, i: (t * 4 + (i & 3) + (0 if i < 4 else 16), g),
    ("a", "tfloat32", (16, 8)): lambda g, t, i: (
        g if i in (0, 2) else g + 8, t if i in (0, 1) else t + 4
    ),
    ("b", "tfloat32", (8, 8)): lambda g, t, i: (t if i == 0 else t + 4, g),
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER_WIDTHS, ids=str)
def test_one_formula_serves_every_width(key: Any) -> None:
    operand, dtype, shape = key
    fragment = Fragment(operand, *shape, dtype)
    for lane in range(32):
        for number in range(fragment.elements):
            expected = OTHER_WIDTHS[key](lane >> 2, lane % 4, number)
            assert fragment.element(lane, number) == expected


@every_instruction
@pytest.mark.parametrize("operand", "abc")
def test_places_are_the_inverse_of_elements(operand: str, instruction: TensorIntrinsic) -> None:
    fragment = Fragment.of(operand, instruction)
    lanes, numbers = fragment.places()
    for row, column in np.ndindex(lanes.shape):
        assert fragment.element(lanes[row, column], numbers[row, column]) == (row, column)


@every_instruction
def test_unpacking_gives_back_what_was_packed(instruction: TensorIntrinsic) -> None:
    for operand, value in zip("abc", tiles(instruction, (2, 3)), strict=True):
        held = pack(value, operand, instruction)
        assert held.shape == (2, 3, 32, instruction.registers(operand))
        assert unpack(held, operand, instruction).tobytes() == value.tobytes()


@each_instruction
@pytest.mark.parametrize("name", numerics.NUMERICS)
def test_registers_multiply_as_matrices_do(instruction: TensorIntrinsic, name: str) -> None:
    arithmetic = numerics.get(name)
    a, b, c = tiles(instruction, (5, 2))
    held = [pack(x, operand, instruction) for x, operand in zip((a, b, c), "abc", strict=True)]
    got = unpack(mma(*held, instruction, arithmetic), "c", instruction)
    assert got.tobytes() == numerics.matmul(a, b, c, arithmetic).tobytes()


@pytest.mark.parametrize(("name", "same"), [("a100", True), ("v100", True), ("h100", False)])
def test_a_deep_instruction_is_two_shallow_ones_but_on_hopper(name: str, same: bool) -> None:
    shallow = next(i for i in INSTRUCTIONS if i.k == 8 and i.name.endswith("f16_f32"))
    arithmetic = numerics.get(name)
    a, b, c = (pack(x, o, M16N8K16) for x, o in zip(tiles(M16N8K16, (8,)), "abc", strict=True))
    lower = mma(a[..., :2], b[..., :1], c, shallow, arithmetic)
    twice = mma(a[..., 2:], b[..., 1:], lower, shallow, arithmetic)
    assert np.array_equal(twice, mma(a, b, c, M16N8K16, arithmetic)) is same


def test_what_is_not_the_instructions_is_refused() -> None:
    a, b, c = tiles(M16N8K16, (2,))
    bf16 = next(i for i in INSTRUCTIONS if i.a_dtype == "bfloat16")
    with pytest.raises(ValueError, match=r"is float16\(16, 16\), not float16\(2, 16, 8\)"):
        pack(b, "a", M16N8K16)
    with pytest.raises(ValueError, match="is float32"):
        pack(c.astype(np.float64), "c", M16N8K16)
    with pytest.raises(ValueError, match="is bfloat16"):
        pack(np.full((16, 16), 1.001, np.float32), "a", bf16)
    held = [pack(x, operand, M16N8K16) for x, operand in zip((a, b, c), "abc", strict=True)]
    with pytest.raises(ValueError, match=r"uint32 \(..., 32, 2\), not uint32\(2, 32, 4\)"):
        mma(held[0], held[0], held[2], M16N8K16, numerics.EXACT)
    with pytest.raises(ValueError, match="not equal"):
        mma(held[0][:1], held[1], held[2], M16N8K16, numerics.EXACT)
