"""What tests say of a model: it comes out right, or it is refused by name."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

import tvmconv
from tvmconv import errors


def right(model: Any, bound: float = 5e-3) -> None:
    exe = tvmconv.build(model, target="llvm")
    assert tvmconv.compare(model, exe).relative_l2 <= bound


def refused(model: onnx.ModelProto, says: str) -> None:
    with pytest.raises(errors.UnsupportedOperatorError) as error:
        tvmconv.build(model, target="llvm")
    assert says in error.value.what
    assert error.value.hint
