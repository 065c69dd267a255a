"""The recipe of buckets of any shape: the model, and the options of its build as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import onnx

from schedules.configuration import ConfigLike, config_fields, parse
from tvmconv.errors import ShapeError
from tvmconv.onnx.batches import Batch, is_buckets, sorted_batches
from tvmconv.onnx.branches import has_branches
from tvmconv.onnx.model import Model, fill_batch, inputs, read, specs, without_shape
from tvmconv.onnx.quantized.fed_numbers import find_numbers
from tvmconv.onnx.quantized.inner_form import to_qdq
from tvmconv.onnx.sidecars.beside import with_sidecar
from tvmconv.runtime.any_shape import Recipe
from tvmconv.runtime.io_form import IoForm
from tvmconv.specs import OPEN, TensorSpec


def make_recipe(
    model: Model,
    batch: Batch,
    quantization: str | Path | None,
    form: IoForm,
    seen: Mapping[str, float],
    options: Mapping[str, Any],
) -> Recipe:
    """Returns the recipe of a build for any shape.

    seen: what `build(calibrate=)` saw. options: other arguments of `build`. Raises as `build` does
    for the model and its batch, and `ShapeError` for one that leaves nothing open.
    """
    proto = read(model)
    if quantization is not None:
        proto = with_sidecar(proto, quantization)
    given = _filled(proto, batch)
    inner = proto if has_branches(proto.graph) else to_qdq(proto)
    found = find_numbers(inner, str(form.dtype)) if form.eight_bits else {}
    numbers = {name: (one.scale, one.zero) for name, one in found.items()}
    batches = sorted_batches(batch) if is_buckets(batch) else ()
    return Recipe(
        proto.SerializeToString(),
        {
            **_plain(options),
            "io_dtype": form.dtype,
            "io_layout": form.layout,
            "seen": dict(seen),
        },
        batches,
        form.inputs(_open(given), numbers),
        form.outputs(_open(proto.graph.output)),
    )


def require_foreseen(recipe: Recipe, fed: Iterable[TensorSpec]) -> None:
    """Raises `ShapeError` if shapes that were foreseen are not among those that are taken."""
    for spec, given in zip(recipe.inputs, fed, strict=True):
        pairs = zip(spec.shape, given.shape, strict=True)
        if any(wanted not in (OPEN, one) for wanted, one in pairs):
            raise ShapeError(
                f"input {spec.name!r} can't have the shape {given.shape}, if others are compiled "
                "when they are first fed",
                note=f"the model has {spec}",
                hint="give the shapes that the model has, or a list without 'any'",
                shell="give the shapes that the model has, or leave out --shape any",
            )


def _filled(proto: onnx.ModelProto, batch: Batch) -> list[onnx.ValueInfoProto]:
    """The inputs, with a batch of one number filled in. Raises `ShapeError`."""
    several = is_buckets(batch)
    sizes = [] if batch is None else [*batch] if is_buckets(batch) else [cast("int", batch)]
    given = []
    for value in inputs(proto):
        if without_shape([value]):
            raise ShapeError(
                f"the model does not say how many dimensions input {value.name!r} has",
                hint="export it with a shape, of which any dimension may be open",
            )
        if several and not value.type.tensor_type.shape.dim:
            raise ShapeError(
                f"input {value.name!r} does not have the images as its first dimension",
                note="it is a scalar",
                hint="several batches need that of every input and output; build for one batch",
            )
        filled = onnx.ValueInfoProto()
        filled.CopyFrom(value)
        for size in sizes:
            filled.CopyFrom(value)
            fill_batch(filled, size)
        given.append(value if several else filled)
    if not any(OPEN in spec.shape[int(several) :] for spec in _open(given)):
        raise ShapeError(
            f"the model leaves nothing open{' but its batch' if several else ''}",
            note=f"its inputs are {', '.join(map(str, _open(given)))}",
            hint="leave out shapes='any'; shapes=[{...}, {...}] builds it for other shapes",
            shell="leave out --shape any; --shape several times builds it for other shapes",
        )
    return given


def _open(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Specs with `OPEN` for every dimension that is no number, or 0."""
    return tuple(
        dataclasses.replace(spec, shape=tuple(size if size > 0 else OPEN for size in spec.shape))
        for spec in specs(values, OPEN)
    )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them. A path of records holds wherever buckets are compiled."""
    plain = dict(options)
    if not isinstance(plain["records"], bool):
        plain["records"] = str(Path(plain["records"]).absolute())
    if plain["families"] is not None:
        plain["families"] = list(plain["families"])
    pins: Mapping[str, ConfigLike] = plain["configs"] or {}
    plain["configs"] = {name: _pin(given) for name, given in pins.items()}
    return plain


def _pin(given: ConfigLike) -> Any:
    """A configuration as JSON has it."""
    family, inner = parse(given)
    fields = dict(inner) if isinstance(inner, Mapping) else config_fields(inner)
    return fields if family is None else {"family": family, "config": fields}
