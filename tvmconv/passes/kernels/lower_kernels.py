"""Lower kernels, both scheduled ones and ones written in TVM script.

Before:  functions that schedules made, and functions written out in TVM script
After:   host functions, and device functions that machine code can be made of
Requires: the target bound to every function; schedules mark theirs with ``s_tir``
Formula: the identity. TVM has a pipeline for each kind: one turns loops of schedules into threads,
         the other keeps PTX operations as they are.

TVM finds the pipeline by its name.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm.tirx import compilation_pipeline

#: The pipeline's name.
KERNELS = "tvmconv.lower_kernels"


def lower_kernels(scheduled: tvm.transform.Pass, written: tvm.transform.Pass) -> Any:
    """Lowers scheduled functions by the first pipeline, functions in TVM script by the second."""

    @tvm.transform.module_pass(opt_level=0, name="lower_kernels")
    def run(mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        lowered = tvm.IRModule({}, attrs=mod.attrs)
        for lower, wanted in ((scheduled, True), (written, False)):
            part = {var: f for var, f in mod.functions.items() if _is_scheduled(f) is wanted}
            if part:
                lowered.update(lower(tvm.IRModule(part, attrs=mod.attrs)))
        return lowered

    return run


def _is_scheduled(function: Any) -> bool:
    return bool(function.attrs.get("s_tir", False))


def _pipeline() -> Any:
    scheduled, host, device = compilation_pipeline.get_tir_pipeline("s_tir")
    written, _, _ = compilation_pipeline.get_tir_pipeline("tirx")
    return lower_kernels(scheduled, written), host, device


compilation_pipeline.register_tir_pipeline(KERNELS, _pipeline)
