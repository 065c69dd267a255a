"""Errors that input from outside can raise.

Each says what happened, then what else is known (``Note:``), then what to do (``Hint:``). An
``assert`` in this project is for our own bugs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from intrinsics.errors import TvmconvError
from schedules.errors import ConfigError, FamilyError


class ModelError(TvmconvError):
    """A model is no ONNX model, is invalid, or can't be built."""


class UnsupportedOperatorError(ModelError):
    """A model uses operators, or forms of them, that can't be built. Lists all of them."""


class QuantizationError(ModelError):
    """A scale, zero point or axis of a quantised model can't be right, a file of scales can't be
    read or does not fit the model, or a network can't be quantised as it was asked for."""


class QuantizationWarning(UserWarning):
    """A file of scales leaves layers of the model without one: they are not quantised."""


class ShapeError(ModelError):
    """A dimension is left open, or a given shape does not fit the model."""


class FeedError(TvmconvError, ValueError):
    """An array given to ``run`` has the wrong name, dtype, rank or shape."""


class TargetError(TvmconvError, ValueError):
    """The target or architecture does not exist, or cannot be built for or run on here."""


class ToolchainError(TargetError):
    """A compiler or library that the target needs is missing, or produced no machine code."""


class ArtifactError(TvmconvError):
    """A saved network is another kind of file, is damaged, or was written by another version."""


class DownloadError(TvmconvError):
    """A package that carries a network could not be fetched."""


class RecordError(TvmconvError):
    """A file of tuning records has a line that is not a record."""


class RecordWarning(UserWarning):
    """Tuning records can't be used: they are for another version or architecture."""


class TuningError(TvmconvError):
    """Measuring is not possible: a package, a device or a reference result is missing."""


class CheckpointError(TvmconvError):
    """A file of weights is damaged, or holds something other than tensors."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a note."""
    return next(iter(str(error).strip().splitlines()), repr(error))


def last_line(error: Exception) -> str:
    """The type of an error and the last line of its text, which says most in TVM."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"


@contextmanager
def accepted(what: str) -> Iterator[None]:
    """Turns any error of TVM inside into a `ModelError`: the model was accepted before.

    what: names the step, after "TVM could not".
    """
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
    "QuantizationError",
    "QuantizationWarning",
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
