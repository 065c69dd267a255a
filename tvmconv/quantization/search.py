"""Which layers go back to floating point, so that the error of the outputs is below a bound.

Rounding errors of layers are nearly independent, so their powers add up:

    error(layers)^2 ~ sum of error({layer})^2

A layer that goes back gives its own term back, and costs the microseconds that it saved. Those with
the most error^2 for a microsecond go first; how many have to is found by bisection, each step of
which measures the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx

from tvmconv.errors import QuantizationError
from tvmconv.quantization.accuracy import Reference

#: Feeds that a layer alone is measured on: its error is a mean of squares over all pixels already.
ALONE_FEEDS = 8
#: Divides errors in place of 0: a layer that saves nothing goes back first.
NOTHING_US = 1e-6

#: Writes the model with the layers of these names in 8 bits.
Write = Callable[[Collection[str]], onnx.ModelProto]


@dataclass(frozen=True)
class Found:
    """Layers that stay in 8 bits, and the error that each has alone."""

    names: tuple[str, ...]
    error: float
    #: Relative l2 error of the outputs with one layer in 8 bits; empty if nobody had to know.
    alone: Mapping[str, float]


def within(
    max_error: float,
    names: Collection[str],
    savings: Mapping[str, float],
    write: Write,
    finish: Write,
    reference: Reference,
) -> Found:
    """Returns layers whose outputs have a relative l2 error of at most `max_error`.

    names: the layers that can be in 8 bits, in order. savings: microseconds by name. finish: as
    the model will be; write: nearly so, and faster, for what a layer costs alone.
    Raises `QuantizationError` if no layer could stay in 8 bits.
    """
    everything = tuple(names)
    error = reference.error(finish(everything))
    if error <= max_error or not everything:
        return Found(everything, error, {})
    alone = {name: reference.error(write([name]), ALONE_FEEDS) for name in everything}
    order = sorted(
        everything,
        key=lambda name: alone[name] ** 2 / max(savings[name], NOTHING_US),
        reverse=True,
    )
    errors = {0: error}

    def reached(back: int) -> bool:
        kept = [name for name in everything if name not in order[:back]]
        errors[back] = reference.error(finish(kept))
        return errors[back] <= max_error

    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if reached(middle):
            enough = middle
        else:
            too_few = middle
    if enough == len(order):
        least = min(everything, key=lambda name: alone[name])
        raise QuantizationError(
            f"an error of {max_error:g} leaves no layer in int8",
            note=f"with all {len(everything)} the error is {error:.2e}; with {least!r} alone, "
            f"whose is the least, {alone[least]:.2e}",
            hint="allow a larger error, give more feeds, or keep the model in fp16",
        )
    back = set(order[:enough])
    return Found(tuple(n for n in everything if n not in back), errors[enough], alone)
