"""Mark each convolution together with what its epilogue can do.

Before:  y = conv2d(x, weight); y = add(y, bias); y = add(y, residual); y = relu(y)
         (or, for a clip, y = minimum(maximum(y, low), high))
After:   y = fused_tvmconv_conv2d(x, residual), a function of its own that holds those bindings
Requires: NHWC activations, OHWI weights, both weight and bias constant, batch norms folded; what
          is absorbed has no other user, and the residual has the convolution's own shape
Formula: y = activation(conv2d(x, weight) + bias + residual), the `Epilogue` of schedules
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.dpl import DFPattern, is_const, is_op, wildcard
from tvm.relax.transform import FusionPattern, PatternCheckContext

from schedules.workload import Activation

COMPOSITE = "tvmconv.conv2d"


#: Attribute of a marked function: the ONNX node that it was.
NODE = "tvmconv.node"

#: The weight of every conv2d of a module, with the ONNX node that it was.
Named = list[tuple[relax.Expr, str]]


def name_weights(mod: tvm.IRModule, names: Sequence[str]) -> Named:
    """Which convolution is which, for `mark_regions`.

    names: the ONNX nodes that became conv2d, in the order of the graph. A call is known again by
    its weight: passes make new calls as they go, but keep the constants, and `fold_layouts` has
    given every call one of its own.
    """
    weights = [
        binding.value.args[1]
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
        and getattr(binding.value.op, "name", "") == "relax.nn.conv2d"
    ]
    return list(zip(weights, names, strict=True))


def mark_regions(mod: tvm.IRModule, named: Named) -> tvm.IRModule:
    """The module with its convolutions marked."""
    return relax.transform.FuseOpsByPattern(_patterns(named), bind_constants=True)(mod)


def _patterns(named: Named) -> list[FusionPattern]:
    """Larger ones come first, so that an epilogue is taken as a whole."""
    return [
        _pattern(named, activation, residual, bias)
        for activation in ("relu", "clip", None)
        for residual in ("right", "left", None)
        for bias in (True, False)
    ]


def _pattern(
    named: Named, activation: str | None, residual: str | None, bias: bool
) -> FusionPattern:
    parts: dict[str, DFPattern] = {"x": wildcard(), "weight": is_const()}
    y = parts["conv"] = is_op("relax.nn.conv2d")(parts["x"], parts["weight"])
    if bias:
        parts["bias"] = is_const()
        y = parts["biased"] = is_op("relax.add")(y, parts["bias"])
    if residual:
        other = parts["residual"] = wildcard()
        operands = (y, other) if residual == "right" else (other, y)
        y = parts["added"] = is_op("relax.add")(*operands)
    if activation == "relu":
        y = is_op("relax.nn.relu")(y)
    elif activation == "clip":
        parts["low"], parts["high"] = is_const(), is_const()
        raised = parts["raised"] = is_op("relax.maximum")(y, parts["low"])
        y = is_op("relax.minimum")(raised, parts["high"])

    def node(found: Mapping[str, relax.Expr]) -> dict[str, str]:
        return {NODE: next(name for weight, name in named if weight.same_as(found["weight"]))}

    return FusionPattern(COMPOSITE, y, parts, _check, node)


def _check(context: PatternCheckContext) -> bool:
    """Whether the epilogue can do what the pattern found."""
    parts = context.annotated_expr
    shape = [int(size) for size in parts["conv"].ty.shape]
    if "bias" in parts and [int(d) for d in parts["bias"].ty.shape] != [1, 1, 1, shape[3]]:
        return False
    if "residual" in parts:
        residual = parts["residual"]
        if isinstance(residual, tvm.ir.GenericConst):
            return False
        if [int(size) for size in residual.ty.shape] != shape:
            return False
    if any(parts[bound].ty.ndim for bound in ("low", "high") if bound in parts):
        return False
    # What somebody else reads has to be there: only the last of the chain is.
    between = [parts[name] for name in ("conv", "biased", "added", "raised") if name in parts]
    between = [value for value in between if not value.same_as(context.matched_expr)]
    variables = [context.value_to_bound_var[value] for value in between]
    if any(one.same_as(parts.get("residual")) for one in (*between, *variables)):
        return False  # y + y
    return all(len(context.var_usages[variable]) == 1 for variable in variables)


@dataclass(frozen=True)
class Region:
    """A marked convolution: its ONNX node, its attributes and constants, as numbers.

    weight (K, C/groups, R, S) and bias (K,) as the model has them after folding.
    """

    name: str
    x_shape: tuple[int, int, int, int]
    weight: NDArray[Any]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    bias: NDArray[Any] | None
    #: Positions of x and of the residual among the function's arguments.
    x_argument: int
    residual_argument: int | None
    activation: Activation


def read_region(function: relax.Function) -> Region:
    """What a function marked by `mark_regions` computes."""
    position = {parameter: i for i, parameter in enumerate(function.params)}
    fields: dict[str, Any] = {
        "name": str(function.attrs[NODE]),
        "bias": None,
        "residual_argument": None,
        "activation": Activation(),
    }
    for binding in function.body.blocks[0].bindings:
        call = binding.value
        name = call.op.name
        if name == "relax.nn.conv2d":
            x, weight = call.args
            fields["x_argument"] = position[x]
            fields["x_shape"] = tuple(int(size) for size in x.ty.shape)
            fields["weight"] = weight.value.numpy().transpose(0, 3, 1, 2)
            fields |= _attributes(call.attrs)
        elif name == "relax.add":
            constants = [arg for arg in call.args if isinstance(arg, tvm.ir.GenericConst)]
            if constants:
                fields["bias"] = constants[0].value.numpy().reshape(-1)
            else:
                (residual,) = (position[arg] for arg in call.args if arg in position)
                fields["residual_argument"] = residual
        elif name == "relax.nn.relu":
            fields["activation"] = Activation("relu")
        elif name == "relax.maximum":
            low = float(call.args[1].value.numpy())
        elif name == "relax.minimum":
            fields["activation"] = Activation("clip", low, float(call.args[1].value.numpy()))
        else:
            raise AssertionError(f"{name} is in no pattern")
    return Region(**fields)


def _attributes(attributes: Any) -> dict[str, Any]:
    padding = tuple(int(size) for size in attributes.padding)
    return {
        "stride": tuple(int(size) for size in attributes.strides),
        "padding": padding,
        "dilation": tuple(int(size) for size in attributes.dilation),
        "groups": int(attributes.groups),
    }
