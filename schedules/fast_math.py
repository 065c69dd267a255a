"""CUDA's sigmoid and erf in fp32, each in a dozen instructions.

    sigmoid(x) = 1 / (1 + exp(-x))
    erf(x) = sign(x) * (1 - (a1 t + a2 t^2 + ... + a5 t^5) exp(-x^2)),  t = 1 / (1 + p |x|)

(Abramowitz and Stegun 1964, 7.1.26: within 1.5e-7, and 6e-7 as fp32 rounds it.) Exponentials and
quotients are those of the special function units, right to about 2 units in the last place where
an epilogue uses them. CUDA's own functions branch, and correct what a result of fp16 does not
show: with them a GELU or a SiLU took longer than the product before it. CPUs have TVM's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import ir, tirx

from intrinsics.dtypes import FP32

Lower = Callable[[Any], Any]
#: p, and a1 to a5.
P = 0.3275911
A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
#: Above TVM's own rules.
LEVEL = 20


def _call(name: str, *args: Any) -> Any:
    return tirx.call_pure_extern(args[0].ty.dtype, name, *args)


def _sigmoid(x: Any) -> Any:
    one = tirx.const(1, x.ty.dtype)
    return _call("__fdividef", one, one + _call("__expf", tirx.const(0, x.ty.dtype) - x))


def _erf(x: Any) -> Any:
    def real(value: float) -> Any:
        return tirx.const(value, x.ty.dtype)

    t = tirx.Var("t", x.ty.dtype)
    total = real(0)
    for factor in reversed(A):
        total = (total + real(factor)) * t
    rest = real(1) - total * _call("__expf", real(0) - x * x)
    quotient = _call("__fdividef", real(1), real(1) + real(P) * _call("fabsf", x))
    return _call("copysignf", tirx.Let(t, quotient, rest), x)


def _rule(lower: Lower, others: Lower) -> Lower:
    """The rule for numbers and vectors of fp32; other dtypes have TVM's."""

    def rule(call: Any) -> Any:
        if not str(call.ty.dtype).startswith(FP32.name):
            return others(call)
        x = tirx.Var("x", call.ty.dtype)
        return tirx.Let(x, call.args[0], lower(x))

    return rule


def _register() -> None:
    for name, lower, others in (
        ("tirx.sigmoid", _sigmoid, "default.FLegalize"),
        ("tirx.erf", _erf, "cuda.FLowerIntrinsic"),
    ):
        rule = _rule(lower, ir.Op.get(name).get_attr(others))
        tirx.register_intrin_lowering(name, target="cuda", f=rule, level=LEVEL)


_register()
