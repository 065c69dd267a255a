"""ResNets and MobileNetV2 by torchvision's architecture tables, with seeded weights.

Shapes and work are the real ones; the answers are meaningless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx

from benchmarks.zoo.model import ZooModel
from benchmarks.zoo.photos import SIDE
from benchmarks.zoo.writer import Writer, seeded

_LOGIT_GAIN = 5.0  # logits of a few units, as a trained classifier gives
_BRANCH_GAIN = 0.3  # the last norm of a residual branch: the sum must not grow with every block


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the network being built, with the expected mean and variance of its values."""

    name: str
    channels: int
    mean: float = 0.0
    variance: float = 1.0

    def rectified(self, name: str) -> _Tensor:
        """Returns the tensor after ReLU, for a normal distribution of this mean and variance."""
        z = self.mean / math.sqrt(self.variance)
        below, density = math.erfc(z / math.sqrt(2)) / 2, math.exp(-z * z / 2) / math.sqrt(math.tau)
        mean = math.sqrt(self.variance) * (z * (1 - below) + density)
        square = self.variance * ((z * z + 1) * (1 - below) + z * density)
        return _Tensor(name, self.channels, mean, square - mean * mean)


class _Network(Writer):
    """Writes nodes named as torchvision's modules, with seeded weights.

    Filters are centred, and batch norm's running statistics are those expected from the weights, as
    after training. So activations stay near 1 at any depth, and each layer removes what all inputs
    have in common. Without that, ResNet-50's logits for two photos differ by only a few percent.
    """

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name)
        self.rng = np.random.default_rng(seed)

    def conv_norm(
        self,
        conv: str,
        norm: str,
        x: _Tensor,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        gain: float = 1.0,
    ) -> _Tensor:
        """Writes a convolution with He weights, then batch norm to a deviation near ``gain``."""
        shape, sum_axes = (channels, x.channels // groups, kernel, kernel), (1, 2, 3)
        weight = self.rng.standard_normal(shape, np.float32)
        weight *= np.float32(math.sqrt(2 / math.prod(shape[1:])))
        if groups == 1:  # a centred depthwise filter would pass only edges
            weight -= weight.mean(sum_axes, keepdims=True)
        self.filtered(conv, x.name, weight, None, stride, kernel // 2, groups)

        gamma = gain * self.rng.uniform(0.8, 1.2, channels)
        beta = gain * self.rng.normal(0.0, 0.2, channels)
        variance = x.variance * (weight**2).sum(sum_axes) * self.rng.uniform(0.8, 1.25, channels)
        mean = x.mean * weight.sum(sum_axes) + np.sqrt(variance) * self.rng.normal(0, 0.1, channels)
        parameters = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": variance}
        inputs = [self.weight(f"{norm}.{key}", value) for key, value in parameters.items()]
        self.node("BatchNormalization", norm, [conv, *inputs])
        return _Tensor(norm, channels, 0.0, float(np.mean(gamma**2 + beta**2)))

    def relu(self, name: str, x: _Tensor) -> _Tensor:
        """Write max(x, 0)."""
        return x.rectified(self.node("Relu", name, [x.name]))

    def relu6(self, name: str, x: _Tensor) -> _Tensor:
        """Write min(max(x, 0), 6); at a deviation near 1 the 6 changes no statistics."""
        return x.rectified(self.clip6(name, x.name))

    def add(self, name: str, a: _Tensor, b: _Tensor) -> _Tensor:
        """Write a + b."""
        self.node("Add", name, [a.name, b.name])
        return _Tensor(name, a.channels, a.mean + b.mean, a.variance + b.variance)

    def classified(self, x: _Tensor, linear: str) -> onnx.ModelProto:
        """Global average pool, linear layer to 1000 logits, and the finished model."""
        pooled = self.node("GlobalAveragePool", "avgpool", [x.name])
        flat = self.node("Flatten", "flatten", [pooled], axis=1)
        weight = self.rng.normal(0.0, _LOGIT_GAIN / math.sqrt(x.channels), (1000, x.channels))
        weight -= weight.mean(axis=1, keepdims=True)
        bias = self.rng.normal(0.0, 0.1, 1000)
        inputs = [self.weight(f"{linear}.weight", weight), self.weight(f"{linear}.bias", bias)]
        self.node("Gemm", linear, [flat, *inputs], transB=1)
        return self.model(SIDE, 1000)


def resnet(name: str, blocks: Sequence[int], bottleneck: bool, seed: int) -> onnx.ModelProto:
    """Returns a ResNet: a stem, then four stages of ``blocks`` at 64 to 512 channels.

    A bottleneck is 1x1, 3x3, 1x1 to four times the channels, with its stride on the 3x3 (v1.5).
    """
    net = _Network(name, seed)
    x = net.relu("relu", net.conv_norm("conv1", "bn1", _Tensor("input", 3), 64, 7, stride=2))
    net.node("MaxPool", "maxpool", [x.name], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = replace(x, name="maxpool")  # its mean rises, which centred filters ignore
    for stage, count in enumerate(blocks, start=1):
        width = 32 << stage
        for block in range(count):
            at, y = f"layer{stage}.{block}", x
            stride = 2 if stage > 1 and block == 0 else 1
            plan = [(width, 3, stride), (width, 3, 1)]
            if bottleneck:
                plan = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
            for i, (channels, kernel, step) in enumerate(plan, start=1):
                last = i == len(plan)
                gain = _BRANCH_GAIN if last else 1.0
                conv, norm = f"{at}.conv{i}", f"{at}.bn{i}"
                y = net.conv_norm(conv, norm, y, channels, kernel, step, gain=gain)
                y = y if last else net.relu(f"{at}.relu{i}", y)
            if x.channels != y.channels or stride != 1:
                down = f"{at}.downsample"
                x = net.conv_norm(f"{down}.0", f"{down}.1", x, y.channels, 1, stride=stride)
            x = net.relu(f"{at}.relu", net.add(f"{at}.add", y, x))
    return net.classified(x, "fc")


_MOBILENET_V2 = (  # expansion, channels, blocks, stride of the first: table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(seed: int) -> onnx.ModelProto:
    """Returns MobileNetV2: inverted residual blocks of 1x1, depthwise 3x3, linear 1x1."""
    net = _Network("mobilenet_v2", seed)

    def layer(at: str, x: _Tensor, *shape: int, **options: int) -> _Tensor:
        return net.relu6(f"{at}.2", net.conv_norm(f"{at}.0", f"{at}.1", x, *shape, **options))

    x = layer("features.0", _Tensor("input", 3), 32, 3, stride=2)
    rows = [(t, c, s if i == 0 else 1) for t, c, n, s in _MOBILENET_V2 for i in range(n)]
    for index, (expansion, channels, stride) in enumerate(rows, start=1):
        at, y, hidden, i = f"features.{index}.conv", x, expansion * x.channels, 0
        residual = stride == 1 and x.channels == channels
        if expansion != 1:
            y, i = layer(f"{at}.0", y, hidden, 1), 1
        y = layer(f"{at}.{i}", y, hidden, 3, stride=stride, groups=hidden)
        gain = _BRANCH_GAIN if residual else 1.0
        y = net.conv_norm(f"{at}.{i + 1}", f"{at}.{i + 2}", y, channels, 1, gain=gain)
        x = net.add(f"features.{index}.add", x, y) if residual else y
    return net.classified(layer("features.18", x, 1280, 1), "classifier.1")


GENERATED: tuple[ZooModel, ...] = (
    seeded("resnet18", 11_689_512, 1.81, partial(resnet, "resnet18", (2, 2, 2, 2), False, 18)),
    seeded("resnet50", 25_557_032, 4.09, partial(resnet, "resnet50", (3, 4, 6, 3), True, 50)),
    seeded("mobilenet_v2", 3_504_872, 0.30, partial(mobilenet_v2, 2)),
)
