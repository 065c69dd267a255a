"""TVM's ONNX importer, with converters of our own for operators that it gets wrong or imports in a
form that no pass recognises.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv.errors import ModelError
from tvmconv.onnx import resize
from tvmconv.onnx.branches import known_shapes
from tvmconv.onnx.operators import OWN

#: An attribute of ``main``: by the name of a variable the ONNX node that it is the result of, and
#: the operator of Relax that gives it.
NODES = "onnx_nodes"


class Importer(onnx_frontend.ONNXGraphImporter):
    """Builds a Relax module from a graph that has passed `supported.unsupported`.

    Its ``main`` says in the attribute `NODES` which variables are results of nodes.
    """

    def from_onnx(self, graph: onnx.GraphProto, opset: int) -> tvm.IRModule:
        """The graph as a module with one function, ``main``."""
        mod = super().from_onnx(graph, opset)
        values = {
            binding.var: binding.value
            for block in mod["main"].body.blocks
            for binding in block.bindings
        }
        bound = {value: var for var, value in values.items()}
        nodes: dict[str, list[str]] = {}
        for node in graph.node:
            for output in node.output:
                made = self._nodes.get(output)
                var = made if isinstance(made, relax.Var) else bound.get(made)
                if var is not None and var in values:
                    # An Identity has the variable of the node before it.
                    nodes.setdefault(var.name, [node.name, _operator(values[var])])
        mod["main"] = mod["main"].with_attr(NODES, nodes)
        self._check_shapes(graph)
        return mod

    def end(self) -> None:
        """Ends what an import that failed has begun: TVM would warn of it on the terminal."""
        with contextlib.suppress(Exception):  # there is no asking whether anything is left
            while True:
                self.bb._end_block()

    def _check_shapes(self, graph: onnx.GraphProto) -> None:
        """Raises `ModelError` for a tensor of another shape than ONNX infers."""
        inferred = known_shapes(graph)
        for node in graph.node:
            for output in node.output:
                made = _shape(self._nodes.get(output))
                wanted = inferred.get(output)
                if made is not None and wanted is not None and made != tuple(wanted):
                    raise ModelError(
                        f"{node.op_type} {node.name!r} would give the shape {made}, "
                        f"where ONNX infers {tuple(wanted)}",
                        note=f"of its output {output!r}",
                        hint="please report the model",
                    )

    def _sanitize_name(self, name: str) -> str:
        """A unique identifier that is valid in C: kernels name their arguments by it."""
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
        # Bound here, not at its first use: nodes are matched to calls by their order.
        return self.bb.emit(result) if op_name in ("Gemm", "MatMul") else result

    def _resize(
        self, op_name: str, inputs: Sequence[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        """Imports by `resize`, except repetition of pixels, which TVM's operator does faster."""
        old = op_name == "Upsample" or opset < 11
        scales, sizes = ([*inputs[1:], None, None] if old else [*inputs[2:], None, None])[:2]
        if op_name == "Upsample" and "scales" in attrs:
            scales = relax.const(np.array(attrs["scales"], "float32"))
        if scales is not None and 0 in map(int, scales.ty.shape):
            scales = None  # an empty tensor is how opset 11 omits it
        how = resize.attributes(attrs, old)
        x = inputs[0]
        shape = [int(size) for size in x.ty.shape]
        factors = _by_axis(scales, attrs, len(shape), [1.0] * len(shape))
        targets = None if factors else _by_axis(sizes, attrs, len(shape), shape)
        if not resize.repeats(shape, factors, targets, how):
            return self.bb.normalize(resize.resize(self.bb, x, factors, targets, how))
        # TVM's converter is written for opset 18. Among equivalent coordinate modes, this one never
        # rounds near a tie.
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


def _shape(value: relax.Expr | None) -> tuple[int, ...] | None:
    """The dimensions of an imported tensor; None for what is no tensor, such as a sequence."""
    if isinstance(value, relax.ShapeExpr):
        return (len(value.values),)
    ty = getattr(value, "ty", None)
    if not isinstance(ty, relax.TensorType) or ty.shape is None:
        return None
    return tuple(int(size) for size in ty.shape)


def _operator(value: relax.Expr) -> str:
    """Name of the operator of Relax that is called, such as ``relax.add``; else empty."""
    return getattr(value.op, "name", "") if isinstance(value, relax.Call) else ""


def _by_axis(
    given: relax.Expr | None, attrs: dict[str, Any], rank: int, default: Sequence[Any]
) -> list[Any] | None:
    """Values of a constant, one for each axis: `default` for axes that are not in `axes`."""
    if given is None:
        return None
    values = list(default)
    axes = attrs.get("axes", range(rank))
    for axis, value in zip(axes, given.value.numpy().tolist(), strict=True):
        values[axis] = value
    return values
