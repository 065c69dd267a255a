"""Turns a plan for llvm into one for the simulated tensor core."""

from __future__ import annotations

from dataclasses import replace

from intrinsics import dtypes
from schedules.choose import Choice
from schedules.conv.precision import Precision
from schedules.families.direct.family import DirectFamily
from schedules.families.simulated.family import HmmaSimFamily, Simulation
from tvmconv.passes.plan.plan import Plan, PlannedConv

HMMA_SIM, DIRECT = HmmaSimFamily(), DirectFamily()


def simulated(planned: Plan, simulation: Simulation) -> Plan:
    """Replaces tensorized convolutions of a plan for llvm by simulated ones.

    If activations stay fp32, every convolution reads and writes fp32 where it would fp16. Sums of
    integers are exact on every tensor core, so those are left as they are.
    """
    return {var: _conv(one, simulation) for var, one in planned.items()}


def _conv(planned: PlannedConv, simulation: Simulation) -> PlannedConv:
    kernels = (
        replace(kernel, choice=_choice(kernel.choice, simulation)) for kernel in planned.kernels
    )
    return replace(planned, kernels=tuple(kernels))


def _choice(choice: Choice, simulation: Simulation) -> Choice:
    w = choice.workload
    integers = dtypes.get(w.precision.accumulator).integer
    if simulation.wide:
        w = replace(w, precision=_wide(w.precision, simulation.activations))
    if integers and w == choice.workload:
        return choice
    if choice.family.tensorized and not integers:
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


def _wide(precision: Precision, dtype: str) -> Precision:
    """The precision with activations of `dtype`; those of whole numbers keep theirs."""

    def wide(name: str) -> str:
        return name if not name or dtypes.get(name).integer else dtype

    x, result, residual = map(wide, (precision.x, precision.result, precision.residual))
    return replace(precision, x=x, result=result, residual=residual)
