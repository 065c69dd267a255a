"""Runs a GPU kernel on this CPU, thread by thread, and finds its mistakes.

It runs the kernel's own CUDA text, as TVM generates it. `lowered` has TVM lower the function.
`translate` turns each PTX instruction into a call, and g++ compiles the rest as C++ (`build`).
`runtime.cpp` plays the GPU: threads are fibers that take turns; warps, blocks and clusters wait for
each other; shared memory, mbarriers, cp.async, the copy engine, mma.sync and wgmma behave as the
PTX ISA says.

Asynchronous work is done as late as possible, and data that has not arrived is NaN. Warps run as
far ahead of each other as barriers allow. So mistakes in waiting, which a GPU shows only now and
then, show here every time:

    a missing wait, or a barrier                 NaN or wrong numbers in the result
    a stage released or overwritten too early    NaN or wrong numbers in the result
    a missing fence                              KernelFault
    more or fewer bytes than a barrier expects   KernelFault, or a deadlock
    registers that the block does not have       a deadlock
    a barrier that not all threads reach         a deadlock
    a write beside an array or shared memory     KernelFault
    lanes of a warp at different instructions    KernelFault

It does not find bank conflicts, or races between warps that are harmless in the order in which they
happen to run here. It does not predict time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tvm import tirx

from schedules.errors import KernelFault
from schedules.machine.hardware import Hardware
from schedules.threads.emulator import build, tensor_maps
from schedules.threads.emulator.build import available
from schedules.threads.emulator.guarded import Array, Guarded
from schedules.threads.emulator.lowered import lower
from schedules.threads.emulator.translate import translated

__all__ = ["available", "run"]


def run(
    function: tirx.PrimFunc,
    arrays: list[Array],
    hardware: Hardware,
    change: Callable[[str], str] = lambda text: text,
) -> Array:
    """Runs a scheduled function as `hardware` would and returns its output.

    hardware: a GPU of sm_80 or later. arrays: the function's arguments in order, the output last;
    they are copied. change: maps the CUDA text to the text to run, so that a test can break the
    kernel.

    Raises `KernelFault` for a mistake in the kernel. Raises `EmulatorError` for an instruction that
    is not emulated, text that does not compile, or a missing C++ compiler.
    """
    kernel = lower(function, hardware)
    kernel = replace(kernel, text=change(kernel.text))
    guarded = [Guarded.of(array) for array in arrays]
    names = [parameter.name for parameter in function.params]
    inner = {name: one.inner for name, one in zip(names, guarded, strict=True)}
    maps = {
        name: tensor_maps.encode(call.encoder, inner[call.array], call.numbers)
        for name, call in kernel.tensor_maps.items()
    }
    addresses = {name: array.ctypes.data for name, array in inner.items()}
    addresses |= {name: ctypes.addressof(tensor_map) for name, tensor_map in maps.items()}
    launch = build.Launch(
        kernel.blocks, kernel.threads, kernel.cluster, kernel.resident, kernel.shared_bytes
    )
    fault = build.run(translated(kernel), launch, [addresses[name] for name in kernel.parameters])
    if fault is not None:
        raise KernelFault(fault)
    if not all(one.intact() for one in guarded):
        raise KernelFault("something was written out of bounds")
    for one, array in zip(guarded[:-1], arrays[:-1], strict=True):
        if not np.array_equal(one.inner.view(np.uint8), np.ascontiguousarray(array).view(np.uint8)):
            raise KernelFault("an input was written to")
    return guarded[-1].inner
