"""TVM's ONNX importer, but for the operators that it gets wrong or no pass recognises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvmconv.operators import OWN


class Importer(onnx_frontend.ONNXGraphImporter):
    """Builds a Relax module from a graph that `supported.unsupported` has nothing against."""

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        if op_name in ("Resize", "Upsample"):
            return self._repeat_pixels(op_name, inputs, attrs, opset)
        own = OWN[op_name](self.bb, inputs, attrs, opset) if op_name in OWN else None
        if own is not None:
            return self.bb.normalize(own)
        result = super()._convert_operator(op_name, inputs, attrs, opset)
        # Bound now and not where it is first used: `mark_regions` knows nodes by their order.
        return self.bb.emit(result) if op_name == "Conv" else result

    def _repeat_pixels(
        self, op_name: str, inputs: Sequence[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        """Nearest, by whole numbers: every pixel repeated, whichever form asked for it.

        TVM's converter is written for opset 18 and gets Upsample wrong. Of the coordinates that
        say the same, these are the ones for which no rounding is near a tie.
        """
        old = op_name == "Upsample" or opset < 11
        scales, sizes = ([*inputs[1:], None, None] if old else [*inputs[2:], None, None])[:2]
        if op_name == "Upsample" and "scales" in attrs:
            scales = relax.const(np.array(attrs["scales"], "float32"))
        if scales is not None and 0 in map(int, scales.ty.shape):
            scales = None  # how opset 11 leaves it out
        plain = {
            "mode": b"nearest",
            "coordinate_transformation_mode": b"half_pixel",
            "nearest_mode": b"round_prefer_floor",
            "tvm_custom": attrs["tvm_custom"],
        }
        given = [inputs[0], None, scales, None if scales is not None else sizes]
        return super()._convert_operator("Resize", given, plain, 18)
