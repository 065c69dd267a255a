"""The element types that kernels read, multiply, accumulate and write: one row each.

Other files know a dtype by its name, which is NumPy's (with `ml_dtypes`) and TVM's. Everything else
about it is here. Sources: IEEE 754-2019 for binary16 and binary32; PTX ISA,
"Fundamental Types" and "Alternate Floating-Point Data Formats"
(https://docs.nvidia.com/cuda/parallel-thread-execution/#alternate-floating-point-data-formats);
OCP 8-bit Floating Point Specification for e4m3 and e5m2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class ElementType:
    """One element type.

    ``accumulators`` are the names of the types in which tensor cores accumulate its products. The
    tuple is empty for a type that they do not multiply.
    """

    name: str
    #: Bits that the hardware reads: 19 of tf32's 32.
    bits: int
    #: PTX's suffix, as in ``mma.sync...f32.f16.f16.f32``.
    ptx: str
    accumulators: tuple[str, ...] = ()
    #: Name of the dtype in memory, if it differs from `name`.
    storage: str = field(default="", kw_only=True)
    #: Explicit bits of the significand; 0 for integers.
    fraction: int = field(default=0, kw_only=True)
    #: Exponent of the smallest normal number.
    least_exponent: int = field(default=0, kw_only=True)

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype of its arrays."""
        return np.dtype(getattr(ml_dtypes, self.stored, self.stored))

    @property
    def stored(self) -> str:
        """Name of the dtype in memory."""
        return self.storage or self.name

    @cached_property
    def bytes(self) -> int:
        """Bytes of an element in memory."""
        return self.numpy.itemsize

    @property
    def per_register(self) -> int:
        """Elements that share a 32-bit register."""
        return max(1, 4 // self.bytes)

    @property
    def integer(self) -> bool:
        """True for integers, whose sums are exact."""
        return self.fraction == 0

    @property
    def largest(self) -> float:
        """The largest finite number."""
        info: Any = np.iinfo(self.numpy) if self.integer else ml_dtypes.finfo(self.numpy)
        return float(info.max)

    @property
    def unit(self) -> float:
        """Unit roundoff: half the distance from 1 to the next number."""
        return 2.0 ** -(self.fraction + 1)

    @property
    def smallest(self) -> float:
        """The smallest positive number, subnormal."""
        return 2.0 ** (self.least_exponent - self.fraction)


FP16 = ElementType("float16", 16, "f16", ("float32", "float16"), fraction=10, least_exponent=-14)
BF16 = ElementType("bfloat16", 16, "bf16", ("float32",), fraction=7, least_exponent=-126)
TF32 = ElementType(
    "tfloat32", 19, "tf32", ("float32",), storage="float32", fraction=10, least_exponent=-126
)
FP32 = ElementType("float32", 32, "f32", fraction=23, least_exponent=-126)
E4M3 = ElementType(
    "float8_e4m3fn", 8, "e4m3", ("float32", "float16"), fraction=3, least_exponent=-6
)
E5M2 = ElementType("float8_e5m2", 8, "e5m2", ("float32", "float16"), fraction=2, least_exponent=-14)
INT8 = ElementType("int8", 8, "s8", ("int32",))
UINT8 = ElementType("uint8", 8, "u8", ("int32",))
INT32 = ElementType("int32", 32, "s32")

TYPES: tuple[ElementType, ...] = (FP16, BF16, TF32, FP32, E4M3, E5M2, INT8, UINT8, INT32)
_BY_NAME = {one.name: one for one in TYPES}


def get(name: str) -> ElementType:
    """Returns the element type of that name. Raises ``LookupError``, which lists the known
    names.
    """
    if name not in _BY_NAME:
        raise LookupError(f"no element type {name!r}: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
