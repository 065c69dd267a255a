"""Replace each region by its kernels, and settle who computes in the kernels' dtype.

Before:  y = conv2d(x, weight); y = add(y, bias); y = relu(y)       # fp32
After:   h = call_tir(conv, (x, weight, bias, residual)); y = astype(h, float32)   # h: fp16, say
         and where several kernels write one tensor, each after the first is call_tir_inplace
Requires: a plan for every region
Formula: convolutions take and give the dtype of their precision (fp32 to readers that compute in
         fp32); operators that only move or compare values follow their input; everything else
         computes in fp32, its casts fused into it by FuseOps. A cast up and down again is never
         emitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from intrinsics.dtypes import FP32
from schedules.conv.precision import FP16, Precision
from schedules.conv.signature import GATE, RESIDUAL, Operand, X
from schedules.conv.workload import ConvWorkload
from schedules.machine.hardware import Hardware
from tvmconv.passes.graph import op_name, shape
from tvmconv.passes.plan.magnitudes import CALL
from tvmconv.passes.plan.plan import Plan, PlannedConv, PlannedKernel, kernel_names
from tvmconv.passes.plan.readers import FOLLOWS_INPUT
from tvmconv.passes.products.lower_products import ProductKernels, opaque
from tvmconv.passes.products.plan_products import NO_PRODUCTS, ProductPlan
from tvmconv.passes.regions.region import Region


@mutator
class _Lower(PyExprMutator):
    def __init__(
        self,
        mod: tvm.IRModule,
        plan: Plan,
        products: ProductPlan,
        narrow: str,
        *,
        outlined: bool = False,
    ) -> None:
        super().__init__(mod)
        self.plan, self.products = plan, products
        self.product_kernels = ProductKernels(self.builder_, products, outlined)
        #: The dtype that convolutions read.
        self.narrow = narrow
        #: True if kernels are called by name, without constants, and nothing is scheduled.
        self.outlined = outlined
        #: For a narrow variable, emitted where an operator follows its input, the variable that has
        #: the same value; and the variable that is being bound.
        self.stand_ins: dict[relax.Var, relax.Var] = {}
        self.bound: relax.Var | None = None
        self.names = kernel_names(plan.values())
        #: What `_cast` has made, by the tensor and the power of two.
        self.casts: dict[tuple[relax.Expr, float], relax.Expr] = {}
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
        """The tensor that kernels wrote, in the shape and dtype that readers of `var` expect."""
        assert self.waiting[var] == 0, "a tensor is read before it is written"
        value = self.buffers[var]
        if len(shape(value)) == 6:  # packed: back to NHWC, for those who do not read it so
            value = self.builder_.emit(relax.op.permute_dims(value, (0, 4, 1, 2, 3, 5)))
        value = self._reshaped(value, shape(var))
        return value if value.ty.dtype == var.ty.dtype else relax.op.astype(value, var.ty.dtype)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        op = op_name(call)
        if op == "relax.reshape" and (inner := self._existing_narrow(call.args[0])) is not None:
            return self._widened(self._reshaped(inner, shape(call)), call)
        if op in FOLLOWS_INPUT:
            narrow = [self._existing_narrow(arg) for arg in call.args]
            if all(one is not None for one in narrow):
                return self._widened(relax.Call(call.op, narrow, call.attrs), call)
        if op == "relax.astype" and call.attrs.dtype == self.narrow:
            existing = self._existing_narrow(call.args[0])
            if existing is not None:
                return existing
        if op == CALL and str(call.args[0].global_symbol) in self.products:
            return self._product(call)
        if op == "relax.nn.conv2d_transpose":
            return self._transposed(super().visit_call_(call))
        return super().visit_call_(call)

    def _product(self, call: relax.Call) -> relax.Expr:
        """A product of two computed tensors, by its kernel."""
        planned = self.products[str(call.args[0].global_symbol)]

        def read(tensor: relax.Expr, scale: float) -> relax.Expr:
            return (
                self._narrowed(tensor) if scale == 1 else self._cast(self.visit_expr(tensor), scale)
            )

        kernels = self.product_kernels
        made = kernels.call(planned, read, self.visit_expr, self._reshaped)
        return self._widened(self._reshaped(made, shape(call)), call)

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
        region, read = planned.region, {}
        signature = planned.kernels[0].signature
        first = region if region.prologue is None else region.prologue
        read_ones = ((X, self._x(first)), (GATE, region.gate), (RESIDUAL, region.residual))
        for name, arg in read_ones:
            if arg is not None:
                read[name] = self._operand(arg, signature[name])
        for kernel in planned.kernels:
            self._write(planned, kernel, read)

    def _x(self, region: Region) -> relax.Expr:
        """x as the kernel multiplies it: its numbers, padded where they have a zero point; or as
        floats without it, of which any dtype that is multiplied holds 9 bits, times a power of
        two; or a tensor in fp32 times a power of two. What converts them is elementwise, so one
        kernel that reads bytes, or a part of the one that gives x."""
        numbers = region.scale is not None
        if (not numbers and region.x_scale == 1) or (region.integers and not any(region.widths)):
            return region.x
        x = self.visit_expr(region.x)
        if x.ty.dtype == FP32.name and not numbers:
            return self._cast(x, region.x_scale)
        if region.integers:
            top, left, bottom, right = region.widths
            around = [0, 0, top, bottom, left, right, 0, 0]
            return self.builder_.emit(relax.op.nn.pad(x, around, "constant", region.x_zero))
        wide = self.builder_.emit(relax.op.astype(x, self.narrow))
        if region.x_scale != 1:
            factor = relax.const(region.x_scale, self.narrow)
            return self.builder_.emit(relax.op.multiply(wide, factor))
        if not region.x_zero:
            return wide
        zero = relax.const(region.x_zero, self.narrow)
        return self.builder_.emit(relax.op.subtract(wide, zero))

    def _operand(self, arg: relax.Expr, expected: Operand) -> relax.Expr:
        """`arg` in the dtype and shape that a kernel reads."""
        written = self.buffers.get(arg) if isinstance(arg, relax.Var) else None
        wanted = expected.shape, expected.dtype
        if written is not None and (shape(written), written.ty.dtype) == wanted:
            return written
        value = self._narrowed(arg) if expected.dtype == self.narrow else self.visit_expr(arg)
        if value.ty.dtype != expected.dtype:  # simulated in fp32, of numbers that are converted
            value = self.builder_.emit(relax.op.astype(value, expected.dtype))
        if shape(value) == expected.shape:
            return value
        assert len(expected.shape) == 4, "a reshape would cross layouts"
        return self._reshaped(value, expected.shape)

    def _reshaped(self, value: relax.Expr, expected: tuple[int, ...]) -> relax.Expr:
        """Reshapes `value`; merges a reshape before it, and emits none if the shape stays."""
        inner = self._reshape_of(value)
        value = value if inner is None else inner
        if shape(value) == expected:
            return value
        return self.builder_.emit(relax.op.reshape(value, expected))

    def _reshape_of(self, value: relax.Expr) -> relax.Expr | None:
        """The tensor that `value` is a reshape of, or None."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if bound is None or op_name(bound) != "relax.reshape":
            return None
        return bound.args[0]

    def _write(
        self, planned: PlannedConv, kernel: PlannedKernel, read: Mapping[str, relax.Expr]
    ) -> None:
        """Emits one kernel, which writes all of its buffer or one part more of it.

        read: the operands that are no constants, by name.
        """
        choice, buffer = kernel.choice, planned.place.buffer
        *inputs, y = kernel.signature
        out = relax.TensorType(y.shape, y.dtype)
        if self.outlined:
            before = [self.buffers[buffer]] if buffer in self.buffers else []
            call = relax.call_dps_packed(self.names[kernel.key], [*read.values(), *before], out)
            self.buffers[buffer] = self.builder_.emit(call)
            return
        packed = choice.family.pack(choice.workload, choice.config, kernel.given)
        args = [
            relax.const(packed[one.name]) if one.name in packed else read[one.name]
            for one in inputs
        ]
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
            func = opaque(kernel.choice.family.schedule(*key))
            self.kernels[key] = self.builder_.add_func(func, self.names[key])
        return self.kernels[key]

    def _widened(self, value: relax.Expr, like: relax.Call) -> relax.Expr:
        """`value`, as the dtype that readers of `like` expect."""
        narrow = value if isinstance(value, relax.Var) else self.builder_.emit(value)
        if self.bound is not None:
            self.stand_ins.setdefault(narrow, self.bound)
        if narrow.ty.dtype == like.ty.dtype:
            return narrow
        return relax.op.astype(narrow, like.ty.dtype)

    def _narrowed(self, arg: relax.Expr) -> relax.Expr:
        existing = self._existing_narrow(arg)
        if existing is not None:
            return existing
        value = self.visit_expr(arg)
        inner = self._reshape_of(value)
        if inner is None:
            return self._cast(value)
        # The cast first: it is fused into what is reshaped, and a reshape alone costs nothing.
        return self._reshaped(self._cast(inner), shape(value))

    def _cast(self, value: relax.Expr, scale: float = 1.0) -> relax.Expr:
        """`value`, in fp32, times a power of two, in the dtype that convolutions read: computed
        once for all that read it."""
        key = value, scale
        if key not in self.casts:
            if scale != 1:
                value = self.builder_.emit(relax.op.multiply(value, relax.const(scale, FP32.name)))
            self.casts[key] = self.builder_.emit(relax.op.astype(value, self.narrow))
        return self.casts[key]

    def _existing_narrow(self, arg: relax.Expr) -> relax.Expr | None:
        """The narrow value of which `arg` is a widened copy; `arg` itself if it is no tensor."""
        if isinstance(arg, relax.Tuple):
            fields = [self._existing_narrow(field) for field in arg.fields]
            return None if any(one is None for one in fields) else relax.Tuple(fields)
        if not isinstance(arg.ty, relax.TensorType):
            return arg
        value = self.visit_expr(arg)
        if value.ty.dtype == self.narrow:
            return value
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if bound is None or op_name(bound) != "relax.astype":
            return None
        return bound.args[0] if bound.args[0].ty.dtype == self.narrow else None


def lower_convs(
    plan: Plan, products: ProductPlan = NO_PRODUCTS, precision: Precision = FP16
) -> tvm.transform.Pass:
    """Returns the pass. precision: what the network's convolutions multiply."""

    @tvm.transform.module_pass(opt_level=0, name="lower_convs")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return _Lower(mod, plan, products, precision.x).run(mod)

    steps = [run, relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential(steps, name="lower_convs")


def outline_convs(
    mod: tvm.IRModule, plan: Plan, products: ProductPlan, precision: Precision
) -> tuple[tvm.IRModule, dict[relax.Var, relax.Var]]:
    """Lowers with kernels called by name and without constants: nothing is scheduled or packed.

    It shows what becomes of all other operators; such a module can't be built. Also returns the
    variable of `mod` whose value a variable of the new module has, where an operator gives the
    dtype that convolutions read instead of its own.
    """
    lower = _Lower(mod, plan, products, precision.x, outlined=True)
    lowered = lower.run(mod)
    return relax.transform.DeadCodeElimination(["main"])(lowered), lower.stand_ins
