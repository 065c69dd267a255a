"""The call of a product's kernel, in place of the call that stands for it.

Before:  y = call_dps_packed("tvmconv.attention.0", (qkv, qkv, mask, qkv))       # fp32
After:   y = reshape(call_tir(attention, (qkv, qkv, mask, qkv)))                 # of fp16, say
Requires: as `lower_convs`, of which it is a part
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax, tirx

from intrinsics import dtypes
from schedules.products.choose import ProductChoice
from schedules.products.workload import ADDED, MASK
from tvmconv.passes.graph import array
from tvmconv.passes.products.plan_products import PlannedProduct, ProductPlan, product_names

#: relax's OpPatternKind kOpaque.
OPAQUE = 8


class ProductKernels:
    """The kernels of a module's products, each made once for all that are alike."""

    def __init__(self, builder: relax.BlockBuilder, planned: ProductPlan, outlined: bool) -> None:
        self._builder, self._outlined = builder, outlined
        self._names = product_names(planned)
        self._made: dict[ProductChoice, tvm.ir.GlobalVar] = {}

    def call(
        self,
        planned: PlannedProduct,
        read: Callable[[relax.Expr, float], relax.Expr],
        wide: Callable[[relax.Expr], relax.Expr],
        reshaped: Callable[[relax.Expr, tuple[int, ...]], relax.Expr],
    ) -> relax.Expr:
        """Emits the call, and returns its result as one row of elements.

        read: gives a tensor, times a power of two, in the dtype that is multiplied. wide: gives a
        tensor as it is in the graph. reshaped: reshapes one.
        """
        emit, product = self._builder.emit, planned.product
        args = []
        named = zip(planned.operands, product.reads, planned.scales, strict=True)
        for operand, tensor, scale in named:
            constant = array(tensor)
            if constant is not None:
                numbers = (constant * scale).astype(dtypes.get(operand.dtype).numpy)
                args.append(relax.const(np.ascontiguousarray(numbers.reshape(-1))))
                continue
            whole = operand.name in (MASK, ADDED)
            value = wide(tensor) if whole else read(tensor, scale)
            args.append(reshaped(value, operand.shape))
        result = planned.result
        out = relax.TensorType(result.shape, result.dtype)
        if self._outlined:
            return emit(relax.call_dps_packed(product.symbol, args, out))
        return emit(relax.call_tir(self._kernel(planned.choice), args, out))

    def _kernel(self, choice: ProductChoice) -> tvm.ir.GlobalVar:
        if choice not in self._made:
            function = opaque(choice.schedule())
            self._made[choice] = self._builder.add_func(function, self._names[choice])
        return self._made[choice]


def opaque(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A scheduled function that later passes neither schedule nor fuse anything into."""
    function = function.without_attr("global_symbol")
    return function.with_attrs({"tirx.is_scheduled": True, "op_pattern": OPAQUE})
