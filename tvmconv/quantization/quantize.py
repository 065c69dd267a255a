"""`quantize`: a float network to standard QDQ ONNX, and what became of each layer."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from tvmconv.compiler import toolchain
from tvmconv.errors import FeedError, QuantizationError
from tvmconv.images import IMAGENET, Preprocessing, read_images
from tvmconv.onnx.batches import OneShapes
from tvmconv.onnx.model import Model, fix_shapes, specs
from tvmconv.onnx.model import inputs as onnx_inputs
from tvmconv.onnx.ranges.feeds import Feed, checked
from tvmconv.quantization import accuracy, calibration, search
from tvmconv.quantization.accuracy import Errors, Reference
from tvmconv.quantization.candidates import declined, savings
from tvmconv.quantization.correction import corrections
from tvmconv.quantization.layers import Layer, find_layers
from tvmconv.quantization.network import Network, prepare
from tvmconv.quantization.placement import place, tensors_of
from tvmconv.quantization.write import Writer
from tvmconv.reports.data.quantization import (
    Decision,
    QuantizationReport,
    QuantizedLayer,
    QuantizedOutput,
)
from tvmconv.specs import TensorSpec


@dataclass(frozen=True)
class Quantized:
    """A quantised network."""

    #: ONNX with QuantizeLinear and DequantizeLinear, which onnxruntime runs as well.
    proto: onnx.ModelProto
    #: What was decided of each layer, and why; its signal to noise; the errors of the outputs.
    report: QuantizationReport

    def save(self, path: str | Path) -> None:
        """Writes the model to a file."""
        Path(path).write_bytes(self.proto.SerializeToString())


def quantize(
    model: Model,
    feeds: str | Path | Iterable[Feed],
    *,
    method: str = "entropy",
    keep: Collection[str] = (),
    max_error: float | None = None,
    unsigned: bool = True,
    bytes_in: bool = False,
    correct_bias: bool = True,
    arch: str = "sm_90a",
    shapes: OneShapes = None,
    preprocessing: Preprocessing = IMAGENET,
) -> Quantized:
    """Quantises a float network to 8 bits, and measures what that costs in accuracy.

    model: a path, the bytes of an ONNX file, or a proto, in fp32 or fp16.
    feeds: what to calibrate with, like what the network will see: mappings of input names to NumPy
        arrays, or arrays for a network of one input, each one run; or a folder of images, as
        `read_images` takes it. All stay in memory.
    method: onnxruntime's calibrator: ``entropy`` (of 128 bins, as it is by default), ``minmax``
        (nothing is cut off) or ``percentile`` (99.999 % of the numbers are not).
    keep: names of layers, as reports have them, that stay in floating point.
    max_error: largest relative l2 error of the outputs, over the feeds, against the float model.
        Layers go back to floating point until it is reached, those first that give most accuracy
        back for the microseconds that int8 saves them.
    unsigned: tensors that are never negative on the feeds, as after a Relu, get uint8 with zero
        point 0: steps of half the size. Without it all activations are int8.
    bytes_in: the network will be given its inputs in 8 bits (``io_dtype="int8"`` of a build), so
        layers that read them are quantised however few channels they have.
    correct_bias: biases take back what rounding shifts on average, as
        `tvmconv.quantization.correction` says.
    arch: the GPU by whose rates microseconds are estimated.
    shapes: for a folder: whole shapes by input, where dimensions other than the batch are open.
        They stay open in the result.
    preprocessing: for a folder: of its pictures; default ImageNet's.

    Weights are int8 per output channel, activations int8 per tensor, both with zero point 0; where
    in the graph is said by `tvmconv.quantization.placement`, and which layers stay in floating
    point by `tvmconv.quantization.candidates`.

    Raises `ModelError` for a model that can't be read or that onnxruntime can't run, `ShapeError`
    for dimensions of images that are left open, `FeedError` for feeds that do not fit or are not
    finite, `QuantizationError` for unknown layers or methods, a model that is quantised already,
    activations that are 0 or not finite, and a bound that can't be reached, and `TargetError` for
    an unknown GPU.
    """
    if max_error is not None and not 0 < max_error < math.inf:
        raise QuantizationError(
            f"max_error can't be {max_error}", hint="a relative l2 error, such as 0.02"
        )
    machine = toolchain.cuda_arch(arch).card
    network, inputs = prepare(model)
    fed = checked(_read(feeds, network, inputs, shapes, preprocessing), inputs)
    sized = network.sizes({name: array.shape for name, array in fed[0].items()})
    layers = find_layers(network, sized)
    floats = declined(layers, network, keep, machine, bytes_in)
    names = [layer.name for layer in layers if layer.name not in floats]

    tensors = tensors_of(place(network, layers, names))
    sizes = {name: math.prod(sized.shapes.get(name, ())) for name in tensors}
    found = calibration.ranges(network, sizes, fed, method)
    writer = Writer(network, layers)

    shifts: dict[str, NDArray[Any]] = {}

    def write(chosen: Collection[str]) -> onnx.ModelProto:
        groups = place(network, layers, chosen)
        return writer.write(chosen, calibration.scales(groups, found, unsigned), shifts)

    def finish(chosen: Collection[str]) -> onnx.ModelProto:
        shifts.clear()
        if correct_bias:
            rounded = [layer for layer in layers if layer.name in chosen]
            shifts.update(corrections(network, rounded, writer, write(chosen), fed))
        return write(chosen)

    saved = savings(layers, machine)
    alone: Mapping[str, float] = {}
    if max_error is not None:
        best = search.within(max_error, names, saved, write, finish, Reference(network.proto, fed))
        names, alone = list(best.names), best.alone
    proto = finish(names)
    errors = accuracy.errors(network.proto, proto, fed, [layer.output for layer in layers])
    report = QuantizationReport(
        method=method,
        feeds=len(fed),
        machine=machine.name,
        max_error=max_error,
        outputs=tuple(_output(v.name, errors) for v in proto.graph.output if v.name in errors),
        layers=tuple(_row(layer, floats, names, saved, alone, errors) for layer in layers),
    )
    return Quantized(proto, report)


def _read(
    feeds: str | Path | Iterable[Feed],
    network: Network,
    inputs: Sequence[TensorSpec],
    shapes: OneShapes,
    preprocessing: Preprocessing,
) -> Iterable[Feed]:
    if not isinstance(feeds, str | Path):
        if shapes is not None or preprocessing is not IMAGENET:
            raise FeedError(
                "shapes and preprocessing are for a folder of images",
                note="feeds are taken as they are",
                hint="leave them out, or name a folder",
            )
        return feeds
    is_open = all(spec.shape[:1] == (0,) for spec in inputs)
    fixed = fix_shapes(network.proto, 1 if is_open else None, shapes)
    return read_images(feeds, specs(onnx_inputs(fixed)), preprocessing)


def _row(
    layer: Layer,
    floats: Mapping[str, str],
    names: Collection[str],
    saved: Mapping[str, float],
    alone: Mapping[str, float],
    errors: Errors,
) -> QuantizedLayer:
    decision: Decision = "int8" if layer.name in names else "float"
    if layer.name in floats:
        reason = floats[layer.name]
    elif decision == "float":
        reason = "put back for max_error: most error for the microseconds"
    else:
        reason = "half the bytes, twice the rate"
        reason += ", with its residual" if layer.residual else ""
    return QuantizedLayer(
        name=layer.name,
        kind=layer.info.kind,
        shape=str(layer.info),
        macs=layer.info.macs,
        snr_db=accuracy.decibels(errors.relative_l2(layer.output))
        if layer.output in errors
        else math.inf,
        decision=decision,
        reason=reason,
        saved_us=saved[layer.name],
        alone=alone.get(layer.name),
    )


def _output(name: str, errors: Errors) -> QuantizedOutput:
    error = errors.relative_l2(name)
    return QuantizedOutput(name, error, accuracy.decibels(error))
