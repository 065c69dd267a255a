"""Small networks with attention, as PyTorch's exporters write the ones that people run."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class _Graph:
    """Nodes in order, each with one result, and seeded weights."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *read: str, **attributes: object) -> str:
        result = f"{operator.lower()}_{len(self.nodes)}"
        node = helper.make_node(operator, list(read), [result], name=result, **attributes)
        self.nodes.append(node)
        return result

    def split(self, x: str, count: int, axis: int, sizes: list[int] | None = None) -> list[str]:
        results = [f"split_{len(self.nodes)}_{i}" for i in range(count)]
        read = [x] if sizes is None else [x, self.constant(np.array(sizes))]
        more = {"num_outputs": count} if sizes is None else {}
        self.nodes.append(
            helper.make_node("Split", read, results, name=results[0], axis=axis, **more)
        )
        return results

    def constant(self, array: NDArray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        return self.constant((self.rng.normal(size=shape) * fan**-0.5).astype("f"))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, "f"))

    def reshape(self, x: str, *shape: int) -> str:
        return self("Reshape", x, self.constant(np.array(shape)))

    def conv(self, x: str, channels: int, out: int, size: int = 1, groups: int = 1) -> str:
        weight = self.weight(out, channels // groups, size, size)
        pads = [size // 2] * 4
        return self("Conv", x, weight, kernel_shape=[size, size], pads=pads, group=groups)

    def model(self, y: str, shape: tuple[int, ...], opset: int = 18) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in (("input", shape), (y, None))
        ]
        graph = helper.make_graph(self.nodes, "attention", ends[:1], ends[1:], self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )


def vision_transformer(heads: int = 2, size: int = 16, tokens: int = 49) -> onnx.ModelProto:
    """As timm writes it: queries, keys and values of one product, put apart by Reshape, Transpose
    and Gather; both sides scaled (scaled_dot_product_attention)."""
    g, side = _Graph(), int(tokens**0.5)
    width = heads * size
    x = g.conv("input", 16, width)
    x = g("Transpose", g.reshape(x, 1, width, tokens), perm=[0, 2, 1])
    qkv = g("Add", g("MatMul", x, g.weight(width, 3 * width)), g.weight(3 * width))
    qkv = g("Transpose", g.reshape(qkv, 1, tokens, 3, heads, size), perm=[2, 0, 3, 1, 4])
    q, k, v = (g("Gather", qkv, g.constant(np.array(i)), axis=0) for i in range(3))
    root = g.number(size**-0.25)
    k = g("Mul", g("Transpose", k, perm=[0, 1, 3, 2]), root)
    weights = g("Softmax", g("MatMul", g("Mul", q, root), k), axis=-1)
    y = g("Transpose", g("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = g("MatMul", g.reshape(y, 1, tokens, width), g.weight(width, width))
    y = g("Transpose", g("Add", y, x), perm=[0, 2, 1])
    y = g.conv(g.reshape(y, 1, width, side, side), width, 16)
    return g.model(y, (1, 16, side, side))


def relative_positions(heads: int = 2, size: int = 16, side: int = 6) -> onnx.ModelProto:
    """As in CoAtNet: NCHW throughout, a bias for each pair of positions added to the scores."""
    g, width, tokens = _Graph(1), heads * size, side * side
    x = g.conv("input", 16, 3 * width)
    q, k, v = g.split(g.reshape(x, 1, heads, size * 3, tokens), 3, 2)
    q = g("Mul", g("Transpose", q, perm=[0, 1, 3, 2]), g.number(size**-0.5))
    scores = g("Add", g("MatMul", q, k), g.weight(1, heads, tokens, tokens))
    weights = g("Transpose", g("Softmax", scores, axis=-1), perm=[0, 1, 3, 2])
    y = g.reshape(g("MatMul", v, weights), 1, width, side, side)
    return g.model(g.conv(y, width, 16), (1, 16, side, side))


def position_sensitive(heads: int = 2, size: int = 32, side: int = 8) -> onnx.ModelProto:
    """As YOLO11's C2PSA: keys half as wide as values, and a depthwise convolution of the values
    added to the result."""
    g, half, tokens, width = _Graph(2), size // 2, side * side, heads * size
    x = g.conv("input", 16, width + 2 * heads * half)
    parts = g.reshape(x, 1, heads, size + 2 * half, tokens)
    q, k, v = g.split(parts, 3, 2, [half, half, size])
    scores = g("MatMul", g("Transpose", q, perm=[0, 1, 3, 2]), k)
    weights = g("Softmax", g("Mul", scores, g.number(half**-0.5)), axis=-1)
    y = g("MatMul", v, g("Transpose", weights, perm=[0, 1, 3, 2]))
    y = g.reshape(y, 1, width, side, side)
    values = g.reshape(v, 1, width, side, side)
    y = g("Add", y, g.conv(values, width, width, 3, groups=width))
    return g.model(g.conv(y, width, 16), (1, 16, side, side))


def masked(heads: int = 2, size: int = 16, tokens: int = 36) -> onnx.ModelProto:
    """As newer exporters write a masked softmax: rows without a key are zeros, not NaN."""
    g, side, width = _Graph(3), int(tokens**0.5), heads * size
    x = g.conv("input", 16, width)
    x = g("Transpose", g.reshape(x, 1, width, tokens), perm=[0, 2, 1])
    q, k, v = (
        g("Transpose", g.reshape(g("MatMul", x, g.weight(width, width)), 1, tokens, heads, size),
          perm=[0, 2, 1, 3])
        for _ in range(3)
    )  # fmt: skip
    scores = g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2]))
    scores = g("Div", scores, g.number(size**0.5))
    hidden = np.where(g.rng.random((tokens, tokens)) < 0.3, -np.inf, 0).astype("f")
    weights = g("Softmax", g("Add", scores, g.constant(hidden)), axis=-1)
    weights = g("Where", g("IsNaN", weights), g.number(0.0), weights)
    y = g("Transpose", g("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = g("Transpose", g.reshape(y, 1, tokens, width), perm=[0, 2, 1])
    return g.model(g.conv(g.reshape(y, 1, width, side, side), width, 16), (1, 16, side, side))


def linear_attention(heads: int = 2, size: int = 16, side: int = 8) -> onnx.ModelProto:
    """As EfficientViT: keys times values first, without a softmax."""
    g, tokens, width = _Graph(4), side * side, heads * size
    x = g.conv("input", 16, 3 * width)
    parts = g("Transpose", g.reshape(x, 1, heads, 3 * size, tokens), perm=[0, 1, 3, 2])
    q, k, v = g.split(parts, 3, 3)
    q, k = g("Relu", q), g("Relu", k)
    inner = g("MatMul", g("Transpose", k, perm=[0, 1, 3, 2]), v)
    y = g("Transpose", g("MatMul", q, inner), perm=[0, 1, 3, 2])
    y = g("Mul", g.reshape(y, 1, width, side, side), g.number(1 / 64))
    return g.model(g.conv(y, width, 16), (1, 16, side, side))


def operator(heads: int = 2, size: int = 16, side: int = 6) -> onnx.ModelProto:
    """With ONNX's operator Attention, of opset 23."""
    g, tokens, width = _Graph(5), side * side, heads * size
    x = g.conv("input", 16, 3 * width)
    x = g("Transpose", g.reshape(x, 1, 3 * width, tokens), perm=[0, 2, 1])
    q, k, v = g.split(x, 3, 2)
    y = g("Attention", q, k, v, q_num_heads=heads, kv_num_heads=heads)
    y = g.reshape(g("Transpose", y, perm=[0, 2, 1]), 1, width, side, side)
    return g.model(g.conv(y, width, 16), (1, 16, side, side), opset=23)


NETWORKS = {
    one.__name__: one
    for one in (
        vision_transformer, relative_positions, position_sensitive, masked, linear_attention,
        operator,
    )
}  # fmt: skip
