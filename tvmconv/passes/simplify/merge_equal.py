"""Compute once what is written twice.

Before:  a = conv2d(x, w); b = conv2d(x, w'); y = concat((relu(a), relu(b)))
After:   a = conv2d(x, w); c = relu(a); y = concat((c, c))
Requires: the same operator with the same attributes, of the same variables and of constants whose
          numbers are equal (w and w' may be two arrays); operators have no effects
Formula: the identity. What comes first stays, and what stays keeps its order and its constants,
         by which `regions` knows which convolution is which.
"""

from __future__ import annotations

import tvm
from tvm import relax


def merge_equal() -> tvm.transform.Pass:
    # Relax's own compares constants by their bytes, and finds what follows what was merged.
    merge = relax.transform.EliminateCommonSubexpr()
    return tvm.transform.Sequential(
        [merge, relax.transform.CanonicalizeBindings()], name="merge_equal"
    )
