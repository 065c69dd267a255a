"""The base class of reports, and the function that renderers extend."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any


class Report:
    """The base class of all reports. ``str(report)`` is text, by `tvmconv.reports.render`."""

    def __str__(self) -> str:
        return as_text(self)


@singledispatch
def as_text(report: Report) -> str:
    """Renders a report as text. Raises ``TypeError`` for one without a renderer."""
    raise TypeError(f"{type(report).__name__} has no renderer")


def finite_or_none(fields: dict[str, Any]) -> dict[str, Any]:
    """Replaces NaN and infinity, which JSON does not have, by None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in fields.items()
    }
