"""The commands of `tvmconv`, run in this process: to start one takes seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output, which is JSON."""
        return json.loads(self.out)


Command = Callable[..., Done]


def command_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Returns a function that runs `tvmconv` with its arguments."""

    def run(*arguments: object) -> Done:
        from tvmconv.cli import app  # not before conftest has set what TVM reads

        monkeypatch.setattr(sys, "argv", ["tvmconv", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, *capsys.readouterr())

    return run
