"""Turns a plan for llvm into one for the simulated tensor core."""

from __future__ import annotations

from dataclasses import replace

from schedules.choose import Choice
from schedules.conv.workload import ConvWorkload
from schedules.families.simulated.family import HmmaSimFamily, Simulation, WideDirectFamily
from schedules.machine.hardware import Hardware
from tvmconv.passes.plan.plan import Plan, PlannedConv

HMMA_SIM, WIDE_DIRECT = HmmaSimFamily(), WideDirectFamily()


def simulated(planned: Plan, simulation: Simulation) -> Plan:
    """Replaces tensorized convolutions of a plan for llvm by simulated ones.

    If activations stay fp32, every convolution reads and writes fp32.
    """
    return {var: _conv(one, simulation) for var, one in planned.items()}


def _conv(planned: PlannedConv, simulation: Simulation) -> PlannedConv:
    kernels = (
        replace(kernel, choice=_choice(kernel.choice, simulation)) for kernel in planned.kernels
    )
    return replace(planned, kernels=tuple(kernels))


def _choice(choice: Choice, simulation: Simulation) -> Choice:
    w, hardware = choice.workload, choice.hardware
    if simulation.wide:
        w = replace(w, epilogue=replace(w.epilogue, out_dtype="float32"))
    if choice.family.tensorized:
        return replace(choice, workload=w, family=HMMA_SIM, config=simulation, runner_up=None)
    if simulation.wide:
        return _wide(replace(choice, workload=w), w, hardware)
    return choice


def _wide(choice: Choice, w: ConvWorkload, hardware: Hardware) -> Choice:
    config = next(WIDE_DIRECT.space(w, hardware))
    return replace(choice, family=WIDE_DIRECT, config=config, runner_up=None)
