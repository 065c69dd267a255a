"""Splits the time among workloads: how many candidates of each are measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Seconds that one candidate was seen to take: to compile on one processor, and to check and time.
COMPILE_S = {"cuda": 3.0, "llvm": 0.6}
MEASURE_S = {"cuda": 0.1, "llvm": 0.2}
#: The first guess weighs as much as this number of measured candidates.
GUESSED = 8
#: Fewer candidates tell nothing: the first is the choice without tuning.
FEWEST = 2


@dataclass
class Pace:
    """Seconds that a candidate takes, all in all: guessed, then more and more as seen."""

    guess: float
    seconds: float = 0.0
    candidates: int = 0

    @classmethod
    def guessed(cls, kind: str, jobs: int, apart: bool) -> Pace:
        """For target kind ``cuda`` or ``llvm``. apart: compiling waits for measuring, else both go
        on at the same time."""
        compiling, measuring = COMPILE_S[kind] / jobs, MEASURE_S[kind]
        return cls(compiling + measuring if apart else max(compiling, measuring))

    def saw(self, candidates: int, seconds: float) -> None:
        """Takes into account that so many candidates took so many seconds."""
        self.candidates += candidates
        self.seconds += seconds

    @property
    def each(self) -> float:
        """Expected seconds of one candidate."""
        return (self.guess * GUESSED + self.seconds) / (GUESSED + self.candidates)


@dataclass(frozen=True)
class Want:
    """A workload's share of the network's time, and the number of its candidates."""

    share: float
    most: int


@dataclass
class Budget:
    """Seconds for everything, and the pace at which they go. Infinite without a limit."""

    seconds: float
    pace: Pace
    #: Candidates that are begun and not yet done.
    begun: int = field(default=0)

    def allot(self, wants: Sequence[Want], spent: float) -> list[int]:
        """Candidates for each of `wants`, the largest share first; 0 where there is no time for
        `FEWEST`. A want leaves what it can't use of its share to those that follow."""
        left = self.seconds - spent - self.begun * self.pace.each
        shares = sum(want.share for want in wants)
        found = []
        for want in wants:
            mine = left * want.share / shares if shares else 0.0
            shares -= want.share
            # Infinitely much time minus what is used of it is still that.
            endless = math.isinf(mine)
            count = want.most if endless else min(want.most, int(mine / self.pace.each))
            count = count if count >= FEWEST else 0
            found.append(count)
            left -= count * self.pace.each
        return found
