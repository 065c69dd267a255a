"""Lowers kernels, both scheduled ones and those in TVM script.

TVM has a pipeline for each kind: one turns loops of schedules into threads, the other keeps PTX
operations as they are. TVM looks pipelines up by name, so this file registers `KERNELS`, which
sends each function through its own.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.tirx import compilation_pipeline

# Registers how CUDA computes two functions.
import schedules.fast_math  # noqa: F401
from schedules.byte_copies import copy_bytes_as_words
from schedules.keep_nan import keep_nan

#: The pipeline's name.
KERNELS = "tvmconv.kernels"

#: Options of TVM's lowering that our schedules rely on.
#: disable_storage_rewrite: it would join fp16 and fp32 buffers, which the pipelined loop rejects.
LOWERING = {"tirx.disable_storage_rewrite": True}


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


def _scheduled() -> tvm.transform.Pass:
    """Returns TVM's pipeline for schedules with `copy_bytes_as_words` and `keep_nan` in it.

    Without the passes of options that we never set.
    """
    return tvm.transform.Sequential(
        [
            s_tir.transform.CanonicalizeLoop(),
            s_tir.transform.LowerCrossThreadReduction(),
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.LiftThreadBinding(),
            s_tir.transform.ManifestSharedMemoryLocalStage(),
            s_tir.transform.CompactBufferAllocation(),
            s_tir.transform.LowerAutoCopy(),
            s_tir.transform.UnifyThreadBinding(),
            s_tir.transform.LowerMatchBuffer(),
            s_tir.transform.StmtSimplify(),
            s_tir.transform.InjectPermutedLayout(),
            s_tir.transform.AnnotateIrregularLoop(),
            s_tir.transform.InjectSoftwarePipeline(),
            s_tir.transform.TransformMmaBufferLayout(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.BF16ComputeLegalize(),
            tirx.transform.NarrowDataType(32),
            s_tir.transform.LoopPartition(),
            tirx.transform.VectorizeLoop(),
            s_tir.transform.InjectVirtualThread(),
            s_tir.transform.InjectDoubleBuffer(),
            s_tir.transform.LowerAsyncDMA(),
            s_tir.transform.HoistIfThenElse(),
            tirx.transform.UnrollLoop(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            s_tir.transform.RewriteUnsafeSelect(),
            tirx.transform.CommonSubexprElim(),
            tirx.transform.FP8ComputeLegalize(),
            s_tir.transform.VerifyVTCMLimit(),
            s_tir.transform.LowerVtcmAlloc(),
            tirx.transform.VerifyMemory(),
            tirx.transform.AnnotateEntryFunc(),
            s_tir.transform.ThreadSync("shared"),
            s_tir.transform.ThreadSync("shared.dyn"),
            s_tir.transform.ThreadSync("warp"),
            s_tir.transform.InferFragment(),
            s_tir.transform.LowerThreadAllreduce(),
            copy_bytes_as_words(),
            s_tir.transform.InjectPTXAsyncCopy(),
            s_tir.transform.MergeSharedMemoryAllocations(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
            tirx.transform.FP8StorageLegalize(),
            tirx.transform.BF16StorageLegalize(),
            keep_nan(),
        ]
    )


def _pipeline() -> Any:
    _, host, device = compilation_pipeline.get_tir_pipeline("s_tir")
    written, _, _ = compilation_pipeline.get_tir_pipeline("tirx")
    return lower_kernels(_scheduled(), written), host, device


compilation_pipeline.register_tir_pipeline(KERNELS, _pipeline)
