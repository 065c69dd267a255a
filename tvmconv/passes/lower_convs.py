"""Replace each marked convolution by its scheduled kernel, and settle who computes in fp16.

Before:  y = fused_tvmconv_conv2d(x, residual)                      # fp32
After:   h = call_tir(conv, (x16, weight16, bias, residual16)); y = astype(h, float32)
Requires: a plan for every marked call
Formula: convolutions take fp16 and give fp16 (fp32 to readers that compute in fp32); operators
         that only move or compare values follow their input; everything else computes in fp32,
         its casts fused into it by FuseOps. A cast up and down again is never emitted.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from schedules.choose import Choice
from schedules.hardware import Hardware
from schedules.workload import ConvWorkload
from tvmconv.passes.plan import FOLLOWS_INPUT, Plan, PlannedConv


@mutator
class _Lower(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, plan: Plan) -> None:
        super().__init__(mod)
        self.plan = plan
        self.kernels: dict[tuple[ConvWorkload, Any, Hardware], tvm.ir.GlobalVar] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        planned = self.plan.get(call)
        if planned is not None:
            return self._conv(call, planned)
        if getattr(call.op, "name", "") in FOLLOWS_INPUT:
            halves = [self._existing_half(arg) for arg in call.args]
            if all(half is not None for half in halves):
                return self._widened(relax.Call(call.op, halves, call.attrs), call)
        return super().visit_call_(call)

    def _conv(self, call: relax.Call, planned: PlannedConv) -> relax.Expr:
        choice, region = planned.choice, planned.region
        w = choice.workload
        weight, bias = choice.family.pack(w, choice.config, region.weight, region.bias)
        args = [self._half(call.args[region.x_argument]), relax.const(weight)]
        if bias is not None:
            args.append(relax.const(bias))
        if region.residual_argument is not None:
            args.append(self._half(call.args[region.residual_argument]))
        out = relax.TensorType(w.out_shape, w.epilogue.out_dtype)
        return self._widened(relax.call_tir(self._kernel(choice), args, out), call)

    def _kernel(self, choice: Choice) -> tvm.ir.GlobalVar:
        """The scheduled function, made once for all convolutions that are alike."""
        key = (choice.workload, choice.config, choice.hardware)
        if key not in self.kernels:
            func = choice.family.schedule(*key)
            # The attribute keeps every later pass from scheduling or fusing it.
            func = func.without_attr("global_symbol").with_attr("tirx.is_scheduled", True)
            self.kernels[key] = self.builder_.add_func(func, f"conv_{choice.family.name}")
        return self.kernels[key]

    def _widened(self, value: relax.Expr, like: relax.Call) -> relax.Expr:
        """`value`, as the dtype that readers of `like` expect."""
        half = self.builder_.emit(value)
        if half.ty.dtype == like.ty.dtype:
            return half
        return relax.op.astype(half, like.ty.dtype)

    def _half(self, arg: relax.Expr) -> relax.Expr:
        half = self._existing_half(arg)
        if half is not None:
            return half
        return self.builder_.emit(relax.op.astype(self.visit_expr(arg), "float16"))

    def _existing_half(self, arg: relax.Expr) -> relax.Expr | None:
        """The fp16 value of which `arg` is a widened copy; `arg` itself if it is no tensor."""
        if isinstance(arg, relax.Tuple):
            halves = [self._existing_half(field) for field in arg.fields]
            return None if any(half is None for half in halves) else relax.Tuple(halves)
        if not isinstance(arg.ty, relax.TensorType):
            return arg
        value = self.visit_expr(arg)
        if value.ty.dtype == "float16":
            return value
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if not isinstance(bound, relax.Call) or getattr(bound.op, "name", "") != "relax.astype":
            return None
        return bound.args[0] if bound.args[0].ty.dtype == "float16" else None


def lower_convs(plan: Plan) -> tvm.transform.Pass:
    @tvm.transform.module_pass(opt_level=0, name="lower_convs")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        lower = _Lower(mod, plan)
        main = lower.visit_expr(mod["main"])
        lower.builder_.update_func(mod.get_global_var("main"), main)
        return lower.builder_.get()

    steps = [run, relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential(steps, name="lower_convs")
