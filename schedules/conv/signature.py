"""The operands of a kernel: one list that schedules, kernels, graph, tuner and tests read.

In order: x, [gate], [prologue], weight, [bias], [slope], [scales...], [residual], the result y.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload

Shape = tuple[int, ...]

#: Dtype of the operands with one number for each output channel: bias, slopes and scales.
CHANNEL = dtypes.FP32.name
#: Names of operands.
X, GATE, PROLOGUE, WEIGHT, BIAS, SLOPE, RESIDUAL, Y = (
    "x", "gate", "prologue", "weight", "bias", "slope", "residual", "y",
)  # fmt: skip


def channel_operands(w: ConvWorkload) -> tuple[str, ...]:
    """Returns the names of the epilogue's operands with one number per output channel, in order."""
    epilogue = w.epilogue
    names = [BIAS] * epilogue.bias + [SLOPE] * epilogue.activation.has_slopes
    return (*names, *w.precision.scales)


@dataclass(frozen=True)
class Operand:
    """One operand of a kernel, as it lies in memory.

    layout: the text of a `Layout`; ``"K"`` for one number per output channel; or ``"packed"`` for
    an order that the family defines.
    """

    name: str
    dtype: str
    shape: Shape
    layout: str

    @property
    def bytes(self) -> int:
        """Size in memory, in bytes."""
        return math.prod(self.shape) * dtypes.get(self.dtype).bytes


@dataclass(frozen=True)
class Signature:
    """The operands of a kernel in order; the last is the result. Indexed by name."""

    operands: tuple[Operand, ...]

    @classmethod
    def of(cls, w: ConvWorkload, weight: Shape, prologue: Shape | None = None) -> Signature:
        """Returns the signature of a kernel, given the shapes of its packed weight and prologue."""
        precision, epilogue = w.precision, w.epilogue
        first, multiplied = w.apart[0], dtypes.get(precision.operands[1]).stored
        found = [Operand(X, first.precision.x, w.in_shape, str(first.in_layout))]
        if w.gate:
            found.append(Operand(GATE, precision.x, w.gate_shape, str(w.in_layout)))
        if prologue is not None:
            found.append(Operand(PROLOGUE, multiplied, prologue, "packed"))
        found.append(Operand(WEIGHT, multiplied, weight, "packed"))
        found += [Operand(name, CHANNEL, (w.k_stored,), "K") for name in channel_operands(w)]
        if epilogue.residual:
            layout = str(epilogue.residual_layout)
            found.append(Operand(RESIDUAL, precision.added, w.residual_shape, layout))
        found.append(Operand(Y, precision.result, w.buffer_shape, str(w.out_layout)))
        return cls(tuple(found))

    def __iter__(self) -> Iterator[Operand]:
        return iter(self.operands)

    def __contains__(self, name: str) -> bool:
        return any(operand.name == name for operand in self.operands)

    def __getitem__(self, name: str) -> Operand:
        for operand in self.operands:
            if operand.name == name:
                return operand
        raise LookupError(f"no operand {name!r}: {', '.join(one.name for one in self.operands)}")

    @property
    def constants(self) -> tuple[Operand, ...]:
        """Operands that are known at build time: all but x, gate, residual and y."""
        return tuple(one for one in self.operands if one.name not in (X, GATE, RESIDUAL, Y))

    def pack(
        self, given: Mapping[str, NDArray[Any]], **packed: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        """Returns all constants by name, in the order of the kernel.

        packed: the arrays that the family packed itself. The others, with one number per output
        channel, are taken from `given` and padded with zeros. Raises ``KeyError`` if one is
        missing.
        """
        found = {}
        for operand in self.constants:
            array = packed.get(operand.name)
            if array is None:
                array = np.zeros(operand.shape, dtypes.get(operand.dtype).numpy)
                array[: len(given[operand.name])] = given[operand.name]
            assert array.shape == operand.shape, f"{operand.name} is packed as {array.shape}"
            assert array.dtype == dtypes.get(operand.dtype).numpy
            found[operand.name] = array
        return found
