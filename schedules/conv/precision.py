"""The precision of a convolution: what its operands, accumulators and results are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from intrinsics import dtypes


@dataclass(frozen=True)
class Precision:
    """``result = cast(epilogue(sum of cast(x) * weight))``, each in a dtype of `intrinsics.dtypes`.

    Raises ``ValueError`` for what is no precision, ``LookupError`` for an unknown dtype.
    """

    #: x and the residual in memory.
    x: str = dtypes.FP16.name
    #: What is multiplied: of x, which is rounded to it, and of the weight.
    operands: tuple[str, str] = (dtypes.FP16.name, dtypes.FP16.name)
    #: The sum of the products.
    accumulator: str = dtypes.FP32.name
    #: y in memory.
    result: str = dtypes.FP16.name
    #: Terms that each operand is a sum of; 1: it is not split.
    split: int = 1
    #: Scales that the epilogue multiplies with, by name: one operand of the kernel each.
    scales: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.x, *self.operands, self.accumulator, self.result):
            dtypes.get(name)
        if self.split < 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"{self!r}: at least one term, and every scale once")

    def __str__(self) -> str:
        operands = " x ".join(dict.fromkeys(dtypes.get(one).ptx for one in self.operands))
        text = f"{operands} + {dtypes.get(self.accumulator).ptx} -> {dtypes.get(self.result).ptx}"
        return text + (f", {self.split} terms" if self.split > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return {**asdict(self), "operands": list(self.operands), "scales": list(self.scales)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Precision:
        """Returns the precision of those fields. Raises as the constructor does."""
        pairs = {name: tuple(fields[name]) for name in ("operands", "scales")}
        return cls(**{**fields, **pairs})


#: What `tvmconv.build` calls them.
FP16 = Precision()
BF16 = Precision(dtypes.BF16.name, (dtypes.BF16.name, dtypes.BF16.name), result=dtypes.BF16.name)
PRECISIONS: dict[str, Precision] = {"fp16": FP16, "bf16": BF16}
