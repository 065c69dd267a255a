"""Feeds to calibrate with: named, and checked against the network's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmconv.errors import FeedError
from tvmconv.specs import TensorSpec

Array = NDArray[Any]
#: One run of the network: arrays by the names of its inputs, or the array of its only input.
Feed = Mapping[str, Any] | Any


def checked(feeds: Iterable[Feed], inputs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """Returns the feeds as arrays by name. They stay in memory, since they are run several times.

    inputs: a dimension of 0 takes any size. Raises `FeedError` if there are no feeds, and for one
    of other names, shapes or dtypes, or with NaN or infinity in it.
    """
    if isinstance(feeds, Mapping | np.ndarray | bytes) or not isinstance(feeds, Iterable):
        raise FeedError(
            f"feeds are several runs of the network, not one {type(feeds).__name__}",
            hint="give a list: [feed, ...], or a folder of images",
        )
    found = [_one(number, feed, inputs) for number, feed in enumerate(feeds)]
    if not found:
        raise FeedError(
            "there are no feeds to calibrate with",
            note="the range of every activation is found by running the network",
            hint="give some that are like those it will see, 100 or more of a trained network",
        )
    return found


def _one(number: int, feed: Feed, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    names = [spec.name for spec in inputs]
    if not isinstance(feed, Mapping):
        if len(inputs) != 1:
            raise FeedError(
                f"feed {number} is a {type(feed).__name__}, the network's inputs are {names}",
                hint="give each feed as a mapping of names to arrays",
            )
        feed = {names[0]: feed}
    if set(feed) != set(names):
        raise FeedError(
            f"feed {number} has {sorted(feed)}, the network's inputs are {names}",
            hint="every input by its name, and nothing else",
        )
    return {spec.name: _array(number, spec, feed[spec.name]) for spec in inputs}


def _array(number: int, spec: TensorSpec, given: Any) -> Array:
    array = np.asarray(given)
    fits = len(array.shape) == len(spec.shape) and all(
        size > 0 and wanted in (0, size)
        for size, wanted in zip(array.shape, spec.shape, strict=True)
    )
    if not fits or str(array.dtype) != spec.dtype:
        wanted = ", ".join(str(size or "any") for size in spec.shape)
        raise FeedError(
            f"feed {number}: input {spec.name!r} got {array.dtype}{list(array.shape)}, "
            f"expected {spec.dtype}[{wanted}]",
            hint="the batch is a dimension too" if len(array.shape) + 1 == len(spec.shape) else "",
        )
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        kind = "NaN" if np.isnan(array).any() else "infinity"
        raise FeedError(
            f"feed {number}: input {spec.name!r} has {kind} in it",
            note="no range of activations could be found with it",
            hint="leave the feed out, or mend how it is read",
        )
    return array
