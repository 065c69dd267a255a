"""The base class of every error that is raised on purpose."""

from __future__ import annotations


class TvmconvError(Exception):
    """An error in three parts: what happened, a note, and a hint. ``str()`` has all three."""

    def __init__(self, what: str, *, note: str = "", hint: str = "", shell: str = "") -> None:
        """shell: the hint in the syntax of the command line, where it differs."""
        self.what, self.note, self.hint = what, note, hint
        self._shell = shell
        super().__init__(_text(what, note, hint))

    def at_shell(self) -> str:
        """``str()`` with the hint in the syntax of the command line."""
        return _text(self.what, self.note, self._shell or self.hint)


def _text(what: str, note: str, hint: str) -> str:
    lines = [what]
    if note:
        lines.append(f"  Note: {note}")
    if hint:
        lines.append(f"  Hint: {hint}")
    return "\n".join(lines)
