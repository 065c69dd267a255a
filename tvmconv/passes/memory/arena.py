"""Places tensors in one block of memory, so that those never live at once share bytes.

    buffers = [Buffer(0, 1, 4096), Buffer(1, 2, 512), Buffer(2, 3, 4096)]
    offsets = place(buffers, alignment=64)      # (0, 4096, 0)
    arena_bytes(buffers, offsets)               # 4608
    lower_bound(buffers)                        # 4608: no placement takes less

Knows no graph and no TVM.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice


@dataclass(frozen=True)
class Buffer:
    """`size` bytes, needed from step `first` to step `last`, both included."""

    first: int
    last: int
    size: int

    def __post_init__(self) -> None:
        assert 0 <= self.first <= self.last, self
        assert self.size >= 0, self

    def meets(self, other: Buffer) -> bool:
        """True if both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The most bytes that are needed at one step."""
    return max(_breadths(buffers).values(), default=0)


def arena_bytes(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """Bytes of the block: the end of the last buffer."""
    ends = (offset + one.size for one, offset in zip(buffers, offsets, strict=True))
    return max(ends, default=0)


#: Attempts with each of the two orders below. One takes milliseconds, and the first or second
#: usually reaches the lower bound.
ATTEMPTS = 32


def place(buffers: Sequence[Buffer], alignment: int) -> tuple[int, ...]:
    """Returns an offset in bytes for every buffer, a multiple of `alignment`.

    Buffers that are needed at the same step do not overlap. The result is deterministic.

    Greedy by size and greedy by breadth, each buffer in the best fitting gap: Pisarchyk and Lee,
    Efficient Memory Management for Deep Neural Net Inference, 2020, arXiv:2001.03288. If the result
    is above the lower bound, the buffer that ended up highest is placed first in another attempt.
    """
    assert alignment > 0, alignment
    # Rounded up, so that every end, and so every offset, is aligned.
    aligned = [replace(one, size=-(-one.size // alignment) * alignment) for one in buffers]
    bound = lower_bound(aligned)
    best: tuple[int, ...] = ()
    for order in (_by_size(aligned), _by_breadth(aligned)):
        for offsets in islice(_placements(aligned, order), ATTEMPTS):
            if not best or arena_bytes(aligned, offsets) < arena_bytes(aligned, best):
                best = offsets
            if arena_bytes(aligned, best) == bound:
                return best
    return best


def _breadths(buffers: Sequence[Buffer]) -> dict[int, int]:
    """Bytes needed at each step at which a buffer begins, the only candidates for a peak."""
    steps = dict.fromkeys(sorted(one.first for one in buffers))
    return {s: sum(b.size for b in buffers if b.first <= s <= b.last) for s in steps}


def _by_size(buffers: Sequence[Buffer]) -> list[int]:
    """Buffers by size, the largest first; equal ones in the order of steps."""

    def key(i: int) -> tuple[int, int, int, int]:
        return (-buffers[i].size, buffers[i].first, buffers[i].last, i)

    return sorted(range(len(buffers)), key=key)


def _by_breadth(buffers: Sequence[Buffer]) -> list[int]:
    """Buffers of the fullest step first, then of the next; at each step the largest first."""
    breadths = _breadths(buffers)
    by_size = _by_size(buffers)
    order: dict[int, None] = {}
    for step in sorted(breadths, key=lambda step: (-breadths[step], step)):
        order |= dict.fromkeys(i for i in by_size if buffers[i].first <= step <= buffers[i].last)
    return list(order)


def _placements(buffers: Sequence[Buffer], order: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yields offsets by `order`, then each time with the highest buffer moved to the front."""
    order = list(order)
    while True:
        offsets = _greedy(buffers, order)
        yield offsets
        if not order:
            return
        highest = max(order, key=lambda i: (offsets[i] + buffers[i].size, -i))
        if highest == order[0]:
            return
        order.remove(highest)
        order.insert(0, highest)


def _greedy(buffers: Sequence[Buffer], order: Sequence[int]) -> tuple[int, ...]:
    """Places one buffer after the other, each in the smallest gap that holds it."""
    offsets = [0] * len(buffers)
    for n, i in enumerate(order):
        taken = sorted(
            (offsets[j], offsets[j] + buffers[j].size)
            for j in order[:n]
            if buffers[j].meets(buffers[i])
        )
        offsets[i] = _best_gap(taken, buffers[i].size)
    return tuple(offsets)


def _best_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The start of the smallest gap of `size` bytes or more between the sorted spans `taken`; the
    end of the last span if there is no such gap."""
    gaps: list[tuple[int, int]] = []
    end = 0
    for start, stop in taken:
        if start - end >= size:
            gaps.append((start - end, end))
        end = max(end, stop)
    return min(gaps)[1] if gaps else end
