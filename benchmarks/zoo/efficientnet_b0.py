"""EfficientNet-B0 by torchvision's architecture table, with seeded weights.

A block widens by a 1x1, filters each channel, weighs the channels by what all pixels have in them
(squeeze-and-excite, Hu et al. 2018), and narrows by a 1x1 (Tan and Le 2019, table 1). Batch norms
are in the weights: torchvision's has 5,288,548 parameters, 21,008 of them theirs.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import onnx

from benchmarks.zoo.photos import SIDE
from benchmarks.zoo.writer import Writer, seeded

#: Expansion, taps, stride of the first, channels in, channels out, blocks.
STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
#: What a block adds to what it is given: the sum must not grow with every block.
BRANCH_GAIN = 0.3


class _Network(Writer):
    """Writes nodes named as torchvision's modules, with seeded weights."""

    def __init__(self, seed: int) -> None:
        super().__init__("efficientnet_b0")
        self.rng = np.random.default_rng(seed)

    def conv(
        self,
        name: str,
        x: str,
        c: int,
        k: int,
        side: int = 1,
        stride: int = 1,
        groups: int = 1,
        gain: float = 1.7,
    ) -> str:
        """Writes a convolution whose results have a deviation near `gain` for inputs near 1."""
        shape = (k, c // groups, side, side)
        weight = self.rng.normal(0, gain / math.sqrt(math.prod(shape[1:])), shape)
        bias = self.rng.normal(0, 0.1, k)
        return self.filtered(name, x, weight, bias, stride, side // 2, groups)

    def silu(self, name: str, x: str) -> str:
        """Writes x * sigmoid(x)."""
        return self.node("Mul", name, [x, self.node("Sigmoid", f"{name}.sigmoid", [x])])

    def weighed(self, name: str, x: str, c: int, squeezed: int) -> str:
        """Writes squeeze-and-excite: x times a number from 0 to 1 for each channel."""
        mean = self.node("GlobalAveragePool", f"{name}.avgpool", [x])
        y = self.silu(f"{name}.activation", self.conv(f"{name}.fc1", mean, c, squeezed))
        y = self.node("Sigmoid", f"{name}.sigmoid", [self.conv(f"{name}.fc2", y, squeezed, c)])
        return self.node("Mul", f"{name}.mul", [y, x])

    def block(self, at: str, x: str, expansion: int, side: int, stride: int, c: int, k: int) -> str:
        """Writes a block of `c` channels to `k`, with a residual where it keeps the shape."""
        hidden, y, i = c * expansion, x, 0
        if expansion > 1:
            y, i = self.silu(f"{at}.0.2", self.conv(f"{at}.0.0", y, c, hidden)), 1
        y = self.conv(f"{at}.{i}.0", y, hidden, hidden, side, stride, groups=hidden)
        y = self.weighed(f"{at}.{i + 1}", self.silu(f"{at}.{i}.2", y), hidden, c // 4)
        residual = stride == 1 and c == k
        gain = BRANCH_GAIN if residual else 1.7
        y = self.conv(f"{at}.{i + 2}.0", y, hidden, k, gain=gain)
        return self.node("Add", f"{at}.add", [y, x]) if residual else y


def efficientnet_b0(seed: int) -> onnx.ModelProto:
    """Returns EfficientNet-B0."""
    net = _Network(seed)
    x = net.silu("features.0.2", net.conv("features.0.0", "input", 3, 32, 3, 2))
    for stage, (expansion, side, stride, c, k, blocks) in enumerate(STAGES, start=1):
        for block in range(blocks):
            first = block == 0
            at = f"features.{stage}.{block}.block"
            x = net.block(at, x, expansion, side, stride if first else 1, c if first else k, k)
    x = net.silu("features.8.2", net.conv("features.8.0", x, 320, 1280))
    flat = net.node("Flatten", "flatten", [net.node("GlobalAveragePool", "avgpool", [x])], axis=1)
    weight = net.rng.normal(0, 5 / math.sqrt(1280), (1000, 1280))
    bias = net.rng.normal(0, 0.1, 1000)
    linear = [net.weight("classifier.1.weight", weight), net.weight("classifier.1.bias", bias)]
    net.node("Gemm", "classifier.1", [flat, *linear], transB=1)
    return net.model(SIDE, 1000)


EFFICIENTNET = seeded("efficientnet_b0", 5_267_540, 0.386, partial(efficientnet_b0, 1))
