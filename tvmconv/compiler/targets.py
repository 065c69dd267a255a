"""The target that a network is built for, and the machine whose costs its report shows."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import codegen

from schedules.conv.precision import PRECISIONS, Precision
from schedules.families.simulated.family import ACTIVATIONS, Simulation
from schedules.machine import hardware as machines
from schedules.machine.cost import Machine
from schedules.machine.hardware import Hardware
from schedules.machine.processor import Processor, processor
from tvmconv.compiler import toolchain
from tvmconv.errors import TargetError, TvmconvError
from tvmconv.passes import pipeline
from tvmconv.reports.data.build import MachineReport
from tvmconv.runtime import gpu, simulator
from tvmconv.runtime.device import vector_features

#: The network as on llvm, but for the products of its tensorized convolutions.
SIMULATED = "hmma-sim"
TARGETS = ("cuda", "llvm", SIMULATED)


def find_hardware(target: str, arch: str | None) -> tuple[Hardware, str]:
    """Returns what to schedule for, and the architecture's full name.

    As `build` takes them. Raises `TargetError` for a target or architecture that can't be built
    for.
    """
    if target not in TARGETS:
        raise TargetError(f"there is no target {target!r}", hint=f"one of {', '.join(TARGETS)}")
    if target != "cuda":
        cpu = arch or codegen.llvm_get_system_cpu()
        if not codegen.llvm_is_valid_cpu(cpu, codegen.llvm_get_system_triple()):
            raise TargetError(
                f"LLVM knows no CPU {cpu!r}",
                hint="leave arch out for this one",
                shell="leave --arch out for this one",
            )
        return hardware_of(cpu), cpu
    arch = arch or gpu.detect_arch()
    if arch is None:
        raise TargetError(
            'target="cuda" was asked for and there is no NVIDIA GPU here',
            hint='name what to build for, such as arch="sm_90", or build with target="llvm"',
            shell="name what to build for, such as --arch sm_90, or build with --target llvm",
        )
    return toolchain.cuda_arch(arch), arch


def hardware_of(cpu: str) -> Hardware:
    """Returns what to schedule for on a CPU, as LLVM calls it."""
    return machines.cpu(code_features(cpu))


def find_precision(name: str) -> Precision:
    """Returns the precision of that name. Raises `TvmconvError` that lists those there are."""
    if name not in PRECISIONS:
        raise TvmconvError(
            f"there is no precision {name!r}", hint=f"one of {', '.join(PRECISIONS)}"
        )
    return PRECISIONS[name]


@dataclass(frozen=True)
class Costs:
    """The machine whose microseconds a report shows."""

    #: None where there is no model of what runs the network.
    machine: Machine | None
    #: The GPU's architecture that was asked for instead of what runs the network; empty if none.
    asked_for: str = ""

    @property
    def report(self) -> MachineReport:
        """The same as a report keeps it."""
        if self.machine is None:
            return MachineReport()
        return MachineReport(self.machine.name, self.machine.source, self.asked_for)


def find_costs(target: str, hardware: Hardware, arch: str, as_arch: str | None) -> Costs:
    """Returns the machine whose costs to report: the card, or the CPU that runs the network, or
    for a network on a CPU the GPU that `as_arch` names.

    Raises `TargetError` for an unknown GPU, and for any where the network runs on a GPU.
    """
    if target == "cuda":
        if as_arch is not None:
            raise TargetError(
                f"costs of a network for {arch} are those of its GPU, not of {as_arch}",
                hint=f'give arch="{as_arch}", or target="llvm"',
                shell=f"give --arch {as_arch}, or --target llvm",
            )
        return Costs(hardware.card)
    if as_arch is not None:
        return Costs(toolchain.cuda_arch(as_arch).card, as_arch)
    return Costs(None if target == SIMULATED else find_processor(arch))


def find_processor(arch: str) -> Processor:
    """Returns this machine's CPU, as it runs code for the CPU that LLVM calls `arch`."""
    return processor(arch, code_features(arch))


def find_simulation(target: str, numerics: str | None, activations: str) -> Simulation | None:
    """Returns what a build for ``"hmma-sim"`` simulates; None for another target.

    As `build` takes them. Raises `TvmconvError` for unknown numerics or activations, and where a
    target that simulates nothing was given any.
    """
    if target != SIMULATED:
        if numerics is not None or activations != ACTIVATIONS[0]:
            raise TvmconvError(
                f"target {target!r} has its own numerics and fp16 activations",
                hint=f'choose them with target="{SIMULATED}"',
                shell=f"choose them with --target {SIMULATED}",
            )
        return None
    if activations not in ACTIVATIONS:
        raise TvmconvError(
            f"activations can't be {activations!r}", hint=f"one of {', '.join(ACTIVATIONS)}"
        )
    return Simulation(simulator.arithmetic(numerics or simulator.DEFAULT).name, activations)


def code_features(cpu: str) -> tuple[str, ...]:
    """Returns the vector extensions that code for a CPU, as LLVM calls it, relies on."""
    return vector_features(codegen.llvm_get_cpu_features(pipeline.tvm_target("llvm", cpu)))
