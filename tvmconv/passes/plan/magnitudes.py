"""How large tensors become: as was seen on feeds, or else as the filters before them suggest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.balance_ranges import filter_norms
from tvmconv.passes.plan.quantised import is_quantised
from tvmconv.passes.plan.readers import FOLLOWS_INPUT
from tvmconv.passes.regions.region import Region

#: A tensor whose largest magnitude on feeds is from the first to the second is left as it is: below
#: 2**-14 fp16 has a fixed step, above 65504 nothing, and other feeds may be larger.
SEEN = 2.0**-8, 2.0**12
#: The same of a tensor of which only the filters before it are known: no network that is trained
#: to be fed numbers around one has such filters.
GUESSED = 2.0**-12, 2.0**13
#: Magnitude of a tensor of which nothing is known.
USUAL = 1.0
#: Exponents of a scale: it and its inverse are normal numbers of fp32, and so are their squares.
EXPONENTS = 60


def power_of_two(largest: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """The power of two that brings magnitudes next to 1; 1 for 0."""
    magnitude = np.where(np.asarray(largest) > 0, largest, 1.0)
    return 2.0 ** -np.clip(np.round(np.log2(magnitude)), -EXPONENTS, EXPONENTS)


class Magnitudes:
    """The magnitudes of a graph's tensors. seen: the largest on feeds, by variable."""

    def __init__(
        self,
        regions: Mapping[relax.Var, Region],
        flow: Dataflow,
        seen: Mapping[relax.Var, float],
    ) -> None:
        self._regions, self._flow, self._seen = regions, flow, seen
        self._guessed: dict[relax.Var, float] = {}

    def scale(self, tensor: relax.Expr | None) -> float:
        """The power of two that brings a tensor into the range of fp16; 1 if it is there."""
        if not isinstance(tensor, relax.Var):
            return 1.0
        largest = self._seen.get(tensor)
        low, high = GUESSED if largest is None else SEEN
        largest = self._guess(tensor) if largest is None else largest
        return 1.0 if largest == 0 or low <= largest <= high else float(power_of_two(largest))

    def _guess(self, var: relax.Var) -> float:
        """What independent inputs of the usual size would give, or of one that is not usual."""
        if var not in self._guessed:
            self._guessed[var] = self._of(var)
        return self._guessed[var]

    def _of(self, var: relax.Var) -> float:
        region = self._regions.get(var)
        if region is not None:
            return USUAL if is_quantised(region) else self._given(region)
        if self._flow.op(var) not in FOLLOWS_INPUT:
            return USUAL
        read = relax.analysis.free_vars(self._flow.values[var])
        return max((self._size(one) for one in read), default=USUAL)

    def _given(self, region: Region) -> float:
        """What a convolution gives: the largest of its filters' gains, its bias and its residual,
        as far as its activation lets them through."""
        largest = float(filter_norms(region).max()) * self._size(region.x)
        if region.bias is not None:
            largest = max(largest, float(np.abs(region.bias).max()))
        if region.residual is not None and not region.residual_last:
            largest = max(largest, self._size(region.residual))
        if not region.activation.has_slopes:
            with np.errstate(over="ignore"):  # of exp, where a sigmoid has reached its limits
                given = region.activation.numpy(np.array([-largest, 0.0, largest]))
            largest = float(np.abs(given).max())
        if region.residual is not None and region.residual_last:
            largest = max(largest, self._size(region.residual))
        return largest

    def _size(self, tensor: relax.Expr) -> float:
        """The magnitude of a tensor that a convolution reads: seen, or guessed where that is not
        the usual, so that gains of a few are not multiplied from layer to layer."""
        if not isinstance(tensor, relax.Var):
            return USUAL
        if tensor in self._seen:
            return self._seen[tensor]
        guess = self._guess(tensor)
        return USUAL if GUESSED[0] <= guess <= GUESSED[1] else guess
