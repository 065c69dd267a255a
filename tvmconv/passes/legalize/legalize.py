"""Write every operator that is left as loops: by TVM, but for those that it gets wrong.

Before:  y = max_pool2d(x)                           operators of Relax
After:   y = call_tir(max_pool2d, x)                 with the loops of each in a function
Requires: convolutions are kernels already; all shapes are numbers
Formula: the identity. Operators of `OWN` have loops of ours, with the formulas that their files
         say: TVM's differ from ONNX's in infinities and NaN (`extremes`), and in where RoiAlign
         reads (`roi_align`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm
from tvm import relax

from tvmconv.passes.legalize.extremes import EXTREMES
from tvmconv.passes.legalize.normalization import NORMS
from tvmconv.passes.legalize.roi_align import roi_align

#: By operator: (builder, call) -> the call of its loops.
OWN: Mapping[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]] = {
    **EXTREMES,
    **NORMS,
    "relax.vision.roi_align": roi_align,
}


def legalize() -> tvm.transform.Pass:
    """Returns the pass."""
    return tvm.transform.Sequential([relax.transform.LegalizeOps(dict(OWN))], name="legalize")
