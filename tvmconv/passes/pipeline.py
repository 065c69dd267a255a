"""All passes in order, from the imported graph to one that the virtual machine runs.

GRAPH_PASSES         bring every convolution to NHWC, its constants folded
TIDY_PASSES          merge equal bindings, cancel transposes
                     (then `compiler` finds, plans and lowers convolutions and lifts the weights)
plan_memory_passes   legalise, fuse and schedule the rest, plan memory
machine_passes       capture the CUDA graph, lower to the virtual machine
kernel_pipeline      lower the kernels
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from tvm.relax import transform

from schedules.lowering import KERNELS
from tvmconv import knobs
from tvmconv.passes.kernels.bindable import bindable
from tvmconv.passes.kernels.copy_casts import copy_casts
from tvmconv.passes.kernels.default_schedules import default_schedules
from tvmconv.passes.kernels.fuse_casts import fuse_casts
from tvmconv.passes.kernels.overlap_launches import MIN_CAPABILITY, OVERLAPPED
from tvmconv.passes.legalize.legalize import legalize
from tvmconv.passes.memory.plan_memory import plan_memory
from tvmconv.passes.simplify.cancel_transposes import cancel_transposes
from tvmconv.passes.simplify.fold_layouts import fold_layouts
from tvmconv.passes.simplify.group_norms import group_norms
from tvmconv.passes.simplify.merge_equal import merge_equal
from tvmconv.passes.simplify.norm_rows import norm_rows
from tvmconv.passes.simplify.reshape_views import reshape_views
from tvmconv.passes.simplify.scale_and_shift import scale_and_shift
from tvmconv.passes.simplify.tuple_output import tuple_output


def tvm_target(kind: str, arch: str) -> tvm.target.Target:
    """TVM's target of kind ``cuda`` with an architecture, or ``llvm`` with LLVM's name of a CPU."""
    if kind == "cuda":
        return tvm.target.Target({"kind": "cuda", "arch": arch}, host="llvm")
    return tvm.target.Target({"kind": "llvm", "mcpu": arch})


GRAPH_PASSES: tuple[tvm.transform.Pass, ...] = (
    # The importer binds constants to variables; the passes below look for constants.
    transform.CanonicalizeBindings(),
    # The importer reshapes biases; `scale_and_shift` looks for bare constants.
    fold_layouts(),
    # Before ConvertLayout, which carries no layout across a batch norm or a constant of fewer
    # dimensions than the activation.
    scale_and_shift(),
    # Before ConvertLayout, which carries no layout across reshapes; after chains of arithmetic are
    # one product and one sum.
    group_norms(),
    # Channels innermost, as every family of schedules reads and writes.
    transform.ConvertLayout(
        {
            "relax.nn.conv2d": ["NHWC", "OHWI"],
            "relax.nn.conv2d_transpose": ["NHWC", "IOHW"],
        }
    ),
    transform.CanonicalizeBindings(),
    # After ConvertLayout, which leaves transposes on weights and biases.
    fold_layouts(),
    # Last: biases are bare constants now, as `find_regions` expects.
    transform.DeadCodeElimination(["main"]),
)


#: After GRAPH_PASSES, and after convolutions are named, since equal ones are merged here.
TIDY_PASSES: tuple[tvm.transform.Pass, ...] = (
    # First: ConvertLayout transposes a value once for each of its readers.
    merge_equal(),
    cancel_transposes(),
    # After it, which leaves those with a reshape between them.
    reshape_views(),
    # Norms have the layout that they keep; before regions, which call what is left by its name.
    norm_rows(),
)


def fuse_passes() -> list[tvm.transform.Pass]:
    """Groups what is left beside the convolutions: after them a function of Relax for each group,
    and a call of a kernel for what is in none."""
    return [
        # Before legalisation, while operators have names.
        copy_casts(),
        fuse_casts(),
        legalize(),
        # For FuseOps; functions that are already scheduled are opaque to it.
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
    ]


def kernel_passes() -> list[tvm.transform.Pass]:
    """After `fuse_passes`, makes one kernel of each group."""
    return [
        transform.FuseTIR(),
        # Turns reshapes into views, that of the output too.
        tuple_output(),
        transform.RewriteDataflowReshape(),
        # Kernels that are not called any more.
        transform.DeadCodeElimination(["main"]),
    ]


def plan_memory_passes(kind: str) -> list[tvm.transform.Pass]:
    """Passes after convolutions are lowered, for target kind ``cuda`` or ``llvm``."""
    return [
        *fuse_passes(),
        *kernel_passes(),
        # After reshapes are views: TVM does not recognise scheduled ones.
        default_schedules(kind),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        # Not StaticPlanBlockMemory, which reuses whole blocks of one dtype: over a dozen networks
        # it took 1.05 to 2.14 times the lower bound, an arena 1.00.
        plan_memory(kind),
    ]


def machine_passes(kind: str) -> list[tvm.transform.Pass]:
    """Passes from planned memory to the virtual machine's instructions."""
    return [
        # After memory is planned: captured tensors must not move.
        *([bindable()] if kind == "cuda" else []),
        transform.LowerAllocTensor(),
        transform.KillAfterLastUse(),
        transform.LowerRuntimeBuiltin(),
        transform.ComputePrimValue(),
        transform.VMShapeLower(),
        transform.AttachGlobalSymbol(),
    ]


def kernel_pipeline(kind: str, capability: int) -> str:
    """Name of the pipeline that lowers kernels, for `relax.build`.

    capability: the GPU's compute capability, such as 90.
    """
    return OVERLAPPED if kind == "cuda" and capability >= MIN_CAPABILITY else KERNELS


def run(mod: tvm.IRModule, passes: Any, stage: str) -> tvm.IRModule:
    """Applies `passes` in order. If TVMCONV_DUMP is set, writes the module after each."""
    folder = knobs.dump_folder()
    for i, one in enumerate(passes):
        mod = one(mod)
        if folder is not None:
            _dump(mod, folder, f"{stage}_{i:02d}_{one.info.name.rpartition('.')[2]}")
    return mod


def _dump(mod: tvm.IRModule, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(mod.script(show_meta=False))
