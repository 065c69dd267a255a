"""Errors of a network's outputs against a reference: `CompareReport`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tvmconv.reports.data.report import Report, finite_or_none

#: The relative l2 error that a network with fp16 operands and fp32 accumulators should stay below.
BOUND = 5e-3
#: The same for one that rounds activations to 8 bits. Sums of integers are exact, but a number near
#: the middle between two steps is rounded up after one order of fp32 operations and down after
#: another, every layer rounds again what differs, and so single steps add up. Outputs of the zoo's
#: ResNet-18, MobileNetV2 and ResNet-50 in int8, over one to four photos, differ by (relative l2)
#:
#:     ours on llvm, from onnxruntime computing QDQ in fp32     0.72 %   2.1 %   5.1 %
#:     the same, the first convolution in fp16                  2.7 %    5.6 %   9.2 %
#:     onnxruntime without optimisations, from the same         0.87 %   1.6 %   3.5 %
#:     onnxruntime with its integer kernels, from the same      2.1 %    4.8 %   9.3 %
#:     (the same from the float model                           2.9 %    6.0 %   9.7 %)
#:
#: so ours is as far from onnxruntime as that is from itself. The bound is sqrt(2) times the largest
#: error of int8 itself, 9.7 %: so far apart are two approximations of a float network whose errors
#: are that large and independent. Each layer by itself is held to a single step by the tests.
INT8_BOUND = 0.14


@dataclass(frozen=True)
class OutputDifference:
    """The error of one output. Norms and inner products are computed in float64."""

    name: str
    shape: tuple[int, ...]
    #: ||ours - reference|| / ||reference||; None if the reference is all zeros, NaN if either is
    #: not finite.
    relative_l2: float | None
    #: The largest absolute difference.
    max_abs: float
    #: Cosine of the angle between the two; None if one is all zeros.
    cosine: float | None
    #: True if every element of our output is finite.
    finite: bool
    #: A caution about the figures, or "".
    note: str = ""
    #: Shape of every input that was fed, by name.
    fed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def passed(self, bound: float) -> bool:
        """Returns True if the relative l2 error is at most `bound`.

        If the reference is all zeros, returns True if there is no error at all.
        """
        if self.relative_l2 is None:
            return self.max_abs == 0
        return self.finite and self.relative_l2 <= bound  # False for NaN


@dataclass(frozen=True)
class LostRange:
    """An activation that leaves the range of fp16 on the feeds that were compared."""

    #: The convolution, and what it does with the activation: ``reads`` or ``gives``.
    layer: str
    does: str
    tensor: str
    #: The largest magnitude, in fp32.
    largest: float
    #: ||fp16(x) - x|| / ||x||; infinite if fp16 overflows.
    lost: float


@dataclass(frozen=True)
class CompareReport(Report):
    """The error of every output. ``print(report)`` is a table."""

    target: str
    reference: str
    outputs: tuple[OutputDifference, ...]
    #: The relative l2 error that this network should stay below.
    bound: float = BOUND
    #: What fp16 does not hold, if an error is larger than rounding explains.
    lost: tuple[LostRange, ...] = ()

    @property
    def relative_l2(self) -> float:
        """The largest relative l2 error; infinite if one is not defined and not zero."""
        errors = []
        for output in self.outputs:
            if output.relative_l2 is None:
                errors.append(0.0 if output.max_abs == 0 else math.inf)
            else:
                errors.append(math.inf if math.isnan(output.relative_l2) else output.relative_l2)
        return max(errors)

    def passed(self, bound: float | None = None) -> bool:
        """Returns True if every output is finite with a relative l2 error of at most `bound`.

        By default that of the report.
        """
        limit = self.bound if bound is None else bound
        return all(output.passed(limit) for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names, NaN and infinity as None."""
        plain = asdict(self)
        return {**plain, **{of: [*map(finite_or_none, plain[of])] for of in ("outputs", "lost")}}
