"""A `ConvReport` of every convolution and matrix product of a network, planned or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx

from intrinsics import dtypes
from schedules.choose import Choice, cost_on
from schedules.conv.precision import Precision
from schedules.conv.workload import ConvWorkload
from schedules.family import ONE_CONVOLUTION, Family
from schedules.machine.cost import Cost, Machine, conv_floor, floor, moved_bytes
from schedules.machine.gpus import Card
from schedules.machine.hardware import Hardware
from schedules.registry import family
from tvmconv.onnx.kinds import Layer, convolutions, layers
from tvmconv.passes.plan.plan import PlannedConv, kernel_names
from tvmconv.passes.products.plan_products import ProductPlan
from tvmconv.reports.collect.products import product_reports
from tvmconv.reports.data.build import ChosenBy, ConvReport


def layer_reports(
    simple: onnx.ModelProto,
    planned: Mapping[str, PlannedConv],
    products: ProductPlan,
    declined: Mapping[str, str],
    machine: Machine | None,
    precision: Precision,
    floats: Mapping[str, str] | None,
) -> tuple[ConvReport, ...]:
    """Returns the planned layers, products of computed tensors, then those that TVM computes.

    simple: the graph that was compiled; layers merged with an equal one are left out. declined: why
    products have no kernel of ours, by name. machine: costs are for this one, or 0 if None. floats:
    why planned layers of a quantised model multiply floats, by name; None for another.
    """
    found = layers(simple)
    merged = merged_layers(simple, planned)
    names = kernel_names(planned.values())
    firsts = {
        one.region.prologue.name: one for one in planned.values() if one.region.prologue is not None
    }
    kernels = [
        _planned(planned[name], layer, names, machine)
        if name in planned
        else _first_of_pair(firsts[name], layer)
        for name, layer in found.items()
        if name in planned or name in firsts
    ]
    multiplied = product_reports(found, products, machine)
    known = {*planned, *firsts, *merged, *(one.name for one in multiplied)}
    others = [
        _unplanned(layer, machine, precision, "TVM", declined.get(name) or _why_generic(layer))
        for name, layer in found.items()
        if name not in known
    ]
    if floats is None:
        return (*kernels, *multiplied, *others)
    why = "neither operand is a constant"
    return (
        *(replace(one, floats_because=why) for one in multiplied),
        *(replace(one, floats_because=floats.get(one.name, "")) for one in kernels),
        *(replace(one, floats_because=f"TVM computes it: {one.why_family}") for one in others),
    )


def unplanned_reports(
    proto: onnx.ModelProto, machine: Machine | None, precision: Precision
) -> tuple[ConvReport, ...]:
    """Returns the layers of a network that cannot be built: only with their floors."""
    why = "not planned, as the network has operators that can't be built"
    return tuple(_unplanned(layer, machine, precision, "", why) for layer in layers(proto).values())


def merged_layers(simple: onnx.ModelProto, planned: Mapping[str, PlannedConv]) -> set[str]:
    """Returns layers with constant weights that are in no plan, as an equal one is computed."""
    left = {name for name, layer in layers(simple).items() if layer.constant} - planned.keys()
    left -= {one.region.prologue.name for one in planned.values() if one.region.prologue}
    return left & set(convolutions(simple))


def _planned(
    planned: PlannedConv,
    layer: Layer,
    names: Mapping[tuple[ConvWorkload, Any, Hardware], str],
    machine: Machine | None,
) -> ConvReport:
    choices = [_on(kernel.choice, machine) for kernel in planned.kernels]
    # The first phase of a transposed convolution stands for all; they differ by about a tap.
    choice, w = choices[0], choices[0].workload
    margin = _margin(choices)
    seconds = [one.runner_up for one in choices if one.runner_up is not None]
    return ConvReport(
        name=planned.name,
        operator=layer.operator,
        shape=planned.shape,
        workloads=tuple(one.workload.to_json() for one in choices),
        family=choice.family.name,
        config=str(choice.config),
        in_layout=str(w.in_layout),
        out_layout=str(w.out_layout),
        epilogue=str(w.epilogue),
        tensor_core=all(one.family.tensorized for one in choices),
        why_family=_why_family(choice, margin),
        why_layout=planned.layout.reason,
        # For a pair, without the first convolution, which has a report of its own.
        useful_macs=sum(one.workload.apart[-1].useful_macs for one in choices),
        padded_macs=sum(one.family.padded_macs(one.workload, one.config) for one in choices)
        - (w.apart[0].useful_macs if w.prologue else 0),
        cost_us=sum(one.cost.us for one in choices),
        limit=choice.cost.limit,
        floor_us=0.0
        if machine is None
        else sum(conv_floor(one.workload, machine).us for one in choices),
        # Of all phases, or of none.
        runner_up=seconds[0].family.name if len(seconds) == len(choices) else "",
        runner_up_us=sum(s.cost.us for s in seconds) if len(seconds) == len(choices) else 0.0,
        kind=layer.kind,
        traits=layer.traits,
        group_channels=layer.group_channels,
        tuned=margin,
        kernels=tuple(names[kernel.key] for kernel in planned.kernels),
        moved_bytes=sum(moved_bytes(one.workload) for one in choices),
        instruction_tflops=instruction_tflops(choice),
        chosen_by=_chosen_by(choices),
        emulated_by=emulated_by(choice),
        multiplies=w.precision.products,
        kept=planned.region.kept,
        declined={reject.family: reject.reason for reject in choice.rejects},
    )


def _on(choice: Choice, machine: Machine | None) -> Choice:
    """Returns the choice with its costs on a machine.

    Measured times are kept, unless the network runs on a CPU and the machine is a GPU.
    """
    cuda = choice.hardware.kind == "cuda"
    if cuda or (choice.tuned is not None and not isinstance(machine, Card)):
        return choice

    def cost(family: Family, config: Any) -> Cost:
        if machine is None:
            return Cost(0.0, "")
        return cost_on(machine, choice.workload, family, config, choice.hardware)

    second = choice.runner_up
    if second is not None:
        second = replace(second, cost=cost(second.family, second.config))
    return replace(choice, cost=cost(choice.family, choice.config), runner_up=second)


def _first_of_pair(planned: PlannedConv, layer: Layer) -> ConvReport:
    """Returns the report of a convolution that the kernel of `planned` also computes."""
    choice = planned.kernels[0].choice
    first = choice.workload.apart[0]
    return ConvReport(
        name=layer.name,
        operator=layer.operator,
        shape=str(first),
        workloads=(),
        family=choice.family.name,
        config="",
        in_layout=str(first.in_layout),
        out_layout=str(first.out_layout),
        epilogue=str(first.epilogue),
        tensor_core=choice.family.tensorized,
        why_family=f"in the kernel of {planned.name}",
        why_layout="in registers alone",
        useful_macs=first.useful_macs,
        padded_macs=first.useful_macs,
        kind=layer.kind,
        traits=layer.traits,
        group_channels=layer.group_channels,
        part_of=planned.name,
        kept=planned.region.prologue.kept if planned.region.prologue else (),
        multiplies=first.precision.products,
    )


def _why_family(choice: Choice, margin: float) -> str:
    """Returns the reason that decided, in one clause."""
    second = choice.runner_up.family if choice.runner_up is not None else None
    if choice.chosen_by == "pinned":
        return "set by hand"
    if not choice.family.tensorized and not (second and second.tensorized):
        # The last of the tensor-core families takes most.
        for reject in reversed(choice.rejects):
            if family(reject.family).tensorized and reject.reason != ONE_CONVOLUTION:
                return reject.reason
    if margin:
        return f"measured, {margin:.2f} times as fast as the model's choice"
    if second is None:
        return "the only family that takes it"
    return f"estimated to take less than {second.name}"


def _chosen_by(choices: Sequence[Choice]) -> ChosenBy:
    """Returns what chose the kernels of one layer; "tuned" if records chose all of them."""
    found = {choice.chosen_by for choice in choices}
    if "pinned" in found:
        return "pinned"
    return "tuned" if found == {"record"} else "model"


def emulated_by(choice: Choice) -> str:
    """Returns what a CPU multiplies 8-bit integers by in place of tensor cores; else ""."""
    integers = dtypes.get(choice.workload.precision.accumulator).integer
    if not (integers and choice.family.tensorized and choice.hardware.kind == "llvm"):
        return ""
    return "VNNI" if choice.hardware.vnni else "vectors"


def _margin(choices: Sequence[Choice]) -> float:
    """Returns the time of the model's choices over the tuned ones; 0 unless all are tuned."""
    found = [one.tuned for one in choices if one.tuned is not None]
    if len(found) < len(choices):
        return 0.0
    return sum(one.model_us for one in found) / sum(one.us for one in found)


def instruction_tflops(choice: Choice) -> float:
    """Returns the rate of the instruction that multiplies, in 1e12 operations per second.

    0 on a CPU, and for a family without a footprint.
    """
    w, config, hardware = choice.workload, choice.config, choice.hardware
    if hardware.kind != "cuda":
        return 0.0
    footprint = choice.family.footprint(w, config, hardware)
    return 0.0 if footprint is None else hardware.card.tflops(footprint.unit, footprint.operand)


def _why_generic(layer: Layer) -> str:
    if layer.kind == "product of activations":
        return "a product of activations that are no views of tensors"
    if layer.operator in ("Gemm", "MatMul"):
        return "a product whose constant is on the left, or more than a matrix"
    if layer.operator == "ConvTranspose" and len(layer.weight) == 5:
        return "a 3-D transposed convolution"
    return "a convolution whose weights are computed, not constant"


def _unplanned(
    layer: Layer, machine: Machine | None, precision: Precision, family: str, why: str
) -> ConvReport:
    return ConvReport(
        name=layer.name,
        operator=layer.operator,
        shape=str(layer),
        workloads=(),
        family=family,
        config="",
        in_layout="NCHW",
        out_layout="NCHW",
        epilogue="none",
        tensor_core=False,
        why_family=why,
        why_layout="as in the model",
        useful_macs=layer.macs,
        padded_macs=layer.macs,
        floor_us=floor(layer.macs, layer.moved_bytes, machine, precision.operands[0]).us
        if machine is not None
        else 0.0,
        kind=layer.kind,
        traits=layer.traits,
        group_channels=layer.group_channels,
    )
