"""A kernel as TVM lowers it for a GPU: its CUDA text and its launch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx.build import split_host_device_mods

from schedules.errors import EmulatorError
from schedules.lowering import KERNELS, LOWERING
from schedules.machine.hardware import Hardware
from schedules.threads.emulator.tensor_maps import IM2COL, TILED

#: Name of the function that TVM calls to compile CUDA text, which is not needed here.
MACHINE_CODE = "tvm_callback_cuda_compile"


@dataclass(frozen=True)
class TensorMapCall:
    """A call that encodes a tensor map of an array. ``array``: name of the function's parameter."""

    encoder: str
    array: str
    numbers: list[int]


@dataclass(frozen=True)
class Lowered:
    """CUDA text of one kernel and its launch.

    parameters: of the kernel, in order: names of the function's parameters or of tensor maps.
    blocks, threads: of the grid and of a block, along x, y and z. cluster: blocks of a cluster.
    resident: blocks that a multiprocessor holds at a time. shared_bytes: dynamic shared memory.
    """

    text: str
    parameters: list[str]
    tensor_maps: dict[str, TensorMapCall]
    blocks: tuple[int, int, int]
    threads: tuple[int, int, int]
    cluster: int
    resident: int
    shared_bytes: int


def lower(function: tirx.PrimFunc, hardware: Hardware) -> Lowered:
    """Lowers a scheduled function with one kernel. Raises `EmulatorError` for more than one."""
    target = tvm.target.Target({"kind": "cuda", "arch": hardware.name}, host={"kind": "llvm"})
    with target, tvm.transform.PassContext(config=LOWERING):
        bound = tirx.transform.BindTarget(target)(tvm.IRModule.from_expr(function))
        pipeline, _, finish = tirx.get_tir_pipeline(KERNELS)
        host, devices = split_host_device_mods(pipeline(bound))
        if len(devices) != 1:
            raise EmulatorError("the function is not one kernel")
        ((device_target, device),) = devices.items()
        with _no_machine_code():
            build = tvm.get_global_func("target.build.cuda")
            text = build(finish()(device), device_target).inspect_source()
    if len(device.functions) != 1:
        raise EmulatorError(f"the function is {len(device.functions)} kernels, not one")
    (kernel,) = device.functions.values()
    return _read(host, kernel, text)


@contextmanager
def _no_machine_code() -> Iterator[None]:
    """Keeps TVM from running a CUDA compiler, as it does if a driver is loaded."""
    compiler = tvm.get_global_func(MACHINE_CODE, allow_missing=True)
    tvm_ffi.register_global_func(MACHINE_CODE, lambda *_: b"", override=True)
    try:
        yield
    finally:
        if compiler is None:
            tvm_ffi.remove_global_func(MACHINE_CODE)
        else:
            tvm_ffi.register_global_func(MACHINE_CODE, compiler, override=True)


def _read(host: tvm.IRModule, kernel: tirx.PrimFunc, text: str) -> Lowered:
    """Reads the launch and the tensor maps from the calls in the host's function."""
    calls: dict[str, list[tvm.ir.Call]] = {}

    def visit(call: tvm.ir.Call) -> None:
        if call.args and isinstance(call.args[0], tvm.ir.StringImm):
            calls.setdefault(call.args[0].value, []).append(call)

    (function,) = host.functions.values()
    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, visit))
    (launch,) = calls[kernel.attrs["global_symbol"]]
    axes = list(launch.attrs.launch_params)
    parameters = [_name(one) for one in launch.args[1 : -len(axes)]]
    sizes = dict(zip(axes, map(int, launch.args[-len(axes) :]), strict=True))
    return Lowered(
        text,
        parameters,
        dict(_tensor_map(call) for name in (IM2COL, TILED) for call in calls.get(name, ())),
        blocks=_along(sizes, "blockIdx"),
        threads=_along(sizes, "threadIdx"),
        cluster=sizes.get("clusterCtaIdx.x", 1),
        resident=int(kernel.attrs.get("tirx.launch_bounds_min_blocks_per_sm", 1)),
        shared_bytes=sizes.get("tirx.use_dyn_shared_memory", 0),
    )


def _along(sizes: dict[str, int], index: str) -> tuple[int, int, int]:
    return sizes.get(f"{index}.x", 1), sizes.get(f"{index}.y", 1), sizes.get(f"{index}.z", 1)


def _name(argument: tvm.ir.Expr) -> str:
    """Returns the name of the parameter, or tensor map, that an argument points to."""
    return str((argument.args[0] if isinstance(argument, tvm.ir.Call) else argument).name)


def _tensor_map(call: tvm.ir.Call) -> tuple[str, TensorMapCall]:
    """Returns the map's name and its call, (encoder, map, [dtype, rank,] array, numbers...)."""
    encoder, target, *others = call.args
    at = 2 if encoder.value == TILED else 0
    numbers = [int(number) for number in others[at + 1 :]]
    return target.name, TensorMapCall(encoder.value, _name(others[at]), numbers)
