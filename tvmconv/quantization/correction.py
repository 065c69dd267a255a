"""Biases that make up for what rounding shifts on average.

Rounded to 8 bits, weights and inputs of a layer are off by numbers whose mean over an image is not
zero, and the sum of hundreds of products shifts with it. The shift of each output channel is known
from the means of its inputs, so its bias takes it back:

    bias' = bias - (E[w' x'] - E[w x]),    E[w x] = sum over taps and channels c of w_c E[x_c]

w' and x' are the rounded ones, x the input before it was rounded, in the quantised network. After
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
section 4.2, with means that are measured on the feeds. A tap that lies in the padding for some of
the output pixels counts for the others alone; else a mean is taken to be the same at each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvmconv.onnx import kinds
from tvmconv.quantization.accuracy import Feeds, Runner
from tvmconv.quantization.layers import Layer
from tvmconv.quantization.network import Network
from tvmconv.quantization.write import Writer, attribute, rounded_weight

Array = NDArray[Any]


def corrections(
    network: Network,
    layers: Sequence[Layer],
    writer: Writer,
    model: onnx.ModelProto,
    feeds: Feeds,
) -> dict[str, Array]:
    """Returns what to subtract from the bias of each layer, (K,) float64, by name.

    layers: those in 8 bits in `model`, which `writer` wrote. Runs the model on all feeds.
    """
    axes = {layer.name: _channel_axis(network.nodes[layer.name]) for layer in layers}
    wanted = {(n, axes[one.name]) for one in layers for n in (one.x, writer.back(one.x))}
    means = _means(model, sorted(wanted), feeds)
    found = {}
    for layer in layers:
        axis = axes[layer.name]
        weight = network.constant(layer.weight).astype(np.float64)
        integers, scale = rounded_weight(network, layer, writer.step(model, layer.x))
        rounded = integers * scale.astype(np.float64)
        after = _mean_of_products(network, layer, rounded, means[writer.back(layer.x), axis])
        found[layer.name] = after - _mean_of_products(network, layer, weight, means[layer.x, axis])
    return found


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's input that counts channels."""
    if node.op_type in kinds.PRODUCTS:
        return 0 if attribute(node, "transA", 0) else -1
    return 1


def _means(
    model: onnx.ModelProto, wanted: Sequence[tuple[str, int]], feeds: Feeds
) -> dict[tuple[str, int], Array]:
    """The means over all feeds of the slices of tensors along an axis, float64."""
    run = Runner(model, [name for name, _ in wanted])
    sums: dict[tuple[str, int], Array] = {}
    counts = dict.fromkeys(wanted, 0)
    for feed in feeds:
        found = {**feed, **run(feed)}
        for name, axis in wanted:
            slices = np.moveaxis(found[name], axis, 0)
            slices = slices.reshape(len(slices), -1)
            total = slices.sum(axis=1, dtype=np.float64)
            sums[name, axis] = total + sums.get((name, axis), 0.0)
            counts[name, axis] += slices.shape[1]
    return {key: total / counts[key] for key, total in sums.items()}


def _mean_of_products(network: Network, layer: Layer, weight: Array, means: Array) -> Array:
    """The mean of each output channel, (K,). weight: as in ONNX. means: (C,)."""
    node = network.nodes[layer.name]
    groups = int(attribute(node, "group", 1))
    if layer.info.operator in kinds.PRODUCTS:
        matrix = (weight if attribute(node, "transB", 0) else weight.T)[None]
    else:
        taps = weight * _inside(node, layer)
        matrix = taps.reshape(*taps.shape[:2], -1).sum(axis=2)
        matrix = matrix.reshape(groups, -1, matrix.shape[1])
        if node.op_type == "ConvTranspose":  # (C, K/groups)
            matrix = matrix.transpose(0, 2, 1)
    return np.einsum("gkc,gc->gk", matrix, means.reshape(groups, -1)).ravel()


def _inside(node: onnx.NodeProto, layer: Layer) -> Array:
    """The share of output pixels for which each tap reads a pixel of the input, (1, 1, *taps).

    Along an axis, of tap r:  #{i: 0 <= i stride + r dilation - pad < bound} / output pixels

    where i are output pixels and the bound is the input's size. In a transposed convolution i are
    input pixels, of which each writes one output pixel by a tap, and the bound is the output's.
    """
    ins, outs, sizes = layer.info.x[2:], layer.info.y[2:], layer.info.weight[2:]
    transposed = node.op_type == "ConvTranspose"
    share = np.ones((1, 1))
    for axis, (size, given, taps) in enumerate(zip(ins, outs, sizes, strict=True)):
        stride, dilation = (_along(node, name, axis, 1) for name in ("strides", "dilations"))
        many, few = (given, size) if transposed else (size, given)
        padded = (few - 1) * stride + (taps - 1) * dilation + 1 - many
        pad = _pad(node, axis, padded)
        at = np.arange(few)[:, None] * stride + np.arange(taps) * dilation - pad
        along = ((at >= 0) & (at < many)).sum(axis=0) / given
        share = share[..., None] * along
    return share


def _pad(node: onnx.NodeProto, axis: int, padded: int) -> int:
    """The padding before an axis. padded: before and after it, from the sizes."""
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    automatic = given.get("auto_pad", b"NOTSET").decode()
    if automatic in ("NOTSET", "VALID") and "output_shape" not in given:
        return _along(node, "pads", axis, 0)
    half = max(padded, 0) // 2
    return max(padded, 0) - half if automatic == "SAME_LOWER" else half


def _along(node: onnx.NodeProto, name: str, axis: int, default: int) -> int:
    """One number of an attribute that has one for each axis."""
    found = next((one.ints for one in node.attribute if one.name == name), ())
    return int(found[axis]) if found else default
