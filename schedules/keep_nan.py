"""The pass that makes max and min of floats keep NaN, as ONNX and NumPy define them.

Before:   max(a, b)                     TVM's: b where a is NaN on a CPU, the other one on a GPU
After:    CPU: select(b == b, select(b > a, b, a), b); with a number, select(a < 0, 0, a)
          GPU: a function of that name in CUDA, which is one instruction from sm_80 on
Requires: code that is lowered; nothing simplifies after it, which would take x == x for true
Formula:  max(a, b) is NaN where a or b is, else the larger; min likewise

LLVM's own maximum, which is the same function, takes four times as long on x86.

It is the last step, so that schedules, reductions among threads and simplification see max and min.
On a GPU only CUDA's text is there for each element of a vector: so the function is put before the
kernel, with a macro that calls it. Of integers it does what CUDA's own do.

PTX: max.NaN and min.NaN, of f16 and f32; https://docs.nvidia.com/cuda/parallel-thread-execution/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.backend.cuda.op import cuda_func_call

#: TVM's CallingConv::kDeviceKernelLaunch.
_KERNEL = 2
#: The function in CUDA that does nothing; its text brings the others.
NAME = "tvmconv_keep_nan"

#: Of integers, as their types may differ, of doubles, and of what PTX has an instruction for. TVM
#: writes an infinity of bfloat16 as ``inff``, which is defined nowhere.
SOURCE = """
template <class A, class B> __device__ __forceinline__ auto tvmconv_max(A a, B b)
{ return a > b ? a : b; }
template <class A, class B> __device__ __forceinline__ auto tvmconv_min(A a, B b)
{ return a < b ? a : b; }
__device__ __forceinline__ double tvmconv_max(double a, double b)
{ return a > b || isnan(a) ? a : b; }
__device__ __forceinline__ double tvmconv_min(double a, double b)
{ return a < b || isnan(a) ? a : b; }
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ float tvmconv_max(float a, float b)
{ float y; asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b)); return y; }
__device__ __forceinline__ float tvmconv_min(float a, float b)
{ float y; asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b)); return y; }
#else
__device__ __forceinline__ float tvmconv_max(float a, float b)
{ return a > b || isnan(a) ? a : b; }
__device__ __forceinline__ float tvmconv_min(float a, float b)
{ return a < b || isnan(a) ? a : b; }
#endif
#ifdef __CUDA_FP16_TYPES_EXIST__
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ half tvmconv_max(half a, half b) { return __hmax_nan(a, b); }
__device__ __forceinline__ half tvmconv_min(half a, half b) { return __hmin_nan(a, b); }
#else
__device__ __forceinline__ half tvmconv_max(half a, half b)
{ return __hgt(a, b) || __hisnan(a) ? a : b; }
__device__ __forceinline__ half tvmconv_min(half a, half b)
{ return __hlt(a, b) || __hisnan(a) ? a : b; }
#endif
#endif
#if defined(__CUDA_BF16_TYPES_EXIST__) && __CUDA_ARCH__ >= 800
__device__ __forceinline__ nv_bfloat16 tvmconv_max(nv_bfloat16 a, nv_bfloat16 b)
{ return __hmax_nan(a, b); }
__device__ __forceinline__ nv_bfloat16 tvmconv_min(nv_bfloat16 a, nv_bfloat16 b)
{ return __hmin_nan(a, b); }
#endif
#define inff __int_as_float(0x7f800000)
#undef max
#undef min
#define max tvmconv_max
#define min tvmconv_min
__device__ __forceinline__ void tvmconv_keep_nan() {}
"""


def keep_nan() -> tvm.transform.Pass:
    """Returns the pass."""
    return tirx.transform.prim_func_pass(_rewritten, opt_level=0, name="keep_nan")


def _rewritten(function: tirx.PrimFunc, *_: Any) -> tirx.PrimFunc:
    found = {_element(one) for one in _extremes(function.body)}
    if not any(is_float(dtype) for dtype in found):
        return function
    if int(function.attrs.get("calling_conv", 0)) == _KERNEL:
        prelude = tirx.Evaluate(cuda_func_call(NAME, source_code=SOURCE))
        return function.with_body(tirx.SeqStmt([prelude, function.body]))
    rules = [(tirx.Max, _compared), (tirx.Min, _compared)]
    return function.with_body(tvm_ffi.structural_map(function.body, rules, order="post"))


def _extremes(body: Any) -> Iterator[Any]:
    found: list[Any] = []
    for kind in (tirx.Max, tirx.Min):
        tvm_ffi.structural_walk(body, (kind, found.append), order="post")
    yield from found


def _element(node: Any) -> str:
    """The dtype of an expression, or of the elements of a vector."""
    return str(node.ty.dtype).partition("x")[0]


def is_float(dtype: str) -> bool:
    """True for a dtype of floating point, bfloat16 among them."""
    return dtype.startswith(("float", "bfloat"))


def _compared(node: Any) -> Any:
    """The larger or smaller of two floats by comparisons; other nodes as they are."""
    if not is_float(_element(node)):
        return node
    larger = isinstance(node, tirx.Max)
    a, b = (node.b, node.a) if _is_number(node.a) else (node.a, node.b)
    if _is_number(b):  # of which there is no NaN
        return _let(a, lambda x: tirx.Select(tirx.LT(x, b) if larger else tirx.GT(x, b), b, x))

    def chosen(x: Any, y: Any) -> Any:
        # One instruction of x86, which gives y where either is NaN. x == x is false of NaN.
        kept = tirx.Select(tirx.GT(x, y) if larger else tirx.LT(x, y), x, y)
        return tirx.Select(tirx.EQ(x, x), kept, x)

    # What a reduction has so far comes first: of the other one it is known early whether it is NaN.
    return _let(b, lambda x: _let(a, lambda y: chosen(x, y)))


def _is_number(node: Any) -> bool:
    value = node.value if isinstance(node, tirx.Broadcast) else node
    return isinstance(value, tirx.FloatImm) and not math.isnan(float(value.value))


def _let(value: Any, body: Callable[[Any], Any]) -> Any:
    """The body with a value that is computed once; what is loaded may as well be loaded twice."""
    if isinstance(value, ir.TensorLoad | tirx.Var):
        return body(value)
    name = tirx.Var("x", value.ty)
    return tirx.Let(name, value, body(name))
