"""Compute equal bindings once.

Before:  a = conv2d(x, w); b = conv2d(x, w'); y = concat((relu(a), relu(b)))
After:   a = conv2d(x, w); c = relu(a); y = concat((c, c))
Requires: the same operator with the same attributes, of the same variables and of constants whose
          numbers are equal (w and w' may be two arrays); operators have no effects
Formula: the identity. The first of equal bindings stays. Bindings that stay keep their order and
         their constants, by which `find_regions` names convolutions.
"""

from __future__ import annotations

import tvm
from tvm import relax


def merge_equal() -> tvm.transform.Pass:
    """Returns the pass: Relax's own, which compares constants by their bytes."""
    merge = relax.transform.EliminateCommonSubexpr()
    return tvm.transform.Sequential(
        [merge, relax.transform.CanonicalizeBindings()], name="merge_equal"
    )
