"""Readers of a tensor once regions are kernels, and the dtype in which it is written for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from intrinsics.dtypes import FP32
from schedules.conv.precision import Precision
from tvmconv.passes.graph import Dataflow, dtype
from tvmconv.passes.regions.region import Region


def readers(
    var: relax.Var, regions: Mapping[relax.Var, Region], flow: Dataflow
) -> list[Region | str]:
    """Readers of a tensor once regions are kernels: regions, and names of other operators."""
    found: list[Region | str] = ["the network's output"] if var in flow.outputs else []
    inside: set[relax.Var] = set()
    for region in regions.values():
        if any(one.same_as(var) for one in region.reads):
            found.append(region)
            inside |= _covered(region, flow)
    for reader in flow.readers[var]:
        if reader not in inside:
            found.append(_named(reader, flow))
    return found


def _named(reader: relax.Var, flow: Dataflow) -> str:
    op = flow.op(reader).rpartition(".")[2]
    return cast_to(dtype(reader)) if op == "astype" else op or "a tuple"


def cast_to(name: str) -> str:
    """Returns how a reader is named that casts to a dtype."""
    return f"a cast to {name}"


def _covered(region: Region, flow: Dataflow) -> set[relax.Var]:
    """Variables whose computation the region's kernel replaces."""
    covered: set[relax.Var] = set()
    waiting: list[relax.Expr] = [region.output]
    while waiting:
        var = waiting.pop()
        if not isinstance(var, relax.Var) or var in covered:
            continue
        if any(var.same_as(one) for one in region.reads):
            continue
        covered.add(var)
        value = flow.values.get(var)
        waiting += list(value.args) if isinstance(value, relax.Call) else []
    return covered


#: Operators that only move or compare values, so that narrow results equal rounded fp32 results.
FOLLOWS_INPUT = (
    "relax.nn.max_pool2d",
    "relax.nn.relu",
    "relax.maximum",
    "relax.minimum",
    "relax.concat",
    "relax.permute_dims",
    "relax.reshape",
)


#: Operators of which a rounded operand rounds the result no more than its own rounding does: means,
#: norms, and products, those of two computed tensors among them (`passes.products`).
KEEPS_ERROR = (
    "relax.call_dps_packed",
    "relax.mean",
    "relax.multiply",
    "relax.nn.avg_pool2d",
    "relax.nn.group_norm",
    "relax.nn.layer_norm",
)


def written(
    region: Region,
    var: relax.Var,
    regions: Mapping[relax.Var, Region],
    flow: Dataflow,
    precision: Precision,
) -> Precision:
    """Returns the precision in which a tensor is computed that regions, `region` among them, write.

    It is fp32 where fp16 does not hold the result; else `precision` where somebody reads the result
    as convolutions do; unrounded, in fp32, where nobody does, or where it is cast to whole numbers,
    as sums of such are. Pools, norms and the factors of squeeze-and-excite read what the
    convolution gives as convolutions do.
    """
    if region.wide or _becomes_whole(var, flow):
        return replace(precision, result=FP32.name)
    if var in regions and regions[var].pool is not None:
        return precision
    if read_narrow(var, regions, flow, precision):
        return precision
    return replace(precision, result=FP32.name)


def read_narrow(
    var: relax.Var, regions: Mapping[relax.Var, Region], flow: Dataflow, precision: Precision
) -> bool:
    """True if somebody reads a tensor as convolutions do, in the dtype that they multiply."""
    for reader in readers(var, regions, flow):
        if isinstance(reader, Region) or reader == cast_to(precision.x):
            return True
        if {f"relax.{reader}", f"relax.nn.{reader}"} & {*FOLLOWS_INPUT, *KEEPS_ERROR}:
            return True
    return False


def _becomes_whole(var: relax.Var, flow: Dataflow) -> bool:
    """True if a tensor, moved or not, is cast to integers, which an importer may guard by a where
    for what is not finite."""
    for reader in flow.readers[var]:
        if flow.op(reader) == "relax.astype" and "int" in dtype(reader):
            return True
        if flow.op(reader) in (*FOLLOWS_INPUT, "relax.where") and _becomes_whole(reader, flow):
            return True
    return False
