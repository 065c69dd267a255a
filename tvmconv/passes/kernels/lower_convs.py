"""Replace each region by its kernels, and settle who computes in fp16.

Before:  y = conv2d(x, weight); y = add(y, bias); y = relu(y)       # fp32
After:   h = call_tir(conv, (x16, weight16, bias, residual16)); y = astype(h, float32)
         and where several kernels write one tensor, each after the first is call_tir_inplace
Requires: a plan for every region
Formula: convolutions take fp16 and give fp16 (fp32 to readers that compute in fp32); operators
         that only move or compare values follow their input; everything else computes in fp32,
         its casts fused into it by FuseOps. A cast up and down again is never emitted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from schedules.conv.gemm import pack_channels
from schedules.conv.workload import ConvWorkload
from schedules.families.depthwise_projection.family import pack_prologue
from schedules.machine.hardware import Hardware
from tvmconv.passes.graph import op_name, shape
from tvmconv.passes.plan.plan import Plan, PlannedConv, PlannedKernel, kernel_names
from tvmconv.passes.plan.readers import FOLLOWS_INPUT

#: relax's OpPatternKind kOpaque.
OPAQUE = 8


@mutator
class _Lower(PyExprMutator):
    def __init__(
        self, mod: tvm.IRModule, plan: Plan, activations: str, *, outlined: bool = False
    ) -> None:
        super().__init__(mod)
        self.plan = plan
        self.activations = activations
        #: Whether kernels are called by name, without constants, and nothing is scheduled.
        self.outlined = outlined
        #: The variable whose value an fp16 one is, where an operator follows its input; and the
        #: variable that is being bound.
        self.narrowed: dict[relax.Var, relax.Var] = {}
        self.bound: relax.Var | None = None
        self.names = kernel_names(plan.values())
        self.kernels: dict[tuple[ConvWorkload, Any, Hardware], tvm.ir.GlobalVar] = {}
        #: The tensor of each variable that kernels write, as far as it is written; and how many
        #: convolutions are still to write to it.
        self.buffers: dict[relax.Var, relax.Expr] = {}
        self.waiting = Counter(planned.place.buffer for planned in plan.values())

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with every region lowered."""
        main = self.visit_expr(mod["main"])
        self.builder_.update_func(mod.get_global_var("main"), main)
        return self.builder_.get()

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.bound = binding.var
        planned = self.plan.get(binding.var)
        if planned is not None:
            self._conv(planned)
            self.waiting[planned.place.buffer] -= 1
        if binding.var in self.buffers:
            binding = relax.VarBinding(binding.var, self._finished(binding.var))
        elif planned is not None:
            return  # written into a tensor whose variable is still to come
        super().visit_var_binding_(binding)

    def _finished(self, var: relax.Var) -> relax.Expr:
        """What the kernels wrote, in the shape and dtype that readers of `var` expect."""
        assert self.waiting[var] == 0, "a tensor is read before it is written"
        value = self.buffers[var]
        if len(shape(value)) == 6:  # packed: back to NHWC, for those who do not read it so
            value = self.builder_.emit(relax.op.permute_dims(value, (0, 4, 1, 2, 3, 5)))
        if shape(value) != shape(var):
            value = self.builder_.emit(relax.op.reshape(value, shape(var)))
        return value if value.ty.dtype == var.ty.dtype else relax.op.astype(value, var.ty.dtype)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        op = op_name(call)
        if op in FOLLOWS_INPUT:
            halves = [self._existing_half(arg) for arg in call.args]
            if all(half is not None for half in halves):
                return self._widened(relax.Call(call.op, halves, call.attrs), call)
        if op == "relax.astype" and call.attrs.dtype == "float16":
            half = self._existing_half(call.args[0])
            if half is not None:
                return half
        if op == "relax.nn.conv2d_transpose":
            return self._transposed(super().visit_call_(call))
        return super().visit_call_(call)

    def _transposed(self, call: relax.Call) -> relax.Expr:
        """One with computed weights, in NCHW: the only layout that TVM can legalise."""
        x = self.builder_.emit(relax.op.permute_dims(call.args[0], (0, 3, 1, 2)))
        attributes = call.attrs
        y = relax.op.nn.conv2d_transpose(
            x,
            call.args[1],
            attributes.strides,
            attributes.padding,
            attributes.output_padding,
            attributes.dilation,
            attributes.groups,
        )
        return relax.op.permute_dims(self.builder_.emit(y), (0, 2, 3, 1))

    def _conv(self, planned: PlannedConv) -> None:
        """Emits the kernels of a region."""
        region = planned.region
        w = planned.kernels[0].choice.workload
        x, residual = self._operand(region.x, w.in_shape), None
        if region.residual is not None:
            residual = self._operand(region.residual, w.residual_shape)
        for kernel in planned.kernels:
            self._write(planned, kernel, x, residual)

    def _operand(self, arg: relax.Expr, expected: tuple[int, ...]) -> relax.Expr:
        """What `arg` is, in the dtype and shape that a kernel reads."""
        written = self.buffers.get(arg) if isinstance(arg, relax.Var) else None
        wanted = expected, self.activations
        if written is not None and (shape(written), written.ty.dtype) == wanted:
            return written
        value = self._half(arg) if self.activations == "float16" else self.visit_expr(arg)
        if shape(value) == expected:
            return value
        assert len(expected) == 4, "a reshape would cross layouts"
        return self._reshaped(value, expected)

    def _reshaped(self, value: relax.Expr, expected: tuple[int, ...]) -> relax.Expr:
        """Of the same elements; several reshapes are one, and one that changes nothing is none."""
        inner = self._reshape_of(value)
        value = value if inner is None else inner
        if shape(value) == expected:
            return value
        return self.builder_.emit(relax.op.reshape(value, expected))

    def _reshape_of(self, value: relax.Expr) -> relax.Expr | None:
        """What `value` is a reshape of, if it is one."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if bound is None or op_name(bound) != "relax.reshape":
            return None
        return bound.args[0]

    def _write(
        self, planned: PlannedConv, kernel: PlannedKernel, x: relax.Expr, residual: Any
    ) -> None:
        """Emits one kernel, which writes all of its buffer or one part more of it."""
        region, choice = planned.region, kernel.choice
        w = choice.workload
        out = relax.TensorType(w.buffer_shape, w.epilogue.out_dtype)
        buffer = planned.place.buffer
        if self.outlined:
            given = (x, residual, self.buffers.get(buffer))
            args = [arg for arg in given if arg is not None]
            call = relax.call_dps_packed(self.names[kernel.key], args, out)
            self.buffers[buffer] = self.builder_.emit(call)
            return
        args = [x]
        if (first := region.prologue) is not None:
            packed = pack_prologue(w.apart[0], first.weight, first.bias)
            args.append(relax.const(packed))
        args.append(relax.const(choice.family.pack(w, choice.config, kernel.weight)))
        for values in (region.bias, region.slope):
            if values is not None:
                args.append(relax.const(pack_channels(w, values)))
        if residual is not None:
            args.append(residual)
        function = self._kernel(kernel)
        if buffer in self.buffers:
            args.append(self.buffers[buffer])
            call = relax.op.call_tir_inplace(function, args, [len(args) - 1], out)
        else:
            call = relax.call_tir(function, args, out)
        self.buffers[buffer] = self.builder_.emit(call)

    def _kernel(self, kernel: PlannedKernel) -> tvm.ir.GlobalVar:
        """The scheduled function, made once for all convolutions that are alike."""
        key = kernel.key
        if key not in self.kernels:
            func = kernel.choice.family.schedule(*key)
            func = func.without_attr("global_symbol")
            # Keeps every later pass from scheduling it, and from fusing anything into it.
            func = func.with_attrs({"tirx.is_scheduled": True, "op_pattern": OPAQUE})
            self.kernels[key] = self.builder_.add_func(func, self.names[key])
        return self.kernels[key]

    def _widened(self, value: relax.Expr, like: relax.Call) -> relax.Expr:
        """`value`, as the dtype that readers of `like` expect."""
        half = self.builder_.emit(value)
        if self.bound is not None:
            self.narrowed[half] = self.bound
        if half.ty.dtype == like.ty.dtype:
            return half
        return relax.op.astype(half, like.ty.dtype)

    def _half(self, arg: relax.Expr) -> relax.Expr:
        half = self._existing_half(arg)
        if half is not None:
            return half
        value = self.visit_expr(arg)
        inner = self._reshape_of(value)
        if inner is None:
            return self.builder_.emit(relax.op.astype(value, "float16"))
        # The cast first: it is fused into what is reshaped, and a reshape alone costs nothing.
        half = self.builder_.emit(relax.op.astype(inner, "float16"))
        return self._reshaped(half, shape(value))

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
        if bound is None or op_name(bound) != "relax.astype":
            return None
        return bound.args[0] if bound.args[0].ty.dtype == "float16" else None


def lower_convs(plan: Plan, activations: str = "float16") -> tvm.transform.Pass:
    """activations: what the kernels of `plan` read; of a simulation that may be ``"float32"``."""

    @tvm.transform.module_pass(opt_level=0, name="lower_convs")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return _Lower(mod, plan, activations).run(mod)

    steps = [run, relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential(steps, name="lower_convs")


def outline_convs(
    mod: tvm.IRModule, plan: Plan, activations: str = "float16"
) -> tuple[tvm.IRModule, dict[relax.Var, relax.Var]]:
    """The same with kernels called by name and without constants, so that nothing is scheduled or
    packed: what becomes of everything else. Such a module can't be built.

    Returns also the variable of `mod` whose value an fp16 variable has, where it has another name.
    """
    lower = _Lower(mod, plan, activations, outlined=True)
    lowered = lower.run(mod)
    return relax.transform.DeadCodeElimination(["main"])(lowered), lower.narrowed
