"""Convolutions written in tensor expressions, and the families of schedules that compute them.

`schedules.register(family)` adds a family of your own; `schedules.registered()` lists them.

Nothing is imported before it is used. `schedules.machine.hardware` and `schedules.conv.workload`
are plain Python, so that a machine with only TVM's runtime can import them. The other files need
TVM's compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schedules.family import Family, Match, Reject
    from schedules.registry import register, registered, unregister

#: Public names and their modules.
_HOMES = {
    **dict.fromkeys(("Match", "Reject", "Family"), "family"),
    **dict.fromkeys(("register", "registered", "unregister"), "registry"),
}

__all__ = ["Family", "Match", "Reject", "register", "registered", "unregister"]


def __getattr__(name: str) -> Any:
    """Returns a public name from its module. Raises ``AttributeError`` for any other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'schedules' has no attribute {name!r}")
    return getattr(importlib.import_module(f"schedules.{_HOMES[name]}"), name)
