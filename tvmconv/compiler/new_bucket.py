"""Compiles one more bucket of a network of any shape, when its shapes are first fed."""

from __future__ import annotations

from dataclasses import replace

from tvmconv.compiler.build import build
from tvmconv.compiler.ranges import Seen
from tvmconv.onnx.batches import are_independent
from tvmconv.onnx.model import read
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime.any_shape import Recipe
from tvmconv.runtime.buckets import Shapes
from tvmconv.runtime.entry import Entry
from tvmconv.runtime.io_form import model_shape


def compile_bucket(recipe: Recipe, shapes: Shapes) -> tuple[Entry, BuildReport]:
    """Returns the entry of the shapes that are fed, in order, and its report. Raises as `build`."""
    fed = [replace(spec, shape=shape) for spec, shape in zip(recipe.inputs, shapes, strict=True)]
    given = {spec.name: model_shape(spec) for spec in fed}
    batch = next((shape[0] for shape in shapes if shape), 1)
    options = {**recipe.options, "calibrate": Seen(recipe.options["seen"])}
    del options["seen"]
    if recipe.batches:  # a list, so that images are held to be independent
        exe = build(recipe.model, **options, batch=[batch], shapes=given)
    else:
        exe = build(recipe.model, **options, shapes=given)
    (entry,) = exe.entries
    separable = bool(recipe.batches) or are_independent(read(recipe.model), batch, given)
    return replace(entry, separable=separable), exe.report
