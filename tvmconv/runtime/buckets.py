"""The rule by which a network that is built for a few batches runs any.

The images go to the smallest bucket that holds them all. Where there are more than the largest
holds, it runs chunks of its size first, and what is left goes to the smallest that holds that. A
bucket that is not full is filled up with images of the chunk, and their outputs are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
