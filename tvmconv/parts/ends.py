"""Parts as graphs to build, with what each gets of a build's options: forms of its ends, pins.

Inputs and outputs of the network are in the form that was asked for, others plain.

Between parts tensors are as in the model: NCHW, in the dtypes of the simplified graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx

from tvmconv.errors import TvmconvError
from tvmconv.onnx import kinds
from tvmconv.onnx.model import specs
from tvmconv.onnx.prepare import Graph
from tvmconv.parts.cut import Part
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.reports.data.parts import NO_NUMBERS
from tvmconv.specs import OPEN, TensorSpec


def part_graphs(graph: Graph, parts: tuple[Part, ...]) -> tuple[Graph, ...]:
    """Returns every part as a graph of its own, those for onnxruntime too.

    Raises `TvmconvError` for an input or output of the network that was asked for in another dtype
    or layout than the model's and that not only one side sees: onnxruntime reads what is in the
    model.
    """
    graphs = []
    asked_in = {spec.name: spec for spec in graph.inputs}
    asked_out = {spec.name: spec for spec in graph.outputs}
    plain_in = {spec.name: spec for spec in specs(graph.simple.graph.input)}
    for part in parts:
        read, made = _specs(part.model.graph.input), _specs(part.model.graph.output)
        if part.side == "compiled":
            fed = tuple(asked_in.get(spec.name, spec) for spec in read)
            given = tuple(asked_out.get(spec.name, spec) for spec in made)
        else:
            for spec in read:
                if spec.name in plain_in:
                    _require_plain(plain_in[spec.name], asked_in[spec.name])
            fed, given = read, made
            for spec in made:
                if spec.name in asked_out:
                    _require_plain(spec, asked_out[spec.name])
        graphs.append(Graph(part.model, part.model, fed, given))
    _require_one_form(graph, graphs)
    return tuple(graphs)


def _specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """As `specs`; what is no tensor of numbers, such as a sequence, has the dtype `NO_NUMBERS`."""
    other = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
    return tuple(
        TensorSpec(value.name, (), NO_NUMBERS)
        if value.type.tensor_type.elem_type in other
        else specs([value], OPEN)[0]
        for value in values
    )


def _require_plain(plain: TensorSpec, asked: TensorSpec) -> None:
    if (plain.dtype, plain.layout, plain.scale) != (asked.dtype, asked.layout, asked.scale):
        raise TvmconvError(
            f"onnxruntime reads or gives {plain.name!r}, which can't be as io_dtype or io_layout "
            "say",
            note=f"it is {plain} there, asked for was {asked}",
            hint="leave out io_dtype and io_layout, or cut the model before the operators that "
            "onnxruntime runs: the report of `inspect` names them",
            shell="leave out --io-dtype and --io-layout, or cut the model before operators that "
            "onnxruntime runs: `tvmconv inspect` names them",
        )


def _require_one_form(graph: Graph, graphs: list[Graph]) -> None:
    """Every reader and writer of a tensor has to see it in one form."""
    seen: dict[str, TensorSpec] = {spec.name: spec for spec in graph.inputs}
    for each in graphs:
        for spec in (*each.outputs, *each.inputs):
            _require_plain(spec, seen.setdefault(spec.name, spec))
    for spec in graph.outputs:
        _require_plain(seen.get(spec.name, spec), spec)


def part_choosers(chooser: Chooser, parts: tuple[Part, ...]) -> list[Chooser]:
    """Returns the chooser of every part, with the pins of its own layers.

    Raises `ConfigError` for a pin on a layer that no compiled part has.
    """
    names = [set(kinds.layers(part.model)) if part.side == "compiled" else set() for part in parts]
    chooser.require_layers(sorted(set().union(*names)))
    return [
        replace(chooser, pins={name: pin for name, pin in chooser.pins.items() if name in own})
        for own in names
    ]
