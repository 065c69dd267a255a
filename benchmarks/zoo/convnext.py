"""ConvNeXt-T by torchvision's architecture table, with seeded weights.

A block is a 7x7 depthwise convolution, LayerNorm over channels, two products with a GELU between
them, a scale for each channel and a residual (Liu et al. 2022, "A ConvNet for the 2020s"). The
nodes are those that PyTorch's exporter writes at opset 17: the products and the norm are of NHWC,
between transpositions, and the GELU is written with Erf.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.zoo.photos import SIDE
from benchmarks.zoo.writer import Writer, seeded

#: Channels and blocks of each stage.
STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
#: The scale of a residual branch: of a trained network they are near this.
LAYER_SCALE = 0.3


class _Network(Writer):
    """Writes nodes named as torchvision's modules, with seeded weights."""

    def __init__(self, seed: int) -> None:
        super().__init__("convnext_tiny")
        self.rng = np.random.default_rng(seed)

    def conv(
        self, name: str, x: str, c: int, k: int, side: int, stride: int = 1, groups: int = 1
    ) -> str:
        """Writes a convolution with a bias, padded to keep the size if its stride is 1."""
        shape = (k, c // groups, side, side)
        weight = self.rng.normal(0, math.sqrt(1 / math.prod(shape[1:])), shape)
        pad = side // 2 if stride == 1 else 0
        return self.filtered(name, x, weight, self.rng.normal(0, 0.1, k), stride, pad, groups)

    def linear(self, name: str, x: str, c: int, k: int) -> str:
        """Writes x @ weight + bias over the last axis."""
        weight = self.rng.normal(0, math.sqrt(1 / c), (c, k))
        product = self.node("MatMul", f"{name}.product", [x, self.weight(f"{name}.weight", weight)])
        return self.node("Add", name, [self._bias(f"{name}.bias", k), product])

    def norm(self, name: str, x: str, c: int) -> str:
        """Writes LayerNorm over the last axis."""
        scale = self.weight(f"{name}.weight", self.rng.uniform(0.8, 1.2, c))
        inputs = [x, scale, self._bias(f"{name}.bias", c)]
        return self.node("LayerNormalization", name, inputs, axis=-1, epsilon=1e-6)

    def norm_of_nchw(self, name: str, x: str, c: int) -> str:
        """Writes LayerNorm over the channels of NCHW, between two transpositions."""
        inside = self.node("Transpose", f"{name}.to_nhwc", [x], perm=TO_NHWC)
        y = self.norm(name, inside, c)
        return self.node("Transpose", f"{name}.to_nchw", [y], perm=TO_NCHW)

    def gelu(self, name: str, x: str) -> str:
        """Writes x * (1 + erf(x / sqrt(2))) / 2."""
        root, one, half = map(self._number, (math.sqrt(2), 1.0, 0.5))
        erf = self.node("Erf", f"{name}.erf", [self.node("Div", f"{name}.div", [x, root])])
        sums = self.node("Add", f"{name}.add", [erf, one])
        product = self.node("Mul", f"{name}.mul", [x, sums])
        return self.node("Mul", name, [product, half])

    def block(self, at: str, x: str, c: int) -> str:
        """Writes a block of `c` channels."""
        y = self.conv(f"{at}.block.0", x, c, c, 7, groups=c)
        y = self.node("Transpose", f"{at}.block.1", [y], perm=TO_NHWC)
        y = self.linear(f"{at}.block.3", self.norm(f"{at}.block.2", y, c), c, 4 * c)
        y = self.linear(f"{at}.block.5", self.gelu(f"{at}.block.4", y), 4 * c, c)
        y = self.node("Transpose", f"{at}.block.6", [y], perm=TO_NCHW)
        scale = self.rng.uniform(0.5, 1.5, (c, 1, 1)) * LAYER_SCALE
        y = self.node("Mul", f"{at}.scale", [self.weight(f"{at}.layer_scale", scale), y])
        return self.node("Add", f"{at}.add", [y, x])

    def _number(self, value: float) -> str:
        """Writes a constant, once."""
        name = f"constant.{value:.3f}"
        if name not in (node.name for node in self.nodes):
            self.node(
                "Constant", name, [], value=numpy_helper.from_array(np.array(value, np.float32))
            )
        return name

    def _bias(self, name: str, k: int) -> str:
        return self.weight(name, self.rng.normal(0, 0.1, k))


def convnext_tiny(seed: int) -> onnx.ModelProto:
    """Returns ConvNeXt-T: a 4x4 stem, then four stages with a 2x2 convolution between them."""
    net = _Network(seed)
    c = STAGES[0][0]
    x = net.norm_of_nchw("features.0.1", net.conv("features.0.0", "input", 3, c, 4, 4), c)
    for stage, (channels, blocks) in enumerate(STAGES):
        if stage:
            at = f"features.{2 * stage}"
            x = net.conv(f"{at}.1", net.norm_of_nchw(f"{at}.0", x, c), c, channels, 2, 2)
        c = channels
        for block in range(blocks):
            x = net.block(f"features.{2 * stage + 1}.{block}", x, c)
    x = net.node("GlobalAveragePool", "avgpool", [x])
    x = net.node("Flatten", "classifier.1", [net.norm_of_nchw("classifier.0", x, c)], axis=1)
    net.linear("classifier.2", x, c, 1000)
    return net.model(SIDE, 1000)


CONVNEXT = seeded("convnext_tiny", 28_589_128, 4.46, partial(convnext_tiny, 1))
