"""Write norms of groups of channels that are outermost as norms of rows.

Before:  y = group_norm(x, scale, shift, num_groups=g)          x (N, C, ...)
After:   t = layer_norm(reshape(x, (N, g, -1)), ones, zeros); y = reshape(t) * scale + shift
Requires: ConvertLayout has run: between convolutions channels are innermost, and it stays a norm
Formula: the identity. The elements of a group lie side by side there, as those of a row
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmconv.passes import graph
from tvmconv.passes.graph import shape
from tvmconv.passes.simplify.group_norms import NORM

#: Where the channels are.
AXIS = 1


def norm_rows() -> tvm.transform.Pass:
    """Returns the pass."""

    @tvm.transform.module_pass(opt_level=0, name="norm_rows")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        body = graph.Body("norm")
        for binding in graph.bindings(mod):
            value = binding.value
            if graph.op_name(value) == NORM and int(value.attrs.channel_axis) == AXIS:
                _write(value, binding.var, body)
            else:
                body.bindings.append(binding)
        return graph.with_bindings(mod, body.bindings, mod["main"].body.body)

    return tvm.transform.Sequential([run, relax.transform.Normalize()], name="norm_rows")


def _write(call: relax.Call, var: relax.Var, body: graph.Body) -> None:
    """Appends the bindings that compute the norm, the last of them of `var`."""
    x, scale, shift = call.args
    sizes, dtype = shape(x), graph.dtype(x)
    groups = int(call.attrs.num_groups)
    row = math.prod(sizes) // sizes[0] // groups
    rows = body.bind(relax.op.reshape(x, (sizes[0], groups, row)))
    ones, zeros = (relax.const(np.full(row, one, dtype)) for one in (1, 0))
    epsilon = float(call.attrs.epsilon)
    t = body.bind(relax.op.nn.layer_norm(rows, ones, zeros, axes=[-1], epsilon=epsilon))
    wide = (-1, *[1] * (len(sizes) - AXIS - 1))
    scale, shift = (body.bind(relax.op.reshape(one, wide)) for one in (scale, shift))
    scaled = body.bind(relax.op.multiply(body.bind(relax.op.reshape(t, sizes)), scale))
    body.bind(relax.op.add(scaled, shift), var)
