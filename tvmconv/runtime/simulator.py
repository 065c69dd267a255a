"""What a simulated tensor core does at run time: the products of kernels of `hmma_sim`.

Kernels call it by name, wherever they run, so it needs TVM's runtime alone. With the arithmetic of
a V100 a product goes through the machine's own instructions, every lane and register of them
(`intrinsics.volta`); with another it is sums without registers (`intrinsics.numerics.arithmetic`).
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

#: Whose instructions are simulated register by register.
VOLTA = numerics.V100
DEFAULT = VOLTA.name
#: By the accumulators' dtype; both operands row-major, as the WMMA schedules load them.
PROGRAMS = {
    form.accumulator.dtype: volta.program(form, "row", "row") for form in (hmma.F32, hmma.F16)
}


def arithmetic(name: str) -> Numerics:
    """The arithmetic of that name. Raises `TvmconvError` that lists those there are."""
    try:
        return numerics.get(name)
    except LookupError:
        raise TvmconvError(
            f"there are no numerics {name!r}", hint=f"one of {', '.join(numerics.NUMERICS)}"
        ) from None


def adder(chosen: Numerics) -> volta.Fused:
    """How one HMMA adds."""
    return partial(numerics.fused, numerics=chosen)


def matmul(a: Array, b: Array, c: Array, chosen: Numerics) -> Array:
    """``a @ b + c``: float16 (m, k) and (k, n); c and the result (m, n), float32 or float16."""
    if chosen is VOLTA:
        return volta.matmul(a, b, c, adder(chosen), PROGRAMS[c.dtype.name])
    return numerics.matmul(a, b, c, chosen)


@tvm_ffi.register_global_func(numerics.PRODUCT)
def simulated_product(name: str, x: Any, weight: Any, conv: Any) -> None:
    """Writes Conv, as `intrinsics.numerics.arithmetic.PRODUCT` says. Raises `TvmconvError` for a
    name of no arithmetic."""
    chosen = arithmetic(name)
    gathered, weights, sums = map(_array, (x, weight, conv))
    groups, outer, rows, inner = gathered.shape
    columns = sums.shape[-1]
    for group in range(groups):
        a = gathered[group].transpose(1, 0, 2).reshape(rows, outer * inner)
        b = weights[group].transpose(0, 1, 3, 2, 4).reshape(outer * inner, -1)[:, :columns]
        sums[group] = matmul(a, b, np.zeros((rows, columns), sums.dtype), chosen)


def _array(tensor: Any) -> Array:
    """The memory of a kernel's buffer. A kernel lends it for one call, so that DLPack, by which
    the memory could be kept, ends the process with a segmentation fault."""
    dtype = np.dtype(str(tensor.dtype))
    size = math.prod(tensor.shape) * dtype.itemsize
    memory = (ctypes.c_char * size).from_address(tensor.data_ptr())
    return np.frombuffer(memory, dtype).reshape(tensor.shape)
