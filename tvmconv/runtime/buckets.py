"""The rule by which a network built for several buckets chooses those that run what is fed.

Their shapes have to be those that are fed; built for several batches, those of single images. Then
any number of images runs, in the smallest bucket that holds them all. If there are more than the
largest bucket holds, chunks of its size run first, and the rest runs in the smallest bucket that
holds it. A bucket that is not full is filled up with images of the chunk, whose outputs are
dropped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

#: Of every input, in order.
Shapes = tuple[tuple[int, ...], ...]


def without_images(shapes: Shapes, any_batch: bool) -> Shapes:
    """The shapes that a bucket and what is fed have in common: without the first dimension of each
    if a network takes any number of images."""
    return tuple(shape[1:] for shape in shapes) if any_batch else shapes


def distance(one: Shapes, other: Shapes) -> float:
    """Returns how far shapes are apart: the sum of the logarithms of the ratios of their sizes,
    infinite where one has other dimensions."""
    if [len(shape) for shape in one] != [len(shape) for shape in other]:
        return math.inf
    sizes = zip(sum(one, ()), sum(other, ()), strict=True)
    return sum(abs(math.log(max(a, 0.5)) - math.log(max(b, 0.5))) for a, b in sizes)


@dataclass(frozen=True)
class Chunk:
    """Images `start` to `start + count`, which run in a bucket of `bucket` images."""

    bucket: int
    start: int
    count: int


def plan_batches(n: int, buckets: Collection[int]) -> tuple[Chunk, ...]:
    """Returns the chunks in which `n` images run. `n` and all of `buckets` are 1 or more."""
    largest = max(buckets)
    whole = range(0, n - largest, largest)
    start = len(whole) * largest
    fitting = min(bucket for bucket in buckets if bucket >= n - start)
    chunks = [Chunk(largest, at, largest) for at in whole]
    return (*chunks, Chunk(fitting, start, n - start))


def is_whole(shares: Sequence[tuple[object, Chunk]]) -> bool:
    """True if one bucket takes all that is fed, as it is."""
    return len(shares) == 1 and shares[0][1].count == shares[0][1].bucket
