"""Fuse the casts around a pool or a norm into its kernel; FuseOps fuses only those behind it.

Before:  h = astype(x, float32); y = avg_pool2d(h); z = astype(y, float16)
After:   z = fused(x), a function of these three, which FuseTIR turns into one kernel; also where h
         is what DequantizeLinear gives: astype(x, float32) * scale, or that plus a constant
Requires: operators that are not legalised yet
Formula: the same operations; intermediate values stay in registers, in fp32
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm.relax.dpl import DFPattern, is_const, is_op, wildcard
from tvm.relax.transform import FuseOpsByPattern, PatternCheckContext

#: How many operands each has besides the one that is cast.
FURTHER = {
    "relax.nn.avg_pool2d": 0,
    "relax.nn.max_pool2d": 0,
    "relax.mean": 0,
    "relax.nn.layer_norm": 2,
}
Pattern = tuple[str, DFPattern, Mapping[str, DFPattern], Callable[[PatternCheckContext], bool]]


def _read_once(context: PatternCheckContext) -> bool:
    """True if the values that would no longer be written have no other reader."""
    inner = [context.value_to_bound_var[one] for one in context.annotated_expr.values()]
    return all(len(context.var_usages[var]) == 1 for var in inner)


def _patterns() -> list[Pattern]:
    """Patterns to fuse, the larger ones first, since the first match is taken."""
    whole: list[Pattern] = []
    before: list[Pattern] = []
    for name, further in FURTHER.items():
        short = f"tvmconv.{name.rpartition('.')[2]}"
        for inner in _before():
            operands = [wildcard() for _ in range(further)]
            y: Any = is_op(name)(next(reversed(inner.values())), *operands)
            whole.append((short, is_op("relax.astype")(y), {**inner, "y": y}, _read_once))
            before.append((short, y, inner, _read_once))
    return [*whole, *before]


def _before() -> list[dict[str, DFPattern]]:
    """Patterns before it by name, in order: arithmetic of a DequantizeLinear, or a cast."""
    cast: Any = is_op("relax.astype")(wildcard())
    scaled: Any = is_op("relax.multiply")(cast, is_const())
    shifted: Any = is_op("relax.add")(scaled, is_const())
    steps = {"cast": cast, "scaled": scaled, "shifted": shifted}
    return [dict(list(steps.items())[:count]) for count in (3, 2, 1)]


def fuse_casts() -> tvm.transform.Pass:
    """Returns the pass."""
    fuse = FuseOpsByPattern(_patterns(), bind_constants=False, annotate_codegen=False)
    return tvm.transform.Sequential([fuse], name="fuse_casts")
