"""A network as it is lowered for a GPU, run on this CPU: its convolutions' kernels in the emulator,
the rest by TVM for llvm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from schedules.choose import kernel_cost
from schedules.conv.workload import ConvWorkload
from schedules.family import Family
from schedules.machine.cost import Cost
from schedules.machine.hardware import Hardware
from schedules.threads import emulator
from schedules.threads.emulator.guarded import Array
from tests.support import graphs, kernels
from tvmconv.passes.graph import op_name

#: The name under which TVM calls a kernel of a network.
CALLED = "tests.emulated."


def run(model: onnx.ModelProto, hardware: Hardware, x: Array) -> list[Array]:
    """What the network gives for its one input, with WMMA nowhere, which is not emulated."""
    mod = graphs.lowered(model, hardware, _without_wmma)
    calls = _Calls(mod)
    main = calls.visit_expr(mod["main"])
    for name, function in calls.kernels.items():
        _register(name, function, hardware)
    try:
        return graphs.run(tvm.IRModule({"main": main}), x)
    finally:
        for name in calls.kernels:
            tvm_ffi.remove_global_func(name)


def _without_wmma(w: ConvWorkload, family: Family, config: Any, hardware: Hardware) -> Cost:
    cost = kernel_cost(w, family, config, hardware)
    return replace(cost, us=1e9) if family.name.startswith("wmma") else cost


@mutator
class _Calls(PyExprMutator):
    """Calls functions of TVM's registry instead of the module's own kernels."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.mod, self.kernels = mod, dict[str, tirx.PrimFunc]()

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) != "relax.call_tir":
            return call
        kernel, operands = call.args[:2]
        name = CALLED + kernel.name_hint
        self.kernels[name] = self.mod[kernel].with_attr("global_symbol", "main")
        return relax.op.call_dps_packed(name, operands, call.ty_args[0])


def _register(name: str, function: tirx.PrimFunc, hardware: Hardware) -> None:
    def call(*tensors: Any) -> None:
        arrays = [tensor.numpy() for tensor in tensors]
        real = np.issubdtype(arrays[-1].dtype, np.floating)
        arrays[-1] = np.full_like(arrays[-1], np.nan if real else kernels.UNLIKELY)
        tensors[-1].copyfrom(emulator.run(function, arrays, hardware))

    tvm_ffi.register_global_func(name, call, override=True)
