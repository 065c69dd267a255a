"""Rewriting the nodes of an ONNX graph, in one walk from the first to the last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from tvmconv.errors import ModelError, first_line
from tvmconv.onnx.quantized.operators import MOVES, POOLS, STANDARD, is_standard
from tvmconv.runtime.session import open_session

Array = NDArray[Any]


class Editor:
    """The graph of a model, changed in place: what is written replaces its nodes at `finish`.

    Tensors keep their names unless a rewrite gives them up, so that outputs, and graphs inside of
    nodes, go on reading them.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.written: list[onnx.NodeProto] = []
        #: Names of nodes that a rewrite of an earlier one has done too.
        self.done: set[str] = set()
        self.makers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        graph = proto.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, Array] = {}
        self._types: dict[str, onnx.TypeProto.Tensor] | None = None
        #: Element types of what was written, which inference did not see.
        self.elements: dict[str, int] = {}
        self._taken = {value.name for value in graph.input} | self._tensors.keys()
        #: Tensors that nodes compute from constants alone.
        self._constant: set[str] = set()
        for node in graph.node:
            self.makers.update(dict.fromkeys(node.output, node))
            if _computes(node) and all(
                not name or name in self._tensors or name in self._constant for name in node.input
            ):
                self._constant.update(filter(None, node.output))
            self._taken.update((*node.input, *node.output))
            for name in node.input:
                self.readers[name].append(node)
        inside = set(_read_inside(graph))
        self._taken |= inside
        #: Tensors whose names have to stay: outputs, and what graphs inside of nodes read.
        self.kept = {value.name for value in graph.output} | inside

    # ------------------------------------------------------------ what is known

    def value(self, name: str) -> Array | None:
        """The value of a tensor that no input of the model decides; None for any other.

        Nodes between constants and the tensor are evaluated by onnxruntime. Raises `ModelError` if
        it can't.
        """
        if name in self._values:
            return self._values[name]
        if name in self._tensors:
            self._values[name] = numpy_helper.to_array(self._tensors[name])
        elif name in self._constant:
            node = self.makers[name]
            read = {one: value for one in node.input if (value := self.value(one)) is not None}
            self._values |= self.evaluate(node, read)
        else:
            return None
        return self._values[name]

    def is_constant(self, name: str) -> bool:
        """True if `value` gives this tensor's value."""
        return name in self._tensors or name in self._constant

    def evaluate(self, node: onnx.NodeProto, read: dict[str, Array]) -> dict[str, Array]:
        """The results of one node, by name, for the values of its inputs. Raises `ModelError`."""
        one = onnx.ModelProto(ir_version=self.proto.ir_version)
        one.opset_import.extend(self.proto.opset_import)
        one.graph.name = "one"
        one.graph.node.append(node)
        names = [name for name in node.output if name]
        tensors = [numpy_helper.from_array(value, name) for name, value in read.items()]
        one.graph.initializer.extend(tensors)
        one.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1  # to start others costs more than a node does
        try:
            found = open_session(one, options).run(names, {})
            return dict(zip(names, found, strict=True))
        except Exception as error:  # its exceptions have no common base
            raise ModelError(
                f"{node.op_type} {node.name!r}, which reads constants alone, can't be evaluated",
                note=first_line(error),
                hint="fold it where the model is exported",
            ) from error

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """An initializer as it is in the file."""
        return self._tensors.get(name)

    def element(self, name: str) -> int:
        """The element type of a tensor as ONNX numbers it; 0 (undefined) if it is not known."""
        if name in self._tensors:
            return self._tensors[name].data_type
        known = self._inferred.get(name)
        if known is not None and known.elem_type:
            return known.elem_type
        if name in self.elements:
            return self.elements[name]
        maker = self.makers.get(name)
        moved = maker is not None and is_standard(maker, *MOVES, *POOLS)
        return self.element(maker.input[0]) if maker is not None and moved else 0

    def shape(self, name: str) -> list[int | None] | None:
        """The dimensions of a tensor, None for an open one; None if even their number is open."""
        if name in self._tensors:
            return list(self._tensors[name].dims)
        known = self._inferred.get(name)
        if known is None or not known.HasField("shape"):
            return None
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in known.shape.dim]

    @property
    def _inferred(self) -> dict[str, onnx.TypeProto.Tensor]:
        """Types of tensors as far as they can be inferred before anything is rewritten."""
        if self._types is None:
            try:
                graph = shape_inference.infer_shapes(self.proto).graph
            except Exception as error:  # its exceptions have no common base
                raise ModelError(
                    "the types of the model's tensors can't be inferred",
                    note=first_line(error),
                    hint="export it anew; onnx.shape_inference.infer_shapes says more",
                ) from error
            values = (*graph.input, *graph.value_info, *graph.output)
            self._types = {value.name: value.type.tensor_type for value in values}
        return self._types

    # ------------------------------------------------------------ what is written

    def walk(self) -> Iterator[onnx.NodeProto]:
        """The nodes to rewrite or `keep`, without those that are `done`."""
        for node in list(self.proto.graph.node):
            if node.name not in self.done:
                yield node

    def keep(self, node: onnx.NodeProto) -> None:
        """Writes a node as it is."""
        self.written.append(node)

    def emit(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Writes a node of standard ONNX with one output, and returns that tensor's name."""
        output = self.fresh(name) if output is None else output
        made = helper.make_node(operator, list(inputs), [output], name, **attributes)
        self.written.append(made)
        return output

    def constant(self, array: Array, name: str) -> str:
        """Adds an initializer, and returns its name, which begins with `name`."""
        name = self.fresh(name)
        self.initialize(name, array)
        return name

    def initialize(self, name: str, array: Array) -> None:
        """Adds an initializer of exactly this name, which no tensor has any more."""
        self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._tensors[name].dims[:] = array.shape  # ascontiguousarray gives a number one dimension
        self._values[name] = array
        self.proto.graph.initializer.append(self._tensors[name])

    def fresh(self, name: str) -> str:
        """A name like `name` that no tensor has."""
        unique, count = name, 0
        while unique in self._taken:
            count += 1
            unique = f"{name}.{count}"
        self._taken.add(unique)
        return unique

    def finish(self) -> None:
        """Puts what was written in place of the graph's nodes."""
        graph = self.proto.graph
        del graph.node[:]
        graph.node.extend(self.written)
        del graph.value_info[:]


def _computes(node: onnx.NodeProto) -> bool:
    """True for an operator of ONNX whose results follow from its inputs alone."""
    if node.domain not in STANDARD or node.op_type.startswith(("Random", "Bernoulli", "Multi")):
        return False
    return not any(one.HasField("g") or one.graphs for one in node.attribute)


def _read_inside(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that graphs inside of nodes, at any depth, read or make."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from (output.name for output in inner.output)
                for one in inner.node:
                    yield from (*one.input, *one.output)
                yield from _read_inside(inner)
