"""Let every kernel be launched while the one before it ends: programmatic dependent launch.

Before:  kernel: body
After:   kernel: griddepcontrol.wait; body
         and it is launched with CUDA's attribute programmaticStreamSerialization
Requires: a GPU of compute capability 9.0 or later; device functions, split from the host's
Formula: the identity. With the attribute a kernel starts once all blocks of the one before it are
         gone, though what they wrote may still be on its way. Its first instruction waits until
         that one is done and its writes can be seen. That one waited for the one before it in the
         same way: so whatever a kernel reads, or overwrites in memory that is used again, all
         earlier kernels are done with. Only the launch itself is overlapped.

No kernel says launch_dependents, which would let the next one's blocks in before its own are gone:
they go to whichever processors have room, where many then compute side by side while others have
none. One image took an H200, in us, with no overlap, with this, and with launch_dependents right
before the wait, right after it, and before the last statement: ResNet-18 156, 149, 236, 166, 166;
MobileNetV2 144, 131, 192, 174, 176. At batch 32 this is 1 % of a MobileNetV2, at 128 nothing.

TVM builds with a pipeline by its name, so this is one: TVM's own with the above at its end.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import compilation_pipeline

from schedules.lowering import KERNELS

#: The pipeline's name.
OVERLAPPED = "tvmconv.overlap_launches"
#: TVM's names of the launch attribute, and of the list on a function that it is put in.
_ATTRIBUTE, _LAUNCH = "tirx.use_programtic_dependent_launch", "tirx.kernel_launch_params"
#: TVM's CallingConv::kDeviceKernelLaunch.
_KERNEL = 2
#: Of the GPU, for the instructions.
MIN_CAPABILITY = 90


def overlap_launches() -> tvm.transform.Pass:
    @tvm.transform.module_pass(opt_level=0, name="overlap_launches")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        mod = mod.clone()
        for name, func in mod.functions_items():
            if func.attrs and func.attrs.get("calling_conv", 0) == _KERNEL:
                mod.update_func(name, _waiting(func))
        return mod

    return run


def _waiting(kernel: tirx.PrimFunc) -> tirx.PrimFunc:
    wait = tirx.Evaluate(T.ptx.griddepcontrol.wait())
    return kernel.with_body(tirx.SeqStmt([wait, kernel.body]))


def _marked() -> tvm.transform.Pass:
    """Puts the attribute on every function, whose kernels take it over when they are split off."""

    @tvm.transform.module_pass(opt_level=0, name="overlap_launches_mark")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        mod = mod.clone()
        for name, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                mod.update_func(name, func.with_attr(_LAUNCH, [_ATTRIBUTE]))
        return mod

    return run


def _pipeline() -> Any:
    lowering, host, device = compilation_pipeline.get_tir_pipeline(KERNELS)
    steps = [_marked(), lowering, overlap_launches()]
    return tvm.transform.Sequential(steps), host, device


compilation_pipeline.register_tir_pipeline(OVERLAPPED, _pipeline)
