"""The simulated tensor core: matrix products of kernels of the family `hmma_sim`.

Kernels call `simulated_product` by name as they run, so it needs TVM's runtime alone. With the
arithmetic of a V100 a product is computed by that GPU's HMMA instructions, lane by lane and
register by register (`intrinsics.volta`); with another arithmetic, by sums of the same rounding
(`intrinsics.numerics.arithmetic`).
"""

from __future__ import annotations

import ctypes
import math
from functools import partial
from typing import Any

import numpy as np
import tvm_ffi
from numpy.typing import NDArray

from intrinsics import volta
from intrinsics.numerics import arithmetic as numerics
from intrinsics.numerics.arithmetic import Numerics
from intrinsics.volta import hmma
from tvmconv.errors import TvmconvError

Array = NDArray[Any]

#: The arithmetic whose instructions are simulated register by register.
VOLTA = numerics.V100
DEFAULT = VOLTA.name
#: HMMA programs by the accumulators' dtype; both operands are row-major, as WMMA loads them.
PROGRAMS = {
    form.accumulator.dtype: volta.program(form, "row", "row") for form in (hmma.F32, hmma.F16)
}


def arithmetic(name: str) -> Numerics:
    """Returns the arithmetic of that name. Raises `TvmconvError` that lists the known ones."""
    try:
        return numerics.get(name)
    except LookupError:
        raise TvmconvError(
            f"there are no numerics {name!r}", hint=f"one of {', '.join(numerics.NUMERICS)}"
        ) from None


def adder(chosen: Numerics) -> volta.Fused:
    """Returns the function by which one HMMA multiplies and adds."""
    return partial(numerics.fused, numerics=chosen)


def matmul(a: Array, b: Array, c: Array, chosen: Numerics) -> Array:
    """``a @ b + c``: float16 (m, k) and (k, n); c and the result (m, n), float32 or float16."""
    if chosen is VOLTA:
        return volta.matmul(a, b, c, adder(chosen), PROGRAMS[c.dtype.name])
    return numerics.matmul(a, b, c, chosen)


@tvm_ffi.register_global_func(numerics.PRODUCT)
def simulated_product(name: str, x: Any, weight: Any, conv: Any) -> None:
    """Computes `conv` of `x` and `weight`, as `intrinsics.numerics.arithmetic.PRODUCT` defines it.

    Raises `TvmconvError` for an unknown arithmetic.
    """
    chosen = arithmetic(name)
    gathered, weights, sums = map(_array, (x, weight, conv))
    groups, outer, rows, inner = gathered.shape
    columns = sums.shape[-1]
    for group in range(groups):
        a = gathered[group].transpose(1, 0, 2).reshape(rows, outer * inner)
        b = weights[group].transpose(0, 1, 3, 2, 4).reshape(outer * inner, -1)[:, :columns]
        sums[group] = matmul(a, b, np.zeros((rows, columns), sums.dtype), chosen)


def _array(tensor: Any) -> Array:
    """A view of a kernel's buffer, valid for one call.

    Not by DLPack, which can keep the memory: for such a buffer it crashes the process.
    """
    dtype = np.dtype(str(tensor.dtype))
    size = math.prod(tensor.shape) * dtype.itemsize
    memory = (ctypes.c_char * size).from_address(tensor.data_ptr())
    return np.frombuffer(memory, dtype).reshape(tensor.shape)
