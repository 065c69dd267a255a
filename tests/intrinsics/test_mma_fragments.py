"""Fragments of mma.sync: every element against the PTX ISA's formulas, and products of tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from intrinsics import mma_fragments
from intrinsics.mma_fragments import mma, pack, registers, shape, unpack
from intrinsics.mma_sync import INSTRUCTIONS, M16N8K16, a_element, b_element, c_element
from intrinsics.numerics import arithmetic as numerics
from intrinsics.record import TensorIntrinsic

Array = NDArray[Any]
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
    kind = mma_fragments.dtype(operand, instruction)
    values = np.asarray(values, dtype=np.float32)
    if kind == "bfloat16":
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return values.astype(kind)


def tiles(instruction: TensorIntrinsic, leading: tuple[int, ...], seed: int = 0) -> list[Array]:
    draw = np.random.default_rng(seed).normal
    return [
        matrix(operand, instruction, draw(size=(*leading, *shape(operand, instruction))))
        for operand in "abc"
    ]


@each_instruction
@pytest.mark.parametrize("operand", "abc")
def test_every_element_lies_where_the_ptx_isa_says(
    operand: str, instruction: TensorIntrinsic
) -> None:
    rows, columns = shape(operand, instruction)
    held = pack(
        matrix(operand, instruction, np.arange(rows * columns).reshape(rows, columns)),
        operand,
        instruction,
    )
    wide = mma_fragments.dtype(operand, instruction) == "float32"
    assert held.shape == (32, rows * columns // (32 if wide else 64))
    for lane in range(32):
        for element in range(rows * columns // 32):
            row, column = ptx(operand, lane, element)
            if wide:
                bits = held[lane, element]
            else:
                bits = held[lane, element // 2] >> (16 * (element % 2)) & 0xFFFF
            number = matrix(operand, instruction, np.float32(row * columns + column))
            expected = number.view(f"u{number.itemsize}")
            if mma_fragments.dtype(operand, instruction) == "bfloat16":
                expected = expected >> 16
            assert bits == expected


@pytest.mark.parametrize(
    ("place", "element", "count"),
    [
        (mma_fragments.a_place, a_element, 8),
        (mma_fragments.b_place, b_element, 4),
        (mma_fragments.c_place, c_element, 4),
    ],
)
def test_the_compilers_map_is_the_inverse(place: Any, element: Any, count: int) -> None:
    for lane in range(32):
        for number in range(count):
            assert place(*element(lane, number)) == (lane, number // 2, number % 2)


@each_instruction
def test_unpacking_gives_back_what_was_packed(instruction: TensorIntrinsic) -> None:
    for operand, value in zip("abc", tiles(instruction, (2, 3)), strict=True):
        held = pack(value, operand, instruction)
        assert held.shape == (2, 3, 32, registers(operand, instruction))
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
    bf16 = next(i for i in INSTRUCTIONS if i.operand_dtype == "bfloat16")
    with pytest.raises(ValueError, match=r"is float16\(16, 16\), not float16\(2, 16, 8\)"):
        pack(b, "a", M16N8K16)
    with pytest.raises(ValueError, match="is float32"):
        pack(c.astype(np.float64), "c", M16N8K16)
    with pytest.raises(ValueError, match="no bfloat16"):
        pack(np.full((16, 16), 1.001, np.float32), "a", bf16)
    held = [pack(x, operand, M16N8K16) for x, operand in zip((a, b, c), "abc", strict=True)]
    with pytest.raises(ValueError, match=r"uint32 \(..., 32, 2\), not uint32\(2, 32, 4\)"):
        mma(held[0], held[0], held[2], M16N8K16, numerics.EXACT)
    with pytest.raises(ValueError, match="not equal"):
        mma(held[0][:1], held[1], held[2], M16N8K16, numerics.EXACT)
