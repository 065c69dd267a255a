"""The rule by which a network built for a few batches (buckets) runs any number of images.

The images run in the smallest bucket that holds them all. If there are more than the largest
bucket holds, chunks of its size run first, and the rest runs in the smallest bucket that holds it.
A bucket that is not full is filled up with images of the chunk, whose outputs are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """Images `start` to `start + count`, which run in a bucket of size `bucket`."""

    bucket: int
    start: int
    count: int


def plan_batches(n: int, buckets: Sequence[int]) -> tuple[Chunk, ...]:
    """Returns the chunks in which `n` images run. `n` and all of `buckets` are 1 or more."""
    largest = max(buckets)
    whole = range(0, n - largest, largest)
    start = len(whole) * largest
    fitting = min(bucket for bucket in buckets if bucket >= n - start)
    chunks = [Chunk(largest, at, largest) for at in whole]
    return (*chunks, Chunk(fitting, start, n - start))
