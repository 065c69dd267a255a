"""Layers that can be in 8 bits, and for the others the reason."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

from schedules.machine.cost import Machine
from tvmconv.errors import QuantizationError
from tvmconv.onnx import kinds
from tvmconv.onnx.model import inputs
from tvmconv.quantization.layers import Layer
from tvmconv.quantization.network import Network
from tvmconv.quantization.saving import saved_us

#: Channels that a convolution reads at least, or a group of it: one chunk of an instruction's
#: operands. Of fewer, most of what it multiplies is padding, and it is faster than in fp16 only if
#: nothing has to round its input. Its result may be in 8 bits all the same.
GROUP_CHANNELS = 8
#: A product of fewer rows than an instruction's tile has is one with a vector, or nearly: it takes
#: as long as reading its matrix. Unless that saves more than `LEAST_US`, which is less than the
#: launch of one kernel more, rounding its input is not worth it.
ROWS, LEAST_US = 16, 1.0


def declined(
    layers: Sequence[Layer],
    network: Network,
    keep: Collection[str],
    machine: Machine,
    bytes_in: bool = False,
) -> dict[str, str]:
    """Returns the layers that stay in floating point, with the reason of each.

    keep: names of layers that the user keeps. bytes_in: layers that read an input of the network
    are in 8 bits however few its channels are. Raises `QuantizationError` for one that does not
    exist, with the names that are near.
    """
    _check_names(keep, [layer.name for layer in layers])
    found: dict[str, str] = {}
    given = {one.name for one in inputs(network.proto)} if bytes_in else set()
    for layer in layers:
        reason = "kept, as asked for"
        if layer.name not in keep:
            least = 1 if layer.x in given else GROUP_CHANNELS
            reason = _reason(layer, network, machine, least)
        if reason:
            found[layer.name] = reason
    return found


def _check_names(keep: Collection[str], names: Sequence[str]) -> None:
    if isinstance(keep, str | bytes):
        raise QuantizationError(
            "keep is a collection of names", hint=f"keep=[{keep!r}]", shell="--keep NAME"
        )
    unknown = [name for name in keep if name not in names]
    if not unknown:
        return
    near = {name: difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) for name in unknown}
    listed = "; ".join(
        f"{name!r} is near {', '.join(map(repr, found))}" for name, found in near.items() if found
    )
    raise QuantizationError(
        f"there are no layers to keep named {', '.join(map(repr, unknown))}",
        note=listed or f"the first of {len(names)} layers are {', '.join(names[:8])}",
        hint="`tvmconv inspect` lists the layers of a model",
    )


def _reason(layer: Layer, network: Network, machine: Machine, least: int) -> str:
    """least: channels that a convolution reads, or a group of it."""
    info = layer.info
    if layer.weight not in network.constants:
        weights = layer.x in network.constants and "the matrix is on the left"
        return weights or "its weights are computed"
    if layer.x not in network.floats or layer.output not in network.floats:
        return "it is not in fp32 or fp16"
    if not info.known:
        return "its sizes are not known"
    if len(info.weight) < 2 or (info.operator in kinds.PRODUCTS and len(info.weight) != 2):
        return "its weights are no matrix"
    if info.kind != "depthwise" and info.group_channels < least:
        group = " a group" if info.kind == "grouped" else ""
        return f"reads {info.group_channels} channels{group}, fewer than {least}"
    saved = saved_us(info, machine)
    if layer.rows < ROWS and saved < LEAST_US and info.kind != "depthwise":
        rows = "1 row" if layer.rows == 1 else f"{layer.rows} rows"
        return f"a product with a vector ({rows}): int8 saves {saved:.2f} us"
    return ""


def savings(layers: Sequence[Layer], machine: Machine) -> Mapping[str, float]:
    """Returns the microseconds that each layer saves in int8, by name."""
    return {layer.name: saved_us(layer.info, machine) for layer in layers}
