"""What a schedule refuses."""

from __future__ import annotations

from intrinsics.errors import TvmconvError


class ConfigError(TvmconvError, ValueError):
    """A configuration that does not fit its workload or hardware; the note lists every reason."""
