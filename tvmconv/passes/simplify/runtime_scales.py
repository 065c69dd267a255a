"""Let convolutions read numbers whose scale and zero point are computed at run time.

Before:  x = (float(q) - z) * s; y = conv(x, weight)                 z, s: tensors of one number
After:   n = int32(conv(float(q), numbers)); y = float(n - int32(z) * sums) * s * scale
         and where it pads, q is quantised out of a tensor that is padded with zeros
Requires: a weight with a scale for each output channel (`fold_weights`); no transposed convolution;
          padding only where q is what arithmetic as of a QuantizeLinear gives
Formula: sum((q - z) * numbers) = sum(q * numbers) - z * sum(numbers), in integers, where weight =
         scale * numbers. 0 is quantised to the zero point, whose sum over the filter is subtracted.
         What follows the sums is elementwise, so in one kernel with bias and activation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from intrinsics import dtypes
from tvmconv.passes.graph import Body, Dataflow, dtype, shape, with_bindings
from tvmconv.passes.regions.anchors import positions
from tvmconv.passes.regions.quantization import EIGHT_BITS

Named = Sequence[tuple[relax.Expr, str]]
Scales = Mapping[str, NDArray[np.float64]]
CONV, TRANSPOSED = "relax.nn.conv2d", "relax.nn.conv2d_transpose"
FP32, INT32 = dtypes.FP32.name, dtypes.INT32.name
#: From what a QuantizeLinear gives back to what it reads.
QUANTIZE = (
    "relax.astype", "relax.minimum", "relax.maximum", "relax.add", "relax.round", "relax.divide",
)  # fmt: skip


@dataclass(frozen=True)
class Runtime:
    """The real values (numbers - zero) * scale, each None where it does nothing."""

    numbers: relax.Var
    zero: relax.Var | None
    scale: relax.Var | None


def runtime_scales(
    mod: tvm.IRModule, named: Named, weight_scales: Scales
) -> tuple[tvm.IRModule, Named, Scales]:
    """The module, its weights with their names, and the scales of its weights, as they are after.

    named: as `anchors` returns them, with the name of each ONNX node. weight_scales: by name, (K,).
    """
    if not weight_scales:
        return mod, named, weight_scales
    flow = Dataflow.of(mod)
    body, found, scales = Body("runtime"), list(named), dict(weight_scales)
    at = positions(flow, named)
    for var, value in flow.values.items():
        name = named[at[var]][1] if var in at else ""
        runtime = runtime_of(value.args[0], flow) if name in scales else None
        transposed = flow.op(var) == TRANSPOSED
        if runtime is None or declined(transposed, bool(_pads(value)), runtime, flow):
            body.bindings.append(relax.VarBinding(var, value))
            continue
        numbers = _whole(value, scales[name])
        _write(body, var, runtime, numbers, scales[name], flow)
        found[at[var]] = (numbers, name)
        scales[name] = np.ones_like(scales[name])
    return with_bindings(mod, body.bindings, mod["main"].body.body), found, scales


def runtime_of(value: relax.Expr, flow: Dataflow) -> Runtime | None:
    """The numbers whose real values a tensor has, if their scale or zero point is computed."""
    taken: dict[str, relax.Var] = {}
    for op in ("relax.multiply", "relax.subtract"):
        if isinstance(value, relax.Var) and flow.op(value) == op:
            value, taken[op] = flow.values[value].args
            if not (isinstance(taken[op], relax.Var) and shape(taken[op]) == ()):
                return None
    if not taken or not isinstance(value, relax.Var) or flow.op(value) != "relax.astype":
        return None
    numbers = flow.values[value].args[0]
    if not isinstance(numbers, relax.Var) or dtype(numbers) not in EIGHT_BITS:
        return None
    return Runtime(numbers, taken.get("relax.subtract"), taken.get("relax.multiply"))


def declined(transposed: bool, pads: bool, runtime: Runtime, flow: Dataflow) -> str:
    """Why a convolution can't read numbers whose scale is computed; empty if it can."""
    if transposed:
        return "a transposed convolution of numbers whose scale is computed at run time"
    if runtime.zero is None:
        return ""
    if pads and _quantisation(runtime.numbers, flow) is None:
        return "padding with a zero point that is computed at run time"
    return ""


def _pads(call: relax.Call) -> list[int]:
    """Padding (top, left, bottom, right) of a convolution; empty if it has none."""
    pads = [int(pad) for pad in call.attrs.padding] if call.op.name == CONV else []
    return pads if any(pads) else []


def _quantisation(numbers: relax.Var, flow: Dataflow) -> list[relax.Call] | None:
    """The calls that quantise, from the last to the first; None if they are others."""
    calls: list[relax.Call] = []
    value: relax.Expr = numbers
    for op in QUANTIZE:
        if not isinstance(value, relax.Var) or flow.op(value) != op:
            if op == "relax.add":
                continue
            return None
        call = flow.values[value]
        if any(shape(other) != () for other in call.args[1:]):
            return None
        calls.append(call)
        value = call.args[0]
    return calls


def _whole(call: relax.Call, scale: NDArray[np.float64]) -> relax.Expr:
    """The numbers of a weight, as fp32."""
    by_output = scale if call.op.name == "relax.matmul" else scale[:, None, None, None]
    numbers = np.rint(call.args[1].value.numpy().astype(np.float64) / by_output)
    return relax.const(numbers.astype(np.float32), FP32)


def _write(
    body: Body,
    var: relax.Var,
    runtime: Runtime,
    weight: relax.Expr,
    scale: NDArray[np.float64],
    flow: Dataflow,
) -> None:
    """Writes what `var` is. weight: whole numbers."""
    call, numbers = flow.values[var], runtime.numbers
    pads = _pads(call)
    if pads and runtime.zero is not None:
        numbers, pads = _padded(body, numbers, pads, flow), []
    x = body.bind(relax.op.astype(numbers, FP32))
    if call.op.name == CONV:
        given = call.attrs
        total = relax.op.nn.conv2d(
            x, weight, given.strides, pads or 0, given.dilation, given.groups,
            given.data_layout, given.kernel_layout,
        )  # fmt: skip
    else:
        total = relax.op.matmul(x, weight)
    sums = body.bind(relax.op.astype(body.bind(total), INT32))
    if runtime.zero is not None:
        array = weight.value.numpy()
        by_output = array.sum(axis=0 if array.ndim == 2 else (1, 2, 3)).astype(np.int32)
        zero = body.bind(relax.op.astype(runtime.zero, INT32))
        shift = body.bind(relax.op.multiply(zero, relax.const(by_output, INT32)))
        sums = body.bind(relax.op.subtract(sums, shift))
    real: relax.Expr = relax.op.astype(sums, FP32)
    if runtime.scale is not None:
        real = relax.op.multiply(body.bind(real), runtime.scale)
    if (scale != 1).any():
        real = relax.op.multiply(body.bind(real), relax.const(scale.astype(np.float32), FP32))
    body.bind(real, var)


def _padded(body: Body, numbers: relax.Var, pads: list[int], flow: Dataflow) -> relax.Var:
    """The numbers, quantised out of a tensor with zeros around it."""
    calls = _quantisation(numbers, flow)
    assert calls is not None, "declined"
    top, left, bottom, right = pads
    around = [0, 0, top, bottom, left, right, 0, 0]
    value = body.bind(relax.op.nn.pad(calls[-1].args[0], around, "constant", 0.0))
    for call in reversed(calls):
        value = body.bind(relax.Call(call.op, [value, *call.args[1:]], call.attrs))
    return value
