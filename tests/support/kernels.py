"""One convolution kernel, compiled and run, and what onnxruntime says it should have given.

Activations here are NHWC arrays of exact size; layouts, packing and padding are this file's to
put on and take off. Whatever a kernel has no business to read or write is poisoned: memory
around every operand is NaN, and so is the output before the kernel runs.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import tvm
from onnx import TensorProto, helper
from tvm.target.codegen import llvm_get_system_cpu

import tvmconv.runtime.tensor_map  # noqa: F401 - kernels of the wgmma family call what it registers
from intrinsics import dtypes
from schedules.conv.activations import FORMULAS
from schedules.conv.max_pool import MaxPool
from schedules.conv.precision import RESIDUAL_SCALE, RESULT_SCALE, RESULT_ZERO, SCALE
from schedules.conv.workload import ConvWorkload
from schedules.family import Family
from schedules.lowering import KERNELS, LOWERING
from schedules.machine.hardware import Hardware
from schedules.tensors import Tensors, from_layout, inputs
from schedules.threads import emulator
from schedules.threads.emulator.guarded import Array, Guarded
from tvmconv.compiler import toolchain
from tvmconv.runtime.gpu import detect_arch

#: Runs a scheduled function with arrays, the last of which is its output; gives that.
Execute = Callable[[Any, list[Array], Hardware], Array]

#: Activations that are one operator of ONNX.
ONNX_NAMES = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "sigmoid": "Sigmoid",
    "hard_sigmoid": "HardSigmoid",
    "hard_swish": "HardSwish",
    "tanh": "Tanh",
    "gelu": "Gelu",
}

#: What fills the padding of packed inputs. Any finite number must do: it meets zero weights or
#: outputs nobody reads.
PADDING = 3.0
#: What fills an output of integers before the kernel runs.
UNLIKELY = 101


def reference(w: ConvWorkload, operands: Tensors) -> Array:
    """(N, P, Q, K), or pooled, in fp32, as onnxruntime computes it from the same operands; what is
    between a prologue and it rounded as they are.

    Sums of integers are exact in fp32 too, as their terms add up to less than 2**24.
    """
    if w.prologue is not None:
        assert operands.first is not None
        first, then = w.apart
        between = reference(first, operands.first).astype(operands.x.dtype)
        return reference(then, replace(operands, x=between, first=None))
    x = operands.x
    if operands.gate is not None:
        x = (x.astype(np.float32) * operands.gate.astype(np.float32)).astype(x.dtype)
    feeds = {"x": _cropped(w, x).transpose(0, 3, 1, 2), "w": operands.weight}
    scales = {name: array[:, None, None] for name, array in operands.scales.items()}
    if operands.bias is not None and SCALE not in scales:
        feeds["b"] = operands.bias
    conv = helper.make_node(
        "Conv",
        list(feeds),
        ["conv"],
        strides=w.stride,
        pads=[max(pad, 0) for pad in w.padding],
        dilations=w.dilation,
        group=w.groups,
    )
    nodes = [conv]

    def then(op: str, *others: str, **attributes: Any) -> None:
        inputs = [nodes[-1].output[0], *others]
        nodes.append(helper.make_node(op, inputs, [f"y{len(nodes)}"], **attributes))

    def then_with(op: str, name: str, array: Array | None) -> None:
        if array is not None:
            feeds[name] = array
            then(op, name)

    def add_residual() -> None:
        residual = _own_pixels(w, operands.residual).transpose(0, 3, 1, 2).astype(np.float32)
        then_with("Add", "r", residual * scales.get(RESIDUAL_SCALE, np.float32(1)))

    if SCALE in scales:
        then_with("Mul", SCALE, scales[SCALE])
        then_with("Add", "b", None if operands.bias is None else operands.bias[:, None, None])

    if operands.residual is not None and not w.epilogue.residual_last:
        add_residual()
    activation = w.epilogue.activation
    named = zip(FORMULAS[activation.kind].parameters, activation.parameters, strict=True)
    parameters = {name: float(value) for name, value in named}
    if activation.kind == "clip":
        feeds |= {name: np.array(value) for name, value in parameters.items()}
        then("Clip", *parameters)
    elif activation.kind == "prelu":
        feeds["slope"] = operands.slope[:, None, None]
        then("PRelu", "slope")
    elif activation.kind == "silu":
        x = nodes[-1].output[0]
        then("Sigmoid")
        then("Mul", x)
    elif activation.kind != "none":
        then(ONNX_NAMES[activation.kind], **parameters)
    if activation.affine:
        then_with("Mul", "activation_scale", np.array(activation.scale))
        then_with("Add", "activation_shift", np.array(activation.shift))
    if operands.residual is not None and w.epilogue.residual_last:
        add_residual()
    then_with("Mul", RESULT_SCALE, scales.get(RESULT_SCALE))
    if dtypes.get(w.precision.result).integer and w.precision.result != w.precision.accumulator:
        limits = np.iinfo(w.precision.result)
        then("Round")
        then_with("Add", RESULT_ZERO, scales.get(RESULT_ZERO))
        feeds |= {"least": np.array(limits.min), "most": np.array(limits.max)}
        then("Clip", "least", "most")
    if w.epilogue.pool is not None:
        then("MaxPool", **pool_attributes(w.epilogue.pool, w.p, w.q))
    wide = {name: np.ascontiguousarray(array, np.float32) for name, array in feeds.items()}
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in wide.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, wide)
    return np.asarray(y).transpose(0, 2, 3, 1)


def pool_attributes(pool: MaxPool, rows: int, columns: int) -> dict[str, Any]:
    """Of ONNX's MaxPool, which gives that pool's size for an image of that size."""
    ends = [
        max((size - 1) * step + taps - pad - image, 0)
        for size, step, taps, pad, image in zip(
            pool.size, pool.stride, pool.kernel, pool.padding, (rows, columns), strict=True
        )
    ]
    return {
        "kernel_shape": pool.kernel,
        "strides": pool.stride,
        "pads": [*pool.padding, *ends],
    }


def _cropped(w: ConvWorkload, x: Array) -> Array:
    """x without the rows and columns that negative padding leaves out."""
    top, left, bottom, right = (max(-pad, 0) for pad in w.padding)
    return x[:, top : w.h - bottom, left : w.w - right]


def _own_pixels(w: ConvWorkload, residual: Array | None) -> Array:
    """Of a residual of a whole window's size, the pixels that this convolution computes."""
    assert residual is not None
    if w.window is None:
        return residual
    p, q = np.indices((w.p, w.q), sparse=True)
    rows, columns = w.window.pixel(p, q)
    return residual[:, rows, columns]


def run(
    family: Family,
    w: ConvWorkload,
    config: Any,
    hardware: Hardware,
    operands: Tensors,
    execute: Execute | None = None,
) -> Array:
    """(N, P, Q, K) as the family computes it with `config`, on this CPU or GPU.

    execute: runs a scheduled function with arrays, the last of which is its output, and gives
    that; compiles it for `hardware` and calls it if nothing is said.

    Asserts that operands are as the signature has them, which a compiled function refuses and the
    emulator takes, and that no element of the output, padding included, is left or made NaN or
    infinite.
    """
    arrays = inputs(family, w, config, operands, PADDING)
    result = dtypes.get(w.precision.result)
    poison = UNLIKELY if result.integer else np.nan
    arrays.append(np.full(w.buffer_shape, poison, result.numpy))
    for operand, array in zip(family.signature(w, config), arrays, strict=True):
        wanted = (dtypes.get(operand.dtype).stored, operand.shape)
        assert (str(array.dtype), array.shape) == wanted, f"{operand.name} is not {wanted}"
    y = (execute or build_and_call)(family.schedule(w, config, hardware), arrays, hardware)
    if w.window is not None:
        index = window_index(w)
        inside = y[index]
        y[index] = poison
        left = (y == poison) | np.isnan(y)
        assert left.all(), "something was written outside of the window"
        y = inside
    assert np.isfinite(y).all(), f"{np.count_nonzero(~np.isfinite(y))} of {y.size} not finite"
    return from_layout(y, w.out_layout, (w.n, *w.out_pixels, w.k))


def broken(pattern: str, replacement: str) -> Execute:
    """The emulator, with a pattern replaced in the text of the kernel, once or more often."""

    def change(text: str) -> str:
        at = text.rindex('extern "C" __global__')
        body, count = re.subn(pattern, replacement, text[at:])
        assert count, f"no {pattern} in {body}"
        return text[:at] + body

    return functools.partial(emulator.run, change=change)


def window_index(w: ConvWorkload) -> tuple[Array, ...]:
    """Where in the larger tensor each element (n, p, q, k) of the output lies."""
    assert w.window is not None
    n, p, q, k = np.indices(w.out_shape, sparse=True)
    return (n, *w.window.pixel(p, q), w.window.position(k))


def this_gpu() -> Hardware:
    """The GPU of this machine, in a test that is marked `gpu`."""
    arch = detect_arch()
    assert arch is not None
    return toolchain.cuda_arch(arch)


def compiled(module: Any, hardware: Hardware) -> Any:
    """The function or module, compiled for `hardware`."""
    if hardware.kind == "llvm":
        target = tvm.target.Target({"kind": "llvm", "mcpu": llvm_get_system_cpu()})
    else:
        toolchain.prepare_cuda(hardware.name)
        target = tvm.target.Target({"kind": "cuda", "arch": hardware.name}, host={"kind": "llvm"})
    with target, tvm.transform.PassContext(config=LOWERING):
        return tvm.compile(module, target=target, tir_pipeline=KERNELS)


def build_and_call(function: Any, arrays: list[Array], hardware: Hardware) -> Array:
    return call(compiled(function, hardware)["main"], arrays, hardware)


def call(function: Any, arrays: list[Array], hardware: Hardware) -> Array:
    """Calls a compiled function with arrays, the last of which is its output; gives that."""
    if hardware.kind == "cuda":
        tensors = [tvm.runtime.tensor(array, device=tvm.cuda(0)) for array in arrays]
        function(*tensors)
        return np.asarray(tensors[-1].numpy())
    guarded = [Guarded.of(array) for array in arrays]
    function(*[tvm.runtime.from_dlpack(Exported(operand.inner)) for operand in guarded])
    assert all(operand.intact() for operand in guarded), "something was written out of bounds"
    return guarded[-1].inner


class Exported:
    """An array for DLPack, to share its memory and strides with TVM.

    NumPy exports no dtype of ml_dtypes: bfloat16 goes out as integers whose dtype is then changed.
    """

    #: ``DLDataType.code`` of bfloat16, and where it lies in a ``DLManagedTensor``.
    BFLOAT, CODE_AT = 4, 20

    def __init__(self, array: Array) -> None:
        self.bfloat16 = array.dtype == dtypes.BF16.numpy
        self.array = array.view(np.uint16) if self.bfloat16 else array

    def __dlpack__(self, **how: Any) -> Any:
        capsule = self.array.__dlpack__()
        if self.bfloat16:
            pointer = ctypes.pythonapi.PyCapsule_GetPointer
            pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
            at = pointer(capsule, b"dltensor") + self.CODE_AT
            ctypes.c_uint8.from_address(at).value = self.BFLOAT
        return capsule

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def check(
    family: Family,
    w: ConvWorkload,
    config: Any,
    hardware: Hardware,
    seed: int = 0,
    execute: Execute | None = None,
) -> None:
    """The family's kernel gives what onnxruntime gives, but for the rounding of its outputs."""
    operands = Tensors.random(w, seed)
    got = run(family, w, config, hardware, operands, execute)
    # fp16 outputs are rounded by 2**-11 of themselves at most: see test_families.bound.
    error = relative_l2(got, reference(w, operands), 1.0)
    assert error < 1e-3, f"{config}: {w} is {error:.2e} off"
    assert family.padded_macs(w, config) >= w.useful_macs


def relative_l2(got: Array, expected: Array, least: float = 0.0) -> float:
    """Norm of the difference over that of what was expected, or of `least` in every element."""
    assert got.shape == expected.shape
    wide = expected.astype(np.float64)
    norm = max(float(np.linalg.norm(wide)), least * np.sqrt(wide.size), 1e-30)
    return float(np.linalg.norm(got - wide)) / norm
