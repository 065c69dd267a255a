"""The parameter `fallback` of a build: decides if a network is cut into parts, or is refused."""

from __future__ import annotations

import onnx

from tvmconv.errors import TvmconvError
from tvmconv.onnx.model import inputs
from tvmconv.onnx.prepare import Graph, Prepared
from tvmconv.onnx.supported import DTYPES
from tvmconv.parts.cut import Part, cut, node_reasons

#: What runs the operators that can't be built; ``none`` refuses a model that has some.
FALLBACKS = ("onnxruntime", "none")


def check_fallback(fallback: str) -> None:
    """Raises `TvmconvError` for a value that is none of `FALLBACKS`."""
    if fallback not in FALLBACKS:
        raise TvmconvError(
            f"there is no fallback {fallback!r}", hint=f"one of {', '.join(FALLBACKS)}"
        )


def find_parts(prepared: Prepared, fallback: str) -> tuple[tuple[Part, ...], ...]:
    """Returns the parts of every graph with operators that can't be built; none of another graph.

    Raises `UnsupportedOperatorError`, which lists the operators, if `fallback` is ``none``, for
    several batches, for a model that onnxruntime does not take either, for inputs or outputs that
    no array can hold, and where no convolution or product would be left to compile.
    """
    if not prepared.unsupported:
        return ((),) * len(prepared.graphs)
    if fallback == "none":
        raise prepared.refusal()
    if prepared.any_batch:
        raise prepared.refusal(
            note="onnxruntime can run them, but not in a network of several batches",
            hint="build it for one batch, such as batch=1",
            shell="build it for one batch, such as --batch 1",
        )
    if prepared.not_taken:
        raise prepared.refusal(note=f"onnxruntime does not take them either: {prepared.not_taken}")
    return tuple(_parts(prepared, graph) if graph.unsupported else () for graph in prepared.graphs)


def _parts(prepared: Prepared, graph: Graph) -> tuple[Part, ...]:
    if foreign := _foreign_ends(graph.simple):
        raise prepared.refusal(
            note=f"{foreign[0]!r} is no tensor of numbers that a run could take or give",
            hint="cut the model behind its input, or before its output",
        )
    if not node_reasons(graph.simple):  # an output that is a constant without elements
        raise prepared.refusal()
    parts = cut(graph.simple)
    if not parts:
        raise prepared.refusal(
            note="onnxruntime can run them, but no convolution or product of known shape would be "
            "left to compile",
            hint="let onnxruntime run the whole model",
        )
    return parts


def _foreign_ends(proto: onnx.ModelProto) -> list[str]:
    """Inputs and outputs whose elements are not of `DTYPES`."""
    name_of = onnx.TensorProto.DataType.Name
    return [
        value.name
        for value in (*inputs(proto), *proto.graph.output)
        if name_of(value.type.tensor_type.elem_type) not in DTYPES
    ]
