"""Fuse casts around a pool or a norm into its kernel, and the activation behind a norm of groups.

Before:  h = astype(x, float32); y = avg_pool2d(h); z = astype(y, float16)
After:   z = fused(x), a function of these three, which FuseTIR turns into one kernel; also where h
         is what DequantizeLinear gives: astype(x, float32) * scale, or that plus a constant;
         and where relu, or silu as multiply(y, sigmoid(y)), follows a group_norm y
Requires: operators that are not legalised yet (FuseOps fuses only the casts behind)
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
    "relax.nn.group_norm": 2,
    "relax.nn.layer_norm": 2,
}
#: What has an activation behind it.
ACTIVATED = ("relax.nn.group_norm",)
#: Name of a value that a pattern reads twice.
TWICE = "read twice"
Pattern = tuple[str, DFPattern, Mapping[str, DFPattern], Callable[[PatternCheckContext], bool]]


def _read_once(context: PatternCheckContext) -> bool:
    """True if the values that would no longer be written have no other reader."""
    return all(
        len(context.var_usages[context.value_to_bound_var[one]]) == (2 if name == TWICE else 1)
        for name, one in context.annotated_expr.items()
    )


def _patterns() -> list[Pattern]:
    """Patterns to fuse, the larger ones first, since the first match is taken."""
    whole: list[Pattern] = []
    before: list[Pattern] = []
    for name, further in FURTHER.items():
        short = f"tvmconv.{name.rpartition('.')[2]}"
        for inner in (*_before(), {}):
            operands = [wildcard() for _ in range(further)]
            y: Any = is_op(name)(next(reversed(inner.values()), wildcard()), *operands)
            ends = [*(_activations(y) if name in ACTIVATED else ()), *([(y, {})] if inner else ())]
            for end, values in ends:
                known = {**inner, **values}
                whole.append((short, is_op("relax.astype")(end), {**known, "y": end}, _read_once))
                before.append((short, end, known, _read_once))
    return [*whole, *before]


def _activations(y: Any) -> list[tuple[Any, dict[str, DFPattern]]]:
    """Patterns of activations of y, each with the values inside by name."""
    gate = is_op("relax.sigmoid")(y)
    silu = is_op("relax.multiply")(y, gate)
    return [(silu, {TWICE: y, "gate": gate}), (is_op("relax.nn.relu")(y), {"norm": y})]


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
