"""A network with awkward names, for tests of what is around a build."""

from __future__ import annotations

import onnx

from tests.support.models import Graph


def small(
    batch: int | str = "batch", seed: int = 0, side: int = 12, relu: bool = True
) -> onnx.ModelProto:
    """Two convolutions: input "x:0" [batch, 3, side, side] to "wide/y" and "pooled" [batch, 16].

    Names are such as exporters give: no identifiers, and no file names. With ``relu`` off, a
    network with other answers.
    """
    g = Graph([batch, 3, side, side], seed)
    g.inputs[0].name = "x:0"
    x = g.op("Relu" if relu else "Tanh", g.conv("x:0", 3, 16, name="first"))
    y = g.conv(x, 16, 16, name="wide/y", strides=[2, 2])
    return g.model(y, g.op("Flatten", g.op("GlobalAveragePool", y), name="pooled"))
