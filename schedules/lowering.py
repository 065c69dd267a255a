"""Lowers kernels, both scheduled ones and those in TVM script.

TVM has a pipeline for each kind: one turns loops of schedules into threads, the other keeps PTX
operations as they are. TVM looks pipelines up by name, so this file registers `KERNELS`, which
sends each function through its own.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import compilation_pipeline

#: The pipeline's name.
KERNELS = "tvmconv.kernels"

#: Options of TVM's lowering that our schedules rely on.
#: use_async_copy: copies marked asynchronous become cp.async.
#: disable_storage_rewrite: it would join fp16 and fp32 buffers, which the pipelined loop rejects.
LOWERING = {"tirx.use_async_copy": True, "tirx.disable_storage_rewrite": True}


def lower_kernels(scheduled: tvm.transform.Pass, written: tvm.transform.Pass) -> tvm.transform.Pass:
    """Returns the pass that lowers each function by its kind.

    scheduled: for functions marked ``s_tir``, as schedules mark theirs. written: for those in TVM
    script.
    """

    @tvm.transform.module_pass(opt_level=0, name="lower_kernels")
    def run(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        lowered = tvm.IRModule({}, attrs=mod.attrs)
        for lower, wanted in ((scheduled, True), (written, False)):
            part = {var: f for var, f in mod.functions.items() if _is_scheduled(f) is wanted}
            if part:
                lowered.update(lower(tvm.IRModule(part, attrs=mod.attrs)))
        return lowered

    return run


def _is_scheduled(function: tirx.PrimFunc) -> bool:
    return bool(function.attrs.get("s_tir", False))


def _pipeline() -> Any:
    scheduled, host, device = compilation_pipeline.get_tir_pipeline("s_tir")
    written, _, _ = compilation_pipeline.get_tir_pipeline("tirx")
    return lower_kernels(scheduled, written), host, device


compilation_pipeline.register_tir_pipeline(KERNELS, _pipeline)
