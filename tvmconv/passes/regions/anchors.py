"""The calls of Relax that a region can begin with: convolutions, and products of a matrix."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from tvmconv.passes.graph import Dataflow, dtype, is_constant, shape

CONVOLUTIONS = ("relax.nn.conv2d", "relax.nn.conv2d_transpose")


def anchors(mod: tvm.IRModule) -> list[relax.Expr]:
    """The weights of all calls that a region can begin with, in the order of the graph.

    A call is known by its weight, since other passes make new calls but keep the constants. The
    ONNX nodes of the same order are `tvmconv.onnx.kinds.convolutions`.
    """
    flow = Dataflow.of(mod)
    return [value.args[1] for var, value in flow.values.items() if is_anchor(var, flow)]


def is_anchor(var: relax.Var, flow: Dataflow) -> bool:
    """True for the result of a convolution, and of a product with a constant fp32 matrix, which is
    a 1x1 convolution."""
    if flow.op(var) != "relax.matmul":
        return flow.op(var) in CONVOLUTIONS
    x, matrix = flow.values[var].args
    constant = is_constant(matrix) and len(shape(matrix)) == 2 and dtype(matrix) == "float32"
    return constant and len(shape(x)) >= 2


def positions(flow: Dataflow, named: Sequence[tuple[relax.Expr, str]]) -> dict[relax.Var, int]:
    """The place in `named` of each result of a call with a constant weight, in order.

    named: weights, as `anchors` returns them, with the name of each ONNX node.
    """
    found: dict[relax.Var, int] = {}
    left = dict(enumerate(named))
    for var, value in flow.values.items():
        if is_anchor(var, flow) and is_constant(value.args[1]):
            # Products that share a matrix are in order.
            at = next(i for i, (weight, _) in left.items() if weight.same_as(value.args[1]))
            del left[at]
            found[var] = at
    return found
