"""Turns a plan for llvm into one for the simulated tensor core."""

from __future__ import annotations

from dataclasses import replace

from schedules.choose import Choice
from schedules.families.direct.family import DirectFamily
from schedules.families.simulated.family import HmmaSimFamily, Simulation
from tvmconv.passes.plan.plan import Plan, PlannedConv

HMMA_SIM, DIRECT = HmmaSimFamily(), DirectFamily()


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
    w = choice.workload
    if simulation.wide:
        dtype = simulation.activations
        w = replace(w, precision=replace(w.precision, x=dtype, result=dtype))
    if choice.family.tensorized:
        return replace(
            choice,
            workload=w,
            family=HMMA_SIM,
            config=simulation,
            runner_up=None,
            chosen_by="model",
        )
    if simulation.wide:
        config = next(DIRECT.space(w, choice.hardware))
        return replace(choice, workload=w, family=DIRECT, config=config, runner_up=None)
    return choice
