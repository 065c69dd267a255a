"""The precision of a convolution: the dtypes of its operands, accumulators and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from intrinsics import dtypes

#: Names of the scales: `schedules.expressions.compute.finished` has the formula. Each is an operand
#: of the kernel, fp32 (K,).
SCALE, RESIDUAL_SCALE, RESULT_SCALE, RESULT_ZERO = SCALES = (
    "scale", "residual_scale", "result_scale", "result_zero",
)  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """``result = cast(epilogue(sum of cast(x) * weight))``, each in a dtype of `intrinsics.dtypes`.

    Quantised tensors are int8 or uint8; their real values are (number - zero point) * scale. The
    zero point of x is a part of the bias, and has to be 0 where x is padded, as kernels pad with
    zeros. Weights have no zero point.

    Raises ``LookupError`` for an unknown dtype, ``ValueError`` for a bad split or unknown scales.
    """

    #: Dtype of x in memory.
    x: str = dtypes.FP16.name
    #: Dtypes that are multiplied: of x, which is rounded to it, and of the weight.
    operands: tuple[str, str] = (dtypes.FP16.name, dtypes.FP16.name)
    #: Dtype of the accumulators.
    accumulator: str = dtypes.FP32.name
    #: Dtype of y in memory.
    result: str = dtypes.FP16.name
    #: Number of terms that each operand is split into; 1 if it is not split.
    split: int = 1
    #: Those of `SCALES` that the epilogue has, in their order.
    scales: tuple[str, ...] = ()
    #: Dtype of the residual in memory, if it differs from that of x.
    residual: str = ""

    def __post_init__(self) -> None:
        for name in (self.x, *self.operands, self.accumulator, self.result, self.added):
            dtypes.get(name)
        if self.split < 1 or self.scales != tuple(one for one in SCALES if one in self.scales):
            raise ValueError(f"{self!r}: split is at least 1, scales are some of {SCALES} in order")

    @property
    def sums(self) -> bool:
        """True if the result is the sums of integers themselves, without an epilogue."""
        return self.result == self.accumulator and dtypes.get(self.result).integer

    @property
    def added(self) -> str:
        """Dtype of the residual in memory."""
        return self.residual or self.x

    @property
    def products(self) -> str:
        """The dtypes that are multiplied, such as ``f16`` or ``u8 x s8``."""
        return " x ".join(dict.fromkeys(dtypes.get(one).ptx for one in self.operands))

    def __str__(self) -> str:
        text = (
            f"{self.products} + {dtypes.get(self.accumulator).ptx} -> {dtypes.get(self.result).ptx}"
        )
        return text + (f", {self.split} terms" if self.split > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        lists = {"operands": list(self.operands), "scales": list(self.scales)}
        fields = {**asdict(self), **lists}
        # Left out if there is none, as in records from before quantised residuals.
        if not self.residual:
            del fields["residual"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Precision:
        """Returns the precision with those fields. Raises as the constructor does."""
        pairs = {name: tuple(fields[name]) for name in ("operands", "scales")}
        return cls(**{**fields, **pairs})


#: By their names in `tvmconv.build`.
FP16 = Precision()
BF16 = Precision(dtypes.BF16.name, (dtypes.BF16.name, dtypes.BF16.name), result=dtypes.BF16.name)
#: Sums of integers, which a workload scales.
INT8, UINT8 = (
    Precision(x, (x, dtypes.INT8.name), dtypes.INT32.name, dtypes.INT32.name)
    for x in (dtypes.INT8.name, dtypes.UINT8.name)
)
PRECISIONS: dict[str, Precision] = {"fp16": FP16, "bf16": BF16}
