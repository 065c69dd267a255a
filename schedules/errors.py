"""Errors about families of schedules and their configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intrinsics.errors import TvmconvError


class ConfigError(TvmconvError, ValueError):
    """A configuration that does not fit its workload or hardware; the note lists every reason."""


class FamilyError(TvmconvError, LookupError):
    """A family that is unknown or registered twice, or a convolution that no family computes."""


def require_none(problems: list[str], config: object, workload: object, hardware: str) -> None:
    """Raises `ConfigError` that lists the problems, if there are any."""
    if problems:
        raise ConfigError(
            f"the configuration {config} does not fit {workload} on {hardware}",
            note="; ".join(problems),
            hint="the family's space() gives those that fit",
        )


def passes(check: Callable[..., None], *arguments: Any) -> bool:
    """Returns True if a family's `check` raises no `ConfigError`."""
    try:
        check(*arguments)
    except ConfigError:
        return False
    return True


class EmulatorError(TvmconvError):
    """The emulator cannot run a kernel: no compiler, or an instruction that it does not know."""


class KernelFault(TvmconvError):
    """A mistake that the emulator finds in a kernel: a deadlock, a write out of bounds."""
