"""The rule by which a network that is built for a few batches runs any.

The images go to the smallest bucket that holds them all. Where there are more than the largest
holds, it runs chunks of its size first, and what is left goes to the smallest that holds that. A
bucket that is not full is filled up with images of the chunk, and their outputs are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvmconv.runtime.feeds import images, random_feeds, read

if TYPE_CHECKING:
    from tvmconv.runtime.executable import Executable


@dataclass(frozen=True)
class Chunk:
    """Images `start` to `start + count`, which run in the bucket of so many."""

    bucket: int
    start: int
    count: int


def plan_batches(n: int, buckets: Sequence[int]) -> tuple[Chunk, ...]:
    """How `n` images run in `buckets`, both at least 1."""
    largest = max(buckets)
    whole = range(0, n - largest, largest)
    start = len(whole) * largest
    fitting = min(bucket for bucket in buckets if bucket >= n - start)
    chunks = [Chunk(largest, at, largest) for at in whole]
    return (*chunks, Chunk(fitting, start, n - start))


def each_bucket(
    exe: Executable, feeds: Mapping[str, Any] | None = None
) -> Iterator[tuple[Executable, Mapping[str, Any]]]:
    """Every batch that `exe` is compiled for, as an executable of its own, and what to feed it.

    Without `feeds`, `random_feeds`. With them, of a network that has buckets, as many of the
    images as the bucket holds, repeated where that is more. Raises `FeedError`.
    """
    if not exe.any_batch:
        yield exe, random_feeds(exe.inputs) if feeds is None else feeds
        return
    arrays = None if feeds is None else read(exe.inputs, feeds, any_batch=True)
    for batch in exe.batches:
        one = exe.bucket(batch)
        if arrays is None:
            yield one, random_feeds(one.inputs)
        else:
            names = [spec.name for spec in exe.inputs]
            filled = (images(array, 0, batch) for array in arrays)
            yield one, dict(zip(names, filled, strict=True))
