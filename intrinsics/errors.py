"""The base class of every error that is raised on purpose."""

from __future__ import annotations


class TvmconvError(Exception):
    """An error in three parts: what happened, a note, and a hint. ``str()`` has all three."""

    def __init__(self, what: str, *, note: str = "", hint: str = "") -> None:
        self.what, self.note, self.hint = what, note, hint
        lines = [what]
        if note:
            lines.append(f"  Note: {note}")
        if hint:
            lines.append(f"  Hint: {hint}")
        super().__init__("\n".join(lines))
