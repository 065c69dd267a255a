"""The base of every error that is raised on purpose, here at the root of the imports."""

from __future__ import annotations


class TvmconvError(Exception):
    """What happened, then what else is known, then what to do. ``str()`` is all of it."""

    def __init__(self, what: str, *, note: str = "", hint: str = "") -> None:
        self.what, self.note, self.hint = what, note, hint
        lines = [what]
        if note:
            lines.append(f"  Note: {note}")
        if hint:
            lines.append(f"  Hint: {hint}")
        super().__init__("\n".join(lines))
