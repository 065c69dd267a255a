"""Magnitudes of tensors: as seen on feeds, or else as the filters before them suggest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvmconv.passes.graph import Dataflow, array, dtype
from tvmconv.passes.plan.balance_ranges import filter_norms
from tvmconv.passes.plan.quantised import is_quantised
from tvmconv.passes.plan.readers import FOLLOWS_INPUT
from tvmconv.passes.regions.region import Region
from tvmconv.specs import is_float

#: A tensor whose largest magnitude on feeds is from the first to the second is left as it is: below
#: 2**-14 fp16 has a fixed step, above 65504 nothing, and other feeds may be larger.
SEEN = 2.0**-8, 2.0**12
#: The same of a tensor of which only the filters before it are known: no network that is trained
#: to be fed numbers around one has such filters.
GUESSED = 2.0**-12, 2.0**13
#: Magnitude of a tensor of which nothing is known.
USUAL = 1.0
#: Operators whose results are about as large as the largest of what they read; and products.
KEEPS_SIZE = (
    *FOLLOWS_INPUT,
    *("relax.add", "relax.subtract", "relax.mean", "relax.nn.avg_pool2d", "relax.nn.leakyrelu"),
    *(
        "relax.nn.adaptive_avg_pool2d",
        "relax.nn.pad",
        "relax.image.resize2d",
        "relax.strided_slice",
    ),
)
PRODUCTS = ("relax.multiply", "relax.divide")
#: What stands for products of two computed tensors (`passes.products.find_products`), and the
#: beginning of the name of those that are attention.
CALL, ATTENTION = "relax.call_dps_packed", "tvmconv.attention."
#: Exponents of a scale: it and its inverse are normal numbers of fp32, and so are their squares.
EXPONENTS = 60


def power_of_two(largest: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """The power of two that brings magnitudes next to 1; 1 for 0."""
    magnitude = np.where(np.asarray(largest) > 0, largest, 1.0)
    exponents = np.clip(np.round(np.log2(magnitude)), -EXPONENTS, EXPONENTS)
    return np.asarray(2.0**-exponents, np.float64)


def _tensors(value: relax.Expr) -> Iterator[relax.Expr]:
    """The tensors of floats that a call reads."""
    for one in value.args:
        for tensor in one.fields if isinstance(one, relax.Tuple) else [one]:
            if isinstance(tensor.ty, relax.TensorType) and is_float(dtype(tensor)):
                yield tensor


def _within(largest: float, limits: tuple[float, float]) -> bool:
    """True for a magnitude that needs no scale, or that none helps: zero, infinity, NaN."""
    low, high = limits
    return largest == 0 or low <= largest <= high or not np.isfinite(largest)


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
        for var in flow.values:  # in order, so that what each reads is known
            self._guessed[var] = self._guess(var)

    def scale(self, tensor: relax.Expr | None) -> float:
        """The power of two that brings a tensor into the range of fp16; 1 if it is there."""
        if not isinstance(tensor, relax.Var):
            return 1.0
        largest = self._seen.get(tensor)
        limits = GUESSED if largest is None else SEEN
        largest = self._guessed.get(tensor, USUAL) if largest is None else largest
        return 1.0 if _within(largest, limits) else float(power_of_two(largest))

    def _guess(self, var: relax.Var) -> float:
        """The magnitude that inputs of the usual size, or of one that is not usual, would give."""
        region = self._regions.get(var)
        if region is not None:
            return USUAL if is_quantised(region) else self._given(region)
        value, op = self._flow.values[var], self._flow.op(var)
        if op in PRODUCTS:
            first, second = (self._size(one) for one in value.args)
            return first * second if op == "relax.multiply" else first / (second or USUAL)
        if op == CALL:
            read = value.args[1].fields
            if str(value.args[0].global_symbol).startswith(ATTENTION):
                return self._size(read[-1])  # a mean of the values
            return self._size(read[0]) * self._size(read[1])
        if op not in KEEPS_SIZE:
            return USUAL
        return max(map(self._size, _tensors(value)), default=USUAL)

    def _given(self, region: Region) -> float:
        """The magnitude that a convolution gives: the largest of its filters' gains, its bias and
        its residual, as far as its activation lets them through."""
        largest = float(filter_norms(region).max()) * self._size(region.x)
        if region.bias is not None:
            largest = max(largest, float(np.abs(region.bias).max()))
        if region.residual is not None and not region.residual_last:
            largest = max(largest, self._size(region.residual))
        if not region.activation.has_slopes:
            # Of exp, where a sigmoid has reached its limits.
            with np.errstate(over="ignore", invalid="ignore"):
                given = region.activation.numpy(np.array([-largest, 0.0, largest]))
            largest = float(np.abs(given).max())
        if region.residual is not None and region.residual_last:
            largest = max(largest, self._size(region.residual))
        return largest

    def _size(self, tensor: relax.Expr) -> float:
        """The magnitude of a tensor that is read: of a constant, seen, or guessed where that is not
        the usual, so that gains of a few are not multiplied from layer to layer."""
        constant = array(tensor)
        if constant is not None:
            return float(np.abs(constant).max(initial=0.0))
        if tensor in self._seen:
            return self._seen[tensor]
        guess = self._guessed.get(tensor, USUAL)
        return USUAL if _within(guess, GUESSED) else guess
