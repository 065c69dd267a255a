"""Text in columns, for whatever is printed."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows, the first a header, in columns as wide as their widest cell; those in `right` end
    alike."""
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
    """A table whose columns are numbers, and end alike, but for those with a header in `text`."""
    return table(rows, [i for i, name in enumerate(rows[0]) if name not in text])


def without_unknown(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> list[list[str]]:
    """The rows without those of `columns`, by their headers, that have nothing but dashes."""
    header, *others = rows
    kept = [
        at
        for at, name in enumerate(header)
        if name not in columns or any(row[at] not in ("", "-") for row in others)
    ]
    return [[row[at] for at in kept] for row in rows]


def percent(part: float, whole: float) -> str:
    """A share; a dash where there is nothing to have a share of. Rounded neither up to all nor
    down to nothing."""
    if not whole:
        return "-"
    share = part / whole
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return f"{int(share * 1000) / 10:.1f}%"
    return f"{share:.0%}"


def mib(size: float) -> str:
    """Bytes as MiB."""
    return f"{size / 2**20:.1f}"


def microseconds(us: float) -> str:
    """Three digits at most, as estimates have no more; a dash where there is none."""
    if not us:
        return "-"
    return f"{us:.{0 if us >= 99.5 else 1 if us >= 9.95 else 2}f}"
