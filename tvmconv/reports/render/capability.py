"""The text of a `CapabilityReport`, as `tvmconv inspect` prints it."""

from __future__ import annotations

from collections import Counter, defaultdict

from tvmconv.reports.data.build import SUITED_CHANNELS
from tvmconv.reports.data.capability import CapabilityReport, KindReport
from tvmconv.reports.data.report import as_text
from tvmconv.reports.render import build
from tvmconv.reports.render.parts import parts_text
from tvmconv.reports.render.tables import figures, microseconds, percent, without_unknown


@as_text.register
def capability_text(report: CapabilityReport) -> str:
    """Returns the prospects of the model and its kinds of layers, then details."""
    plan = report.plan
    parts = [parts_text(plan)] if plan.parts else []
    parts.append(_headline(report))
    if plan.smaller:
        parts.append(build.bucket_table(plan))
    if report.convs:
        parts += [_kind_table(report), _shares(report)]
        if report.buildable:
            parts.append(build.path(plan))
        parts.append(build.layer_table(report.convs))
    if plan.conversions or plan.quantising:
        parts.append(build.conversion_table((*plan.conversions, *plan.quantising)))
    if plan.kernels:
        parts.append(build.kernel_table(plan.kernels))
    if report.buildable and any(not conv.tensor_core for conv in report.convs):
        parts.append(build.reasons(report.convs))
    if any(conv.floats_because for conv in report.convs):
        parts.append(build.floats_table(report.convs))
    parts.append(_operator_table(report))
    return "\n\n".join(parts)


def _headline(report: CapabilityReport) -> str:
    plan = report.plan
    lines = [f"{build.target(plan)}: "]
    if report.buildable:
        how = f", in {len(plan.parts)} parts" if plan.parts else ""
        lines[0] += f"can be built{how}; {build.tensorized(plan)}"
    else:
        listed = (f"{name} x{count}" for name, count in sorted(report.unsupported.items()))
        lines[0] += "can't be built: " + ", ".join(listed)
    specs = [" and ".join(map(str, given)) for given in (report.inputs, report.outputs)]
    lines.append(
        f"{' -> '.join(specs)}; opset {report.opset}, {report.parameters / 1e6:.2f} M parameters"
    )
    return "\n".join(lines)


def _kind_table(report: CapabilityReport) -> str:
    """Returns the kinds, their sum, and the traits."""
    rows = [["layers", "count", "GMAC", "share", "floor us"]]
    if report.buildable:
        rows[0] += ["us", "tensor cores", "padding"]
    rows += [_kind_row(one, report) for one in (*report.kinds, report.all)]
    if report.traits:
        rows.append(["by trait, some in several", *[""] * (len(rows[0]) - 1)])
        rows += [_kind_row(one, report, "  ") for one in report.traits]
    return figures(without_unknown(rows, ["floor us", "us"]), text=("layers",))


def _kind_row(one: KindReport, report: CapabilityReport, indent: str = "") -> list[str]:
    row = [
        indent + one.kind,
        str(one.count),
        f"{one.macs / 1e9:{'.3f' if one.macs > 1e8 else '.3g'}}",
        percent(one.macs, report.all.macs),
        microseconds(one.floor_us),
    ]
    if report.buildable:
        row.append(microseconds(one.cost_us))
        row.append(percent(one.tensor_core_macs, one.macs))
        row.append(percent(one.padded_macs - one.macs, one.padded_macs))
    return row


def _shares(report: CapabilityReport) -> str:
    """Returns the share of multiply-adds on tensor cores, or of those that suit them."""
    every, suited = report.all, report.suited
    if not report.buildable:
        unknown = sum(not conv.useful_macs for conv in report.convs)
        text = (
            f"{percent(suited.macs, every.macs)} of all multiply-adds are of convolutions with "
            f"{SUITED_CHANNELS} input channels per group or more, which suit tensor cores"
        )
        if unknown:
            text += f"\nwithout {unknown} whose shapes can't be inferred"
        return text + (f"\nmachine: {report.plan.machine}" if report.plan.machine.name else "")
    return (
        f"on tensor cores: {percent(every.tensor_core_macs, every.macs)} of all multiply-adds, "
        f"{percent(suited.tensor_core_macs, suited.macs)} of those of convolutions with "
        f"{SUITED_CHANNELS} input channels per group or more\n"
        f"padding: {percent(every.padded_macs - every.macs, every.padded_macs)} of those executed"
    )


def _operator_table(report: CapabilityReport) -> str:
    """Returns every operator, and what would become of it."""
    fates: dict[str, Counter[str]] = defaultdict(Counter)
    for one in report.plan.operators:
        fates[one.operator][build.kind_of_fate(one.fate)] += 1
    rows = [("operator", "count", "supported", "why not, or what becomes of it")]
    for support in report.operators:
        told = support.reason or ("" if support.supported else "not implemented")
        if support.supported:
            found = fates[support.operator].most_common()
            told = ", ".join(f"{n} x {fate}" if len(found) > 1 else fate for fate, n in found)
        no = "in onnxruntime" if report.plan.parts else "no"
        yes = "yes" if support.supported else no
        rows.append((support.operator, str(support.count), yes, told))
    return figures(rows, text=("operator", "supported", "why not, or what becomes of it"))
