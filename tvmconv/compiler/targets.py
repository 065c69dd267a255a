"""What a network is built for: the target, and the architecture by its name."""

from __future__ import annotations

from tvm.target import codegen

from schedules.conv.precision import PRECISIONS, Precision
from schedules.families.simulated.family import ACTIVATIONS, Simulation
from schedules.machine.hardware import CPU, Hardware
from tvmconv.errors import TargetError, TvmconvError
from tvmconv.passes import pipeline
from tvmconv.runtime import toolchain
from tvmconv.runtime.device import vector_features
from tvmconv.simulation import simulator

#: The network as on llvm, but for the products of its tensorized convolutions.
SIMULATED = "hmma-sim"
TARGETS = ("cuda", "llvm", SIMULATED)


def find_hardware(target: str, arch: str | None) -> tuple[Hardware, str]:
    """The limits to schedule for, and the architecture's full name.

    As `build` takes them. Raises `TargetError` for a target or architecture that can't be built
    for.
    """
    if target not in TARGETS:
        raise TargetError(f"there is no target {target!r}", hint=f"one of {', '.join(TARGETS)}")
    if target != "cuda":
        cpu = arch or codegen.llvm_get_system_cpu()
        if not codegen.llvm_is_valid_cpu(cpu, codegen.llvm_get_system_triple()):
            raise TargetError(f"LLVM knows no CPU {cpu!r}", hint="leave arch out for this one")
        return CPU, cpu
    arch = arch or toolchain.detect_arch()
    if arch is None:
        raise TargetError(
            'target="cuda" was asked for and there is no NVIDIA GPU here',
            hint='name what to build for, such as arch="sm_90", or build with target="llvm"',
        )
    return toolchain.cuda_arch(arch), arch


def find_precision(name: str) -> Precision:
    """Returns the precision of that name. Raises `TvmconvError` that lists those there are."""
    if name not in PRECISIONS:
        raise TvmconvError(
            f"there is no precision {name!r}", hint=f"one of {', '.join(PRECISIONS)}"
        )
    return PRECISIONS[name]


def find_simulation(target: str, numerics: str | None, activations: str) -> Simulation | None:
    """What a build for ``"hmma-sim"`` simulates; None for another target.

    As `build` takes them. Raises `TvmconvError` for what there is none of, and where a target that
    simulates nothing was given any.
    """
    if target != SIMULATED:
        if numerics is not None or activations != ACTIVATIONS[0]:
            raise TvmconvError(
                f"target {target!r} has its own numerics and fp16 activations",
                hint=f'choose them with target="{SIMULATED}"',
            )
        return None
    if activations not in ACTIVATIONS:
        raise TvmconvError(
            f"activations can't be {activations!r}", hint=f"one of {', '.join(ACTIVATIONS)}"
        )
    return Simulation(simulator.arithmetic(numerics or simulator.DEFAULT).name, activations)


def code_features(cpu: str) -> tuple[str, ...]:
    """What code for a CPU, as LLVM calls it, relies on."""
    return vector_features(codegen.llvm_get_cpu_features(pipeline.tvm_target("llvm", cpu)))
