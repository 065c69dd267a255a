"""Splits the time among workloads: the number of candidates of each that are measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Observed seconds of one candidate: to compile on one processor, and to check and time.
COMPILE_S = {"cuda": 3.0, "llvm": 0.6}
MEASURE_S = {"cuda": 0.1, "llvm": 0.2}
#: Number of measured candidates that the first guess weighs as much as.
GUESSED = 8
#: Fewest candidates that are useful: the first is the choice without tuning.
FEWEST = 2


@dataclass
class Pace:
    """Seconds per candidate: a guess, averaged with what was observed."""

    guess: float
    seconds: float = 0.0
    candidates: int = 0

    @classmethod
    def guessed(cls, kind: str, jobs: int, apart: bool) -> Pace:
        """Returns the first guess for target kind ``cuda`` or ``llvm``.

        apart: compiling and measuring alternate; else they overlap.
        """
        compiling, measuring = COMPILE_S[kind] / jobs, MEASURE_S[kind]
        return cls(compiling + measuring if apart else max(compiling, measuring))

    def saw(self, candidates: int, seconds: float) -> None:
        """Adds an observation: so many candidates took so many seconds."""
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
    """Seconds for all workloads, infinite if unlimited, and the pace at which they are spent."""

    seconds: float
    pace: Pace
    #: Candidates that are in progress.
    begun: int = field(default=0)

    def allot(self, wants: Sequence[Want], spent: float) -> list[int]:
        """Returns the number of candidates for each of `wants`, the largest share first.

        0 if there is no time for `FEWEST`. Time that a want cannot use goes to the next ones.
        """
        left = self.seconds - spent - self.begun * self.pace.each
        shares = sum(want.share for want in wants)
        found = []
        for want in wants:
            mine = left * want.share / shares if shares else 0.0
            shares -= want.share
            # Infinite time stays infinite.
            endless = math.isinf(mine)
            count = want.most if endless else min(want.most, int(mine / self.pace.each))
            count = count if count >= FEWEST else 0
            found.append(count)
            left -= count * self.pace.each
        return found
