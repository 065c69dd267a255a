"""A float model with the scales of a file beside it, as a model with QDQ pairs.

ModelProto of float operators, path of the scales -> ModelProto with QDQ pairs
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from tvmconv.errors import QuantizationError, QuantizationWarning
from tvmconv.onnx.model import name_nodes
from tvmconv.onnx.quantized import checks
from tvmconv.onnx.quantized.inner_form import OPSET, at_least, is_quantised
from tvmconv.onnx.sidecars import calibration_cache, openppl
from tvmconv.onnx.sidecars.insert import insert
from tvmconv.onnx.sidecars.sidecar import Sidecar, content

#: Names that an error or warning lists, at most.
LISTED = 50


def read_sidecar(path: str | Path) -> Sidecar:
    """Reads OpenPPL's JSON or TensorRT's calibration cache. Raises `QuantizationError`."""
    text, source = content(path)
    tool = calibration_cache if text.startswith(calibration_cache.MAGIC) else openppl
    sidecar = tool.parse(text, source)
    for name, one in sidecar.scales.items():
        with np.errstate(over="ignore"):  # infinite, which is told of
            scale = np.array(one.scale, np.float32)
        checks.check_scale(scale, f"{source}: tensor {name!r}")
    return sidecar


def with_sidecar(proto: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    """A float model with QDQ pairs where the file has scales, its weights quantised.

    Layers without a scale stay as they are, and a `QuantizationWarning` lists them. Raises
    `QuantizationError` for a file that can't be read, that names tensors that the model does not
    have, and for a model that is quantised already.
    """
    sidecar = read_sidecar(path)
    if is_quantised(proto):
        raise QuantizationError(
            f"the model is quantised already, {sidecar.source} is for a float model",
            hint="leave one of the two out",
        )
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    name_nodes(changed)
    changed = at_least(changed, OPSET)
    _require_known(changed.graph, sidecar)
    missing = insert(changed, sidecar)
    if missing or sidecar.internal:
        told = [f"has no scale for {_listed(missing)}, so what reads them stays in floating point"]
        if not missing:
            told = []
        if sidecar.internal:
            told.append(f"has tensors of TensorRT's own, left out: {_listed(sidecar.internal)}")
        warnings.warn(f"{sidecar.source} {'; it '.join(told)}", QuantizationWarning, stacklevel=2)
    return changed


def _require_known(graph: onnx.GraphProto, sidecar: Sidecar) -> None:
    tensors = {value.name for value in (*graph.input, *graph.initializer)}
    nodes = {node.name for node in graph.node}
    for node in graph.node:
        tensors.update(node.output)
    for what, names, known in (
        ("tensors", sidecar.names, tensors),
        ("nodes", sorted(sidecar.float_nodes), nodes),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise QuantizationError(
                f"{sidecar.source} names {what} that the model does not have: {_listed(unknown)}",
                note=f"{len(names) - len(unknown)} of its {len(names)} {what} are in the model",
                hint="give the model that was calibrated: an export or a simplification renames",
            )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(map(repr, every[:LISTED])) + more
