"""Random networks of the operators that convolution networks have, by a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.support.models import Graph

Shape = tuple[int, int, int, int]
#: The most elements of an image that grows no further.
LARGEST = 24 * 24 * 64


class RandomNetwork(Graph):
    """Grows node by node from an input of (N, C, H, W); tensors are known with their shapes.

    Values stay near 1: weights have the gain of their fan-in, and what grows is scaled back.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.shapes: dict[str, Shape] = {}
        batch = int(self.random.choice([1, 1, 2, 3]))
        c, h, w = (int(self.random.choice(sizes)) for sizes in CHANNELS_AND_SIDES)
        super().__init__([batch, c, h, w], seed)
        self.shapes["input"] = (batch, c, h, w)
        for _ in range(int(self.random.integers(3, 12))):
            self._grow()

    def chance(self, of: float = 0.5) -> bool:
        """True with that probability."""
        return bool(self.random.random() < of)

    def pick(self) -> str:
        """A tensor, of those made last more often."""
        names = list(self.shapes)
        return names[-1] if self.chance(0.7) else str(self.random.choice(names))

    def outputs(self) -> list[str]:
        """The last tensor, and at times another one."""
        names = list(self.shapes)
        return list(dict.fromkeys([names[-1], *([self.pick()] if self.chance(0.3) else [])]))

    def _grow(self) -> None:
        steps = list(STEPS)
        step = STEPS[steps[int(self.random.integers(len(steps)))]]
        x = self.pick()
        made = step(self, x, self.shapes[x])
        if made is not None:
            self.shapes[made[0]] = made[1]

    def number(self, value: float) -> str:
        """A constant without dimensions."""
        return self.constant(np.float32(value))

    def by_channel(self, c: int, low: float, high: float) -> str:
        """A constant of (C, 1, 1)."""
        return self.constant(self.random.uniform(low, high, (c, 1, 1)).astype("f"))


CHANNELS_AND_SIDES = ((1, 3, 4, 8, 16, 24, 33), (1, 5, 8, 14, 17), (1, 6, 8, 13, 16))
Made = tuple[str, Shape] | None


def _conv(g: RandomNetwork, x: str, shape: Shape) -> Made:
    n, c, h, w = shape
    r, s = (int(g.random.choice([1, 1, 3, 3, 2, 5, 7])) for _ in "rs")
    divisors = [one for one in (1, 1, 1, 2, 4, c) if c % one == 0]
    group = int(g.random.choice(divisors))
    k = c if group == c and g.chance(0.8) else group * int(g.random.choice([1, 2, 4, 8, 12]))
    stride = [int(g.random.choice([1, 1, 1, 2, 3])) for _ in "hw"]
    dilation = [int(g.random.choice([1, 1, 1, 2])) for _ in "hw"]
    pads = [int(g.random.integers(0, 1 + side // 2)) for side in (r, s, r, s)]
    if g.chance():
        pads = [r // 2, s // 2, r // 2, s // 2]
    spans = [(r - 1) * dilation[0] + 1, (s - 1) * dilation[1] + 1]
    sizes = [
        (size + pads[i] + pads[i + 2] - span) // stride[i] + 1
        for i, (size, span) in enumerate(zip((h, w), spans, strict=True))
    ]
    if min(sizes) < 1 or k * sizes[0] * sizes[1] > LARGEST:
        return None
    fan = c // group * r * s
    weight = g.random.standard_normal((k, c // group, r, s)) / np.sqrt(fan)
    bias = [g.constant(g.random.standard_normal(k).astype("f"))] if g.chance(0.7) else []
    inputs = [x, g.constant(weight.astype("f")), *bias]
    y = g.op("Conv", *inputs, group=group, strides=stride, dilations=dilation, pads=pads)
    return y, (n, k, sizes[0], sizes[1])


def _transposed(g: RandomNetwork, x: str, shape: Shape) -> Made:
    n, c, h, w = shape
    k, r = int(g.random.choice([4, 8, 20])), int(g.random.choice([2, 3, 4]))
    stride = int(g.random.choice([1, 2]))
    sizes = [(size - 1) * stride + r for size in (h, w)]
    if k * sizes[0] * sizes[1] > LARGEST:
        return None
    weight = (g.random.standard_normal((c, k, r, r)) / np.sqrt(c * r * r)).astype("f")
    y = g.op("ConvTranspose", x, g.constant(weight), strides=[stride] * 2)
    return y, (n, k, sizes[0], sizes[1])


def _norm(g: RandomNetwork, x: str, shape: Shape) -> Made:
    c = shape[1]
    uniform = ((0.5, 1.5), (-0.5, 0.5), (-0.3, 0.3), (0.5, 2.0))
    numbers = [g.constant(g.random.uniform(*one, c).astype("f")) for one in uniform]
    return g.op("BatchNormalization", x, *numbers), shape


def _layer_norm(g: RandomNetwork, x: str, shape: Shape) -> Made:
    c = shape[1]
    if c < 4:
        return None
    scale, bias = (g.constant(g.random.uniform(0.5, 1.5, c).astype("f")) for _ in range(2))
    y = g.op("Transpose", x, perm=[0, 2, 3, 1])
    y = g.op("LayerNormalization", y, scale, bias, axis=-1, epsilon=1e-3)
    return g.op("Transpose", y, perm=[0, 3, 1, 2]), shape


def _activation(g: RandomNetwork, x: str, shape: Shape) -> Made:
    kind = str(g.random.choice(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Clip", "SiLU",
                                "PRelu", "GELU", "HardSigmoid", "Affine", "Abs"]))  # fmt: skip
    if kind == "Clip":
        return g.op("Clip", x, g.number(-0.5), g.number(1.5)), shape
    if kind == "SiLU":
        return g.op("Mul", x, g.op("Sigmoid", x)), shape
    if kind == "PRelu":
        return g.op("PRelu", x, g.by_channel(shape[1], -0.5, 0.5)), shape
    if kind == "GELU":
        erf = g.op("Erf", g.op("Div", x, g.number(2**0.5)))
        return g.op("Mul", g.op("Mul", x, g.op("Add", erf, g.number(1))), g.number(0.5)), shape
    if kind == "Affine":
        y = g.op("Mul", g.op("HardSwish", x), g.number(float(g.random.uniform(-2, 2))))
        return g.op("Add", y, g.number(float(g.random.uniform(-1, 1)))), shape
    return g.op(kind, x), shape


def _arithmetic(g: RandomNetwork, x: str, shape: Shape) -> Made:
    kind = str(g.random.choice(["Add", "Sub", "Mul", "Max", "Min"]))
    alike = [name for name, other in g.shapes.items() if other == shape]
    other = str(g.random.choice(alike)) if g.chance(0.7) else g.by_channel(shape[1], -1, 1)
    operands = (x, other) if g.chance() else (other, x)
    return g.op(kind, *operands), shape


def _gate(g: RandomNetwork, x: str, shape: Shape) -> Made:
    """Squeeze-and-excite."""
    c = shape[1]
    mean = g.op("GlobalAveragePool", x)
    weight = (g.random.standard_normal((c, c, 1, 1)) / np.sqrt(c)).astype("f")
    return g.op("Mul", g.op("Sigmoid", g.op("Conv", mean, g.constant(weight))), x), shape


def _pool(g: RandomNetwork, x: str, shape: Shape) -> Made:
    n, c, h, w = shape
    if min(h, w) < 3:
        return None
    kind = str(g.random.choice(["MaxPool", "AveragePool"]))
    stride, pad = int(g.random.choice([1, 2])), int(g.random.choice([0, 1]))
    y = g.op(kind, x, kernel_shape=[3, 3], strides=[stride] * 2, pads=[pad] * 4)
    sizes = [(size + 2 * pad - 3) // stride + 1 for size in (h, w)]
    return y, (n, c, sizes[0], sizes[1])


def _concat(g: RandomNetwork, x: str, shape: Shape) -> Made:
    n, c, h, w = shape
    fit = [name for name, one in g.shapes.items() if (one[0], *one[2:]) == (n, h, w)]
    others = [str(g.random.choice(fit)) for _ in range(int(g.random.integers(1, 3)))]
    channels = c + sum(g.shapes[one][1] for one in others)
    if channels * h * w > LARGEST:
        return None
    return g.op("Concat", x, *others, axis=1), (n, channels, h, w)


def _slice(g: RandomNetwork, x: str, shape: Shape) -> Made:
    sizes = list(shape)
    axis = int(g.random.choice([1, 2, 3]))
    if sizes[axis] < 2:
        return None
    start = int(g.random.integers(0, sizes[axis] - 1))
    numbers = [g.constant(np.array([one])) for one in (start, sizes[axis], axis)]
    sizes[axis] -= start
    return g.op("Slice", x, *numbers), (sizes[0], sizes[1], sizes[2], sizes[3])


def _resize(g: RandomNetwork, x: str, shape: Shape) -> Made:
    n, c, h, w = shape
    if c * h * w * 4 > LARGEST:
        return None
    mode = str(g.random.choice(["nearest", "linear"]))
    scales = g.constant(np.array([1, 1, 2, 2], "f"))
    return g.op("Resize", x, "", scales, mode=mode), (n, c, 2 * h, 2 * w)


def _shuffle(g: RandomNetwork, x: str, shape: Shape) -> Made:
    n, c, h, w = shape
    if c % 2:
        return None
    y = g.op("Reshape", x, g.constant(np.array([n, 2, c // 2, h, w])))
    y = g.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return g.op("Reshape", y, g.constant(np.array(shape))), shape


def _softmax(g: RandomNetwork, x: str, shape: Shape) -> Made:
    return g.op("Softmax", x, axis=int(g.random.choice([1, -1]))), shape


def _product(g: RandomNetwork, x: str, shape: Shape) -> Made:
    """Of the last axis, by constants."""
    n, c, h, w = shape
    k = int(g.random.choice([1, 8, 20]))
    weight = (g.random.standard_normal((w, k)) / np.sqrt(w)).astype("f")
    return g.op("MatMul", x, g.constant(weight)), (n, c, h, k)


def _pad(g: RandomNetwork, x: str, shape: Shape) -> Made:
    n, c, h, w = shape
    mode = str(g.random.choice(["constant", "reflect", "edge"]))
    if mode == "reflect" and min(h, w) < 3:
        return None
    pads = g.constant(np.array([0, 0, 1, 2, 0, 0, 1, 0]))
    return g.op("Pad", x, pads, mode=mode), (n, c, h + 2, w + 2)


def _attention(g: RandomNetwork, x: str, shape: Shape) -> Made:
    """Heads of one convolution, put apart in one of two ways, with a mask at times."""
    n, c, h, w = shape
    tokens, heads, size = h * w, int(g.random.choice([1, 2, 3])), int(g.random.choice([4, 8, 16]))
    if tokens > 300:
        return None
    wide = g.conv(x, c, 3 * heads * size, 1)
    if g.chance():
        parts = g.op("Reshape", wide, g.constant(np.array([n, heads, 3 * size, tokens])))
        cut = [
            [g.constant(np.array([at])) for at in (i * size, i * size + size, 2)] for i in range(3)
        ]
        q, k, v = (g.op("Slice", parts, *bounds) for bounds in cut)
    else:
        parts = g.op("Reshape", wide, g.constant(np.array([n, 3, heads, size, tokens])))
        q, k, v = (g.op("Gather", parts, g.constant(np.array(i)), axis=1) for i in range(3))
    q = g.op("Mul", g.op("Transpose", q, perm=[0, 1, 3, 2]), g.number(size**-0.5))
    scores = g.op("MatMul", q, k)
    if g.chance():
        mask = g.random.standard_normal((heads, tokens, tokens)).astype("f")
        scores = g.op("Add", scores, g.constant(mask))
    weights = g.op("Softmax", scores, axis=-1)
    if g.chance():
        y = g.op("MatMul", v, g.op("Transpose", weights, perm=[0, 1, 3, 2]))
    else:
        y = g.op("MatMul", weights, g.op("Transpose", v, perm=[0, 1, 3, 2]))
        y = g.op("Transpose", y, perm=[0, 1, 3, 2])
    made = (n, heads * size, h, w)
    return g.op("Reshape", y, g.constant(np.array(made))), made


def _gram(g: RandomNetwork, x: str, shape: Shape) -> Made:
    """Products of rows with each other."""
    n, c, h, w = shape
    y = g.op("MatMul", x, g.op("Transpose", x, perm=[0, 1, 3, 2]))
    return g.op("Mul", y, g.number(1 / w)), (n, c, h, h)


STEPS: dict[str, Callable[[RandomNetwork, str, Shape], Made]] = {
    "convolution": _conv,
    "another": _conv,
    "a third": _conv,
    "transposed convolution": _transposed,
    "batch norm": _norm,
    "layer norm": _layer_norm,
    "activation": _activation,
    "a second activation": _activation,
    "arithmetic": _arithmetic,
    "gate": _gate,
    "pool": _pool,
    "concat": _concat,
    "slice": _slice,
    "resize": _resize,
    "shuffle": _shuffle,
    "softmax": _softmax,
    "product": _product,
    "pad": _pad,
    "attention": _attention,
    "another attention": _attention,
    "gram": _gram,
}


def random_network(seed: int) -> onnx.ModelProto:
    """Returns the network of a seed, the same every time. Opset 17."""
    network = RandomNetwork(seed)
    names = [name for name in network.outputs() if name != "input"]
    last = names or [network.op("Relu", "input")]
    return network.model(*last)
