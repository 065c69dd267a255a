"""The errors a user can meet.

Every one says what happened, then what else is known (``Note:``), then what to do (``Hint:``).
An ``assert`` in this project is for our own bugs; input from outside raises one of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from intrinsics.errors import TvmconvError
from schedules.errors import ConfigError, FamilyError


class ModelError(TvmconvError):
    """The bytes given are not an ONNX model that can be read, or the model is invalid."""


class UnsupportedOperatorError(ModelError):
    """The model uses operators, or forms of them, that cannot be built. Lists all of them."""


class ShapeError(ModelError):
    """A dimension is left open, or a shape given does not fit the model."""


class FeedError(TvmconvError, ValueError):
    """An array given to ``run`` has the wrong name, dtype, rank or shape."""


class TargetError(TvmconvError, ValueError):
    """The target or architecture does not exist, or cannot be built for or run on here."""


class ToolchainError(TargetError):
    """A compiler or library that the target needs is missing, or gave no machine code."""


class ArtifactError(TvmconvError):
    """A saved file is not one of ours, is damaged, or was written by another version."""


class DownloadError(TvmconvError):
    """A package that carries a network could not be fetched."""


class RecordError(TvmconvError):
    """A file of tuning records has a line that is none."""


class RecordWarning(UserWarning):
    """Tuning records are there, and can't be used: of another version or architecture."""


class TuningError(TvmconvError):
    """Nothing can be measured: a package, a device or a reference result is missing."""


class CheckpointError(TvmconvError):
    """A file of weights is damaged, or holds something other than tensors."""


def first_line(error: Exception) -> str:
    """The first line of what an error says, for a note."""
    return next(iter(str(error).strip().splitlines()), repr(error))


def last_line(error: Exception) -> str:
    """The kind of an error and its last line, where TVM says what it means, for a note."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"


@contextmanager
def accepted(what: str) -> Iterator[None]:
    """Whatever TVM raises inside is no fault of the caller's: the model was accepted."""
    try:
        yield
    except TvmconvError:
        raise
    except Exception as error:
        raise ModelError(
            f"TVM could not {what}",
            note=last_line(error),
            hint="TVMCONV_DUMP=folder shows how far it came; please report the model",
        ) from error


__all__ = [
    "ArtifactError",
    "CheckpointError",
    "ConfigError",
    "DownloadError",
    "FamilyError",
    "FeedError",
    "ModelError",
    "RecordError",
    "RecordWarning",
    "ShapeError",
    "TargetError",
    "ToolchainError",
    "TuningError",
    "TvmconvError",
    "UnsupportedOperatorError",
    "accepted",
    "first_line",
    "last_line",
]
