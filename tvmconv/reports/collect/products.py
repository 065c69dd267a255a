"""A `ConvReport` of every product of computed tensors that one of our kernels computes."""

from __future__ import annotations

from collections.abc import Mapping

from schedules.machine.cost import Cost, Machine, floor, least
from schedules.machine.footprint import MMA
from tvmconv.onnx.kinds import Layer
from tvmconv.passes.products.plan_products import PlannedProduct, ProductPlan, product_names
from tvmconv.reports.data.build import ConvReport


def product_reports(
    layers: Mapping[str, Layer], products: ProductPlan, machine: Machine | None
) -> list[ConvReport]:
    """Returns the reports in the order of the plan; of attention two, the first product's beside
    the one whose kernel computes both. layers: by the names of ONNX nodes."""
    names, found = product_names(products), []
    for one in products.values():
        known = [layers[name] for name in one.product.layers if name in layers]
        if not known:
            continue
        *first, last = known
        found += [_part(layer, last, one) for layer in first]
        found.append(_kernel(last, one, names[one.choice], machine))
    return found


def _kernel(
    layer: Layer, planned: PlannedProduct, name: str, machine: Machine | None
) -> ConvReport:
    """Returns the report of the product whose result the kernel writes."""
    choice, w = planned.choice, planned.choice.workload
    own = w.useful_macs if w.first is None else w.useful_macs - w.first.useful_macs
    moved, operand = w.moved_bytes, w.precision.operands[0]
    cost, lowest = Cost(0.0, ""), 0.0
    if machine is not None:
        cost = least(choice.padded_macs, moved, machine, operand)
        lowest = floor(w.useful_macs, moved, machine, operand).us
    hardware = choice.hardware
    return ConvReport(
        name=layer.name,
        operator=layer.operator,
        shape=str(w),
        workloads=(),
        family=choice.name,
        config="" if choice.config is None else str(choice.config),
        in_layout="strided",
        out_layout="strided",
        epilogue=w.epilogue,
        tensor_core=True,
        why_family="the only family that takes it",
        why_layout="read and written where they lie",
        useful_macs=own,
        padded_macs=choice.padded_macs - (w.useful_macs - own),
        cost_us=cost.us,
        limit=cost.limit,
        floor_us=lowest,
        kind=layer.kind,
        traits=layer.traits,
        group_channels=layer.group_channels,
        kernels=(name,),
        moved_bytes=moved,
        instruction_tflops=hardware.card.tflops(MMA, operand) if hardware.kind == "cuda" else 0.0,
        chosen_by="model",
        multiplies=w.precision.products,
        kept=tuple(
            f"{operand.name} times {scale:g}"
            for operand, scale in zip(planned.operands, planned.scales, strict=True)
            if scale != 1
        ),
    )


def _part(layer: Layer, last: Layer, planned: PlannedProduct) -> ConvReport:
    """Returns the report of the product of queries and keys."""
    first = planned.choice.workload.first
    assert first is not None
    return ConvReport(
        name=layer.name,
        operator=layer.operator,
        shape=str(first),
        workloads=(),
        family=planned.choice.name,
        config="",
        in_layout="strided",
        out_layout="strided",
        epilogue="none",
        tensor_core=True,
        why_family=f"in the kernel of {last.name}",
        why_layout="in registers alone",
        useful_macs=first.useful_macs,
        padded_macs=first.useful_macs,
        kind=layer.kind,
        traits=layer.traits,
        group_channels=layer.group_channels,
        part_of=last.name,
        multiplies=first.precision.products,
    )
