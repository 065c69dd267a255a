"""The ONNX nodes whose results are variables of the planned graph."""

from __future__ import annotations

import onnx
import tvm
from tvm import relax

from tvmconv.onnx.importer import NODES
from tvmconv.onnx.model import shapes_of
from tvmconv.passes.graph import Dataflow, shape
from tvmconv.passes.simplify.group_norms import NORM

#: Operators that batch norms and arithmetic with constants become; "" is an item of a tuple, as
#: a batch norm is imported.
ARITHMETIC = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "")
RESHAPE = "relax.reshape"
COPIES = ("relax.astype", "relax.permute_dims", RESHAPE)
#: Operators of ONNX that only reshape.
RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def node_names(mod: tvm.IRModule, simple: onnx.ModelProto) -> dict[relax.Var, str]:
    """Returns the names of ONNX nodes by the variables that are their results.

    mod: as imported, after passes. simple: the graph that was imported. Passes keep the name of a
    variable whose value they keep, but can also give it to a new one, so operator and dimensions
    have to match too. Nodes whose result is no longer a variable are left out.
    """
    flow, sizes = Dataflow.of(mod), shapes_of(simple)
    makers = {output: node for node in simple.graph.node for output in node.output}
    nodes = {node.name: node for node in simple.graph.node}
    imported = {name: tuple(node) for name, node in mod["main"].attrs[NODES].items()}
    found: dict[relax.Var, str] = {}
    for var, value in flow.values.items():
        name, op = imported.get(var.name, ("", ""))
        if not name or not isinstance(value.ty, relax.TensorType):
            continue
        node = nodes[name]
        same = flow.op(var) == op or {op, flow.op(var)} <= {*ARITHMETIC} or _norm(op, flow.op(var))
        alike = [sorted(sizes.get(output, ())) == sorted(shape(value)) for output in node.output]
        if same and any(alike):
            found[var] = name
            # A result that is only reshaped is computed by the reshape's operand.
            if op == RESHAPE and node.op_type not in RESHAPES:
                found.setdefault(value.args[0], name)
    # An output may be a copy, in another layout or dtype, of a variable of any name.
    for var, output in zip(_outputs(mod, flow), simple.graph.output, strict=True):
        maker = makers.get(output.name)
        while flow.op(var) in COPIES and found.get(var) != (maker and maker.name):
            var = flow.values[var].args[0]
        if var in flow.values and maker is not None:
            found[var] = maker.name
    return found


def _norm(before: str, after: str) -> bool:
    """Returns True where a norm of groups ends with another operator after passes: it takes in what
    is after it, or is written by others."""
    ends = (*ARITHMETIC, RESHAPE)
    return (before in ends and after == NORM) or (before == NORM and after in ends)


def _outputs(mod: tvm.IRModule, flow: Dataflow) -> list[relax.Expr]:
    """Returns the outputs of the network, one by one."""
    given = mod["main"].body.body
    value = flow.values.get(given)
    return list(value.fields) if isinstance(value, relax.Tuple) else [given]
