"""Errors of families, configurations, and the emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intrinsics.errors import TvmconvError


class ConfigError(TvmconvError, ValueError):
    """Raised if a configuration does not fit workload or hardware; the note lists every reason."""


class FamilyError(TvmconvError, LookupError):
    """Raised for an unknown or duplicate family, and if no family computes a convolution."""


def require_none(problems: list[str], config: object, workload: object, hardware: str) -> None:
    """Raises `ConfigError` with the problems, if there are any."""
    if problems:
        raise ConfigError(
            f"the configuration {config} does not fit {workload} on {hardware}",
            note="; ".join(problems),
            hint="the family's space() lists those that fit",
        )


def passes(check: Callable[..., None], *arguments: Any) -> bool:
    """Returns True if a family's `check` raises no `ConfigError`."""
    try:
        check(*arguments)
    except ConfigError:
        return False
    return True


class EmulatorError(TvmconvError):
    """Raised if the emulator cannot run a kernel: no compiler, or an unknown instruction."""


class KernelFault(TvmconvError):
    """Raised for a mistake found in a kernel: a deadlock, a write out of bounds."""
