"""Fewer cases in the default suite: the rest are slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """Returns the cases, all but each `every`-th, from the first on, marked ``slow``.

    cases: as of ``pytest.mark.parametrize``: values, tuples of them, or ``pytest.param``.
    """
    return [_slow(case) if at % every else case for at, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if hasattr(case, "marks"):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow])
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
