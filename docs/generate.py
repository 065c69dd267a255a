"""Writes the pages of docs/ that are made out of the code. ``make docs`` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that it runs where tvmconv is not installed

from tvmconv.knobs import KNOBS  # noqa: E402


def knobs() -> str:
    """docs/knobs.md: every environment variable, its default and its meaning."""
    rows = [f"| `{k.name}` | {k.default or 'unset'} | {k.meaning} |" for k in KNOBS]
    return "\n".join(
        [
            "<!-- Written by `make docs` out of tvmconv/knobs.py. -->",
            "# Environment variables",
            "| name | default | meaning |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


PAGES = {"knobs.md": knobs}


def main() -> None:
    """Writes the pages; with --check, only says which of them are out of date."""
    stale = [name for name, page in PAGES.items() if _text(HERE / name) != page()]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run `make docs`" if stale else 0)
    for name in stale:
        (HERE / name).write_text(PAGES[name]())
    print(f"wrote {', '.join(stale) or 'nothing: all pages are up to date'}")


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    main()
