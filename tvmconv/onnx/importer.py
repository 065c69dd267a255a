"""TVM's ONNX importer, but for the operators that it gets wrong or no pass recognises."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv.onnx import resize
from tvmconv.onnx.operators import OWN
from tvmconv.passes.graph import bindings, op_name

#: An attribute of ``main``: by the name of a variable the ONNX node that it is the result of, and
#: the operator of Relax that gives it.
NODES = "onnx_nodes"


class Importer(onnx_frontend.ONNXGraphImporter):
    """Builds a Relax module from a graph that `supported.unsupported` has nothing against.

    Its ``main`` says in the attribute `NODES` which variables are results of nodes.
    """

    def from_onnx(self, graph: onnx.GraphProto, opset: int) -> tvm.IRModule:
        """The graph as a module with one function, ``main``."""
        mod = super().from_onnx(graph, opset)
        values = {binding.var: binding.value for binding in bindings(mod)}
        bound = {value: var for var, value in values.items()}
        nodes: dict[str, list[str]] = {}
        for node in graph.node:
            for output in node.output:
                made = self._nodes.get(output)
                var = made if isinstance(made, relax.Var) else bound.get(made)
                if var is not None and var in values:
                    # An Identity has the variable of the node before it.
                    nodes.setdefault(var.name, [node.name, op_name(values[var])])
        mod["main"] = mod["main"].with_attr(NODES, nodes)
        return mod

    def _sanitize_name(self, name: str) -> str:
        """An identifier of its own, in C as well: kernels call what they read by this name."""
        return str(self._name_supply.fresh_name("in_" + re.sub(r"\W", "_", name, flags=re.ASCII)))

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        if op_name in ("Resize", "Upsample"):
            return self._resize(op_name, inputs, attrs, opset)
        own = OWN[op_name](self.bb, inputs, attrs, opset) if op_name in OWN else None
        if own is not None:
            return self.bb.normalize(own)
        result = super()._convert_operator(op_name, inputs, attrs, opset)
        # Bound now and not where it is first used: `regions` knows nodes by their order.
        return self.bb.emit(result) if op_name in ("Gemm", "MatMul") else result

    def _resize(
        self, op_name: str, inputs: Sequence[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        """By `resize`, but for what TVM's operator does faster: repeating every pixel."""
        old = op_name == "Upsample" or opset < 11
        scales, sizes = ([*inputs[1:], None, None] if old else [*inputs[2:], None, None])[:2]
        if op_name == "Upsample" and "scales" in attrs:
            scales = relax.const(np.array(attrs["scales"], "float32"))
        if scales is not None and 0 in map(int, scales.ty.shape):
            scales = None  # how opset 11 leaves it out
        how = resize.attributes(attrs, old)
        x = inputs[0]
        shape = [int(size) for size in x.ty.shape]
        factors = _by_axis(scales, attrs, len(shape), [1.0] * len(shape))
        targets = None if factors else _by_axis(sizes, attrs, len(shape), shape)
        if not resize.repeats(shape, factors, targets, how):
            return self.bb.normalize(resize.resize(self.bb, x, factors, targets, how))
        # TVM's converter is written for opset 18. Of the coordinates that say the same, these are
        # the ones for which no rounding is near a tie.
        plain = {
            "mode": b"nearest",
            "coordinate_transformation_mode": b"half_pixel",
            "nearest_mode": b"round_prefer_floor",
            "tvm_custom": attrs["tvm_custom"],
        }
        given = [
            None if one is None else relax.const(np.array(one, dtype))
            for one, dtype in ((factors, "float32"), (targets, "int64"))
        ]
        return super()._convert_operator("Resize", [x, None, *given], plain, 18)


def _by_axis(
    given: relax.Expr | None, attrs: dict[str, Any], rank: int, default: Sequence[Any]
) -> list[Any] | None:
    """The values of a constant, one for each axis; given for some `axes`, `default` for others."""
    if given is None:
        return None
    values = list(default)
    axes = attrs.get("axes", range(rank))
    for axis, value in zip(axes, given.value.numpy().tolist(), strict=True):
        values[axis] = value
    return values
