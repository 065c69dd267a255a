"""Find each convolution together with all that its kernel can do.

Before:  y = conv2d(pad(x), weight); y = batch norm, bias; y = add(y, residual); y = relu(y)
After:   the same bindings, and a `Region` that says all of it; `lower_convs` puts a kernel in
         the place of the last of them, and what nobody reads any more goes
Requires: NHWC activations, constant weights; whatever is absorbed has no other reader
Formula: y = activation(conv(x, weight) + bias + residual), the `Epilogue` of schedules
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import tvm
from tvm import relax

from tvmconv.passes.graph import Dataflow, dtype, is_constant, shape
from tvmconv.passes.regions.absorb_activation import activation_after
from tvmconv.passes.regions.absorb_pad import pad_before
from tvmconv.passes.regions.absorb_residual import residual_after
from tvmconv.passes.regions.absorb_scale import scale_after
from tvmconv.passes.regions.region import Region

#: What a region is made of, besides what it absorbs.
ANCHORS = ("relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul")


#: Each gives the region with one thing more in it, or None.
RULES: tuple[Callable[[Region, Dataflow], Region | None], ...] = (
    scale_after,
    residual_after,
    activation_after,
)


def anchors(mod: tvm.IRModule) -> list[relax.Expr]:
    """The weights of all that could become a region, in the order of the graph: what they are
    known by, as other passes make new calls but keep the constants."""
    flow = Dataflow.of(mod)
    return [
        value.args[1]
        for var, value in flow.values.items()
        if flow.op(var) in ANCHORS and (flow.op(var) != "relax.matmul" or _is_linear(value))
    ]


def find_regions(
    mod: tvm.IRModule, named: Sequence[tuple[relax.Expr, str]]
) -> dict[relax.Var, Region]:
    """Every convolution of `mod` with constant weights, by the variable that it computes.

    named: weights, as `anchors` gives them, with the ONNX node of each.
    """
    flow = Dataflow.of(mod)
    found = {}
    left = list(named)
    # A sum of two convolutions is the residual of the first; the other then ends before it.
    taken: set[relax.Var] = set()
    for var, value in flow.values.items():
        if flow.op(var) not in ANCHORS or not is_constant(value.args[1]):
            continue
        if flow.op(var) == "relax.matmul" and not _is_linear(value):
            continue
        # Of products that share a matrix, the first comes first.
        at = next(i for i, (weight, _) in enumerate(left) if weight.same_as(value.args[1]))
        name = left.pop(at)[1]
        region = grow(_anchor(name, flow.op(var), var, value), flow, taken)
        found[region.output] = region
    return found


def grow(region: Region, flow: Dataflow, taken: set[relax.Var]) -> Region:
    """The region with all that the rules let it absorb and no other region has taken; what it
    absorbs is taken then."""
    region = pad_before(region, flow)
    while (larger := _absorbed(region, flow)) is not None and larger.output not in taken:
        region = larger
        taken.add(region.output)
    return region


def _absorbed(region: Region, flow: Dataflow) -> Region | None:
    for rule in RULES:
        larger = rule(region, flow)
        if larger is not None:
            return larger
    return None


def _is_linear(call: relax.Call) -> bool:
    """Whether a matmul is of a constant matrix, which makes it a 1x1 convolution."""
    x, weight = call.args
    matrix = is_constant(weight) and len(shape(weight)) == 2 and dtype(weight) == "float32"
    return matrix and len(shape(x)) >= 2


def _anchor(name: str, op: str, var: relax.Var, call: relax.Call) -> Region:
    weight = call.args[1].value.numpy()
    x_shape = shape(call.args[0])
    if op == "relax.matmul":
        rows = math.prod(x_shape[:-1])
        matrix = weight.T[:, :, None, None]
        return Region(name, op, call.args[0], (rows, 1, 1, x_shape[-1]), var, matrix, (1, 1))
    attributes = call.attrs
    n, h, w, c = x_shape
    _, p, q, _ = shape(call)
    stride_h, stride_w = map(int, attributes.strides)
    top, left, bottom, right = map(int, attributes.padding)
    dilation_h, dilation_w = map(int, attributes.dilation)
    region = Region(
        name,
        op,
        call.args[0],
        (n, h, w, c),
        var,
        weight,
        (p, q),
        stride=(stride_h, stride_w),
        padding=(top, left, bottom, right),
        dilation=(dilation_h, dilation_w),
        groups=int(attributes.groups),
    )
    return region if region.transposed else replace(region, weight=weight.transpose(0, 3, 1, 2))
