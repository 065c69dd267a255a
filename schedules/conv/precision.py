"""The precision of a convolution: the dtypes of its operands, accumulators and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from intrinsics import dtypes


@dataclass(frozen=True)
class Precision:
    """``result = cast(epilogue(sum of cast(x) * weight))``, each in a dtype of `intrinsics.dtypes`.

    Raises ``LookupError`` for an unknown dtype, ``ValueError`` for a bad split or repeated scales.
    """

    #: Dtype of x and the residual in memory.
    x: str = dtypes.FP16.name
    #: Dtypes that are multiplied: of x, which is rounded to it, and of the weight.
    operands: tuple[str, str] = (dtypes.FP16.name, dtypes.FP16.name)
    #: Dtype of the accumulators.
    accumulator: str = dtypes.FP32.name
    #: Dtype of y in memory.
    result: str = dtypes.FP16.name
    #: Number of terms that each operand is split into; 1 if it is not split.
    split: int = 1
    #: Names of the scales that the epilogue multiplies by; each is an operand of the kernel.
    scales: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.x, *self.operands, self.accumulator, self.result):
            dtypes.get(name)
        if self.split < 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"{self!r}: split is at least 1, and scales differ")

    def __str__(self) -> str:
        operands = " x ".join(dict.fromkeys(dtypes.get(one).ptx for one in self.operands))
        text = f"{operands} + {dtypes.get(self.accumulator).ptx} -> {dtypes.get(self.result).ptx}"
        return text + (f", {self.split} terms" if self.split > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {**asdict(self), "operands": list(self.operands), "scales": list(self.scales)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Precision:
        """Returns the precision with those fields. Raises as the constructor does."""
        pairs = {name: tuple(fields[name]) for name in ("operands", "scales")}
        return cls(**{**fields, **pairs})


#: By their names in `tvmconv.build`.
FP16 = Precision()
BF16 = Precision(dtypes.BF16.name, (dtypes.BF16.name, dtypes.BF16.name), result=dtypes.BF16.name)
PRECISIONS: dict[str, Precision] = {"fp16": FP16, "bf16": BF16}
