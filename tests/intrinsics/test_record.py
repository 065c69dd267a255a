"""The records check themselves, and the catalogue holds what it should."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

import intrinsics
from intrinsics import INTRINSICS, TensorIntrinsic, wmma
from intrinsics.record import CPU_ONLY

GOOD = intrinsics.get(16, 16, 16)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"m": 0}, "m, n and k are positive"),
        ({"n": -16}, "m, n and k are positive"),
        ({"k": 0}, "m, n and k are positive"),
        ({"a_dtype": "float64"}, r"operands are one of \['bfloat16', 'float16', .*\]"),
        ({"accumulator_dtype": "int32"}, r"float16 accumulates in one of \('float32', 'float16'\)"),
        ({"threads": 48}, "threads come in warps of 32"),
        ({"threads": 0}, "threads come in warps of 32"),
        ({"m": 3, "n": 5}, "threads share the m x n results evenly"),
        ({"min_sm": 61}, "tensor cores begin at sm_70"),
        ({"source": "a colleague"}, "a source is a link"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_record_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        replace(GOOD, **changes)
    assert all(repr(value) in str(caught.value) for value in changes.values())


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="is not an instruction") as caught:
        replace(GOOD, m=-16, min_sm=30, source="", accumulator_dtype="bool")
    assert str(caught.value).count(";") == 3


def test_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        GOOD.m = 8  # type: ignore[misc]


def test_each_is_found_by_its_shape_and_dtypes() -> None:
    """PTX ISA: every shape with fp16 operands and both accumulators, with bf16 and fp32, with 8-bit
    integers of one kind and int32; and what only a CPU multiplies."""
    shapes = {(16, 16, 16), (32, 8, 16), (8, 32, 16)}
    forms = {
        (("float16", "float16"), "float32"): 70,
        (("float16", "float16"), "float16"): 70,
        (("bfloat16", "bfloat16"), "float32"): 80,
        (("int8", "int8"), "int32"): 72,
        (("uint8", "uint8"), "int32"): 72,
        (("uint8", "int8"), "int32"): CPU_ONLY,
    }
    found = {
        ((i.m, i.n, i.k), ((i.a_dtype, i.b_dtype), i.accumulator_dtype)): i for i in INTRINSICS
    }
    assert found.keys() == {(shape, form) for shape in shapes for form in forms}
    assert len(found) == len(INTRINSICS)
    for (shape, form), i in found.items():
        assert intrinsics.get(*shape, *form) is i
        assert i.min_sm == forms[form] == wmma.min_sm(*form)
    assert wmma.min_sm(("int8", "uint8"), "int32") is None


def test_unknown_instruction_lists_the_known_ones() -> None:
    with pytest.raises(LookupError, match="m16n8k8 of float16 x float16 into float32") as caught:
        intrinsics.get(16, 8, 8)
    assert all(intrinsic.name in str(caught.value) for intrinsic in INTRINSICS)


@pytest.mark.parametrize("intrinsic", INTRINSICS, ids=lambda intrinsic: intrinsic.name)
def test_figures(intrinsic: TensorIntrinsic) -> None:
    # 256 results over 32 threads: 8 each, one register each in 32 bits and half of one in fp16.
    assert (
        intrinsic.accumulator_registers()
        == {"float32": 8, "float16": 4, "int32": 8}[intrinsic.accumulator_dtype]
    )
