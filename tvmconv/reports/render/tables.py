"""Text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Returns rows, the first a header, in aligned columns; those in `right` align to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def figures(rows: Sequence[Sequence[str]], text: Sequence[str]) -> str:
    """Returns a table that aligns columns to the right, except those with a header in `text`."""
    return table(rows, [i for i, name in enumerate(rows[0]) if name not in text])


def without_unknown(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> list[list[str]]:
    """Returns the rows without those of `columns`, by header, that have only dashes."""
    header, *others = rows
    kept = [
        at
        for at, name in enumerate(header)
        if name not in columns or any(row[at] not in ("", "-") for row in others)
    ]
    return [[row[at] for at in kept] for row in rows]


def percent(part: float, whole: float) -> str:
    """Returns a share as text; a dash if `whole` is 0. Never rounded to 0 % or 100 %."""
    if not whole:
        return "-"
    share = part / whole
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return f"{int(share * 1000) / 10:.1f}%"
    return f"{share:.0%}"


def mib(size: float) -> str:
    """Returns bytes as MiB."""
    return f"{size / 2**20:.1f}"


def microseconds(us: float) -> str:
    """Returns at most three digits, as estimates have no more; a dash for 0."""
    if not us:
        return "-"
    return f"{us:.{0 if us >= 99.5 else 1 if us >= 9.95 else 2}f}"
