"""The text of a `BuildReport`, as `print(exe.report)` shows it.

Layers that differ only in their names share a row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from tvmconv.reports.data.build import BuildReport, ConversionReport, ConvReport, KernelReport
from tvmconv.reports.data.report import as_text
from tvmconv.reports.render.parts import parts_text
from tvmconv.reports.render.tables import (
    figures,
    mib,
    microseconds,
    percent,
    table,
    without_unknown,
)

#: Suffix by target without tensor cores.
HOW = {"llvm": "emulated", "hmma-sim": "simulated"}


@as_text.register
def build_text(report: BuildReport) -> str:
    """Returns the whole report, the most important first."""
    parts = [parts_text(report)] if report.parts else []
    parts.append(_headline(report))
    if report.smaller:
        parts.append(bucket_table(report))
    if report.convs:
        parts.append(layer_table(report.convs))
    if report.convs or report.kernels:
        parts.append(path(report))
    if report.conversions or report.quantising:
        parts.append(conversion_table((*report.conversions, *report.quantising)))
    if report.kernels:
        parts.append(kernel_table(report.kernels))
    if any(not conv.tensor_core for conv in report.convs):
        parts.append(reasons(report.convs))
    if any(conv.kept for conv in report.convs):
        parts.append(ranges_table(report.convs))
    if any(conv.floats_because for conv in report.convs):
        parts.append(floats_table(report.convs))
    if report.convs:
        parts.append(_layout_reasons(report.convs))
    if report.operators:
        parts.append(_operator_summary(report))
    return "\n\n".join(parts)


def _headline(report: BuildReport) -> str:
    if report.any_shape and not report.shapes:
        return f"{target(report)}: no shape is compiled yet; each is when it is first fed"
    text = f"{target(report)}: {tensorized(report)}"
    if report.convs:
        text += f", {report.useful_macs / 1e9:.2f} GMAC"
        text += f", padding is {report.waste:.0%} of those executed"
    if report.build_seconds:
        text += (
            f"\nbuilt in {report.build_seconds:.1f} s; weights {mib(report.weight_bytes)} MiB, "
            f"activations {mib(report.peak_activation_bytes)} MiB"
        )
        if report.activation_bound_bytes:
            ratio = report.peak_activation_bytes / report.activation_bound_bytes
            live = mib(report.activation_bound_bytes)
            text += f", {ratio:.2f} times the {live} MiB that are live at once"
        text += f"; outputs {mib(report.output_bytes)} MiB"
    if report.any_shape:
        text += "\nother shapes are compiled when they are first fed"
    return text


def target(report: BuildReport) -> str:
    """Returns text such as ``cuda sm_90, bucket of 32``."""
    text = report.target + (f" {report.arch}" if report.arch else "")
    text += f", costs {report.machine.title}" if report.machine.title else ""
    return text + (f", bucket of {report.bucket_texts[-1]}" if report.smaller else "")


def tensorized(report: BuildReport) -> str:
    """Returns the number of layers on tensor cores, in words."""
    text = f"{report.tensorized} of {len(report.convolutions)} convolutions"
    products = [conv for conv in report.convs if conv not in report.convolutions]
    if products:
        done = sum(conv.tensor_core for conv in products)
        text += f" and {done} of {len(products)} matrix products"
    return text + " on tensor cores" + _how(report) + _in_int8(report)


def _in_int8(report: BuildReport) -> str:
    """Returns the number of layers that multiply 8-bit integers, in words; empty without any."""
    products = [conv for conv in report.convs if conv not in report.convolutions]
    done = sum(conv.in_int8 for conv in products)
    if not report.in_int8 + done:
        return ""
    text = f"; {report.in_int8} of {len(report.convolutions)} convolutions"
    text += f" and {done} of {len(products)} matrix products" if products else ""
    return f"{text} in int8"


def _how(report: BuildReport) -> str:
    how = HOW.get(report.target, "")
    emulated = Counter(conv.emulated_by for conv in report.convs if conv.emulated_by)
    parts = [how, *(f"{count} of 8 bits by {by}" for by, count in sorted(emulated.items()))]
    return f" ({', '.join(filter(None, parts))})" if how else ""


def bucket_table(report: BuildReport) -> str:
    """Returns a row for each bucket; the rest of the report describes the largest."""
    buckets = (*report.smaller, report)
    rows = [["bucket", "tensorized", "GMAC", "pad", "estimated us"]]
    for one, name in zip(buckets, report.bucket_texts, strict=True):
        on = f"{one.tensorized} of {len(one.convolutions)}"
        macs, us = f"{one.useful_macs / 1e9:.2f}", microseconds(one.cost_us)
        rows.append([name, on, macs, f"{one.waste:.0%}", us])
    if report.build_seconds:
        rows[0] += ["activations MiB", "weights MiB", "build s"]
        for row, one in zip(rows[1:], buckets, strict=True):
            sizes = (one.peak_activation_bytes, one.weight_bytes)
            row += [*map(mib, sizes), f"{one.build_seconds:.1f}"]
    rows = without_unknown(rows, ["estimated us"])
    text = figures(rows, text=("bucket", "tensorized"))
    if report.stored_weight_bytes:
        text += f"\nweights of all buckets, equal ones once: {mib(report.stored_weight_bytes)} MiB"
    return text


#: Columns of the table of layers; a column is left out if it has only these values.
COLUMNS: dict[str, tuple[str, ...]] = {
    "layer": (),
    "x": (),
    "shape": (),
    "family": ("",),
    "config": ("",),
    "layouts": ("", "NHWC"),
    "epilogue": ("", "none"),
    "multiplies": ("", "f16"),
    "MMAC": (),
    "pad": ("",),
    "us": ("-",),
    "limit": ("",),
    "floor us": ("-",),
    "runner-up": ("",),
    "chosen": ("",),
}
WORDS = (
    "layer",
    "shape",
    "family",
    "config",
    "layouts",
    "epilogue",
    "multiplies",
    "limit",
    "runner-up",
    "chosen",
)


def layer_table(convs: Sequence[ConvReport]) -> str:
    """Returns a row for each set of equal layers, with the figures of one, then the sum of all."""
    alike: dict[tuple[str, ...], list[ConvReport]] = defaultdict(list)
    for conv in convs:
        alike[_row(conv)].append(conv)
    rows = [(_shortened(group[0].name), str(len(group)), *row) for row, group in alike.items()]
    kept = [
        at
        for at, nothing in enumerate(COLUMNS.values())
        if not nothing or any(row[at] not in nothing for row in rows)
    ]
    rows = [tuple(COLUMNS), *rows, _total(convs)]
    return figures([[row[at] for at in kept] for row in rows], WORDS)


def _total(convs: Sequence[ConvReport]) -> tuple[str, ...]:
    useful = sum(conv.useful_macs for conv in convs)
    padded = sum(conv.padded_macs for conv in convs)
    cost = microseconds(sum(conv.cost_us for conv in convs))
    floor = microseconds(sum(conv.floor_us for conv in convs))
    figures = (f"{useful / 1e6:.1f}", percent(padded - useful, padded), cost, "", floor, "", "")
    return ("all", str(len(convs)), "", "", "", "", "", "", *figures)


def _row(conv: ConvReport) -> tuple[str, ...]:
    """Returns all cells but name and count; few for a layer that is not planned."""
    same = conv.in_layout == conv.out_layout
    layouts = conv.out_layout if same else f"{conv.in_layout} -> {conv.out_layout}"
    return (
        conv.shape,
        conv.family,
        conv.config,
        layouts if conv.family else "",
        conv.epilogue,
        conv.multiplies,
        f"{conv.useful_macs / 1e6:.1f}",
        f"{conv.waste:.0%}" if conv.family else "",
        microseconds(conv.cost_us),
        conv.limit,
        microseconds(conv.floor_us),
        f"{conv.runner_up} {microseconds(conv.runner_up_us)}" if conv.runner_up else "",
        _chosen(conv),
    )


def _chosen(conv: ConvReport) -> str:
    """Returns what chose a layer's kernel, if not the cost model."""
    if conv.chosen_by == "tuned":
        return f"tuned x{conv.tuned:.2f}"
    return "pinned" if conv.chosen_by == "pinned" else ""


#: Characters of a layer's name in the table; names of some exporters are paths.
MOST_NAME = 32


def _shortened(name: str, most: int = MOST_NAME) -> str:
    # The end of a path tells more than its beginning.
    return name if len(name) <= most else "..." + name[3 - most :]


def path(report: BuildReport) -> str:
    """Returns the sums of the estimates, and the machine that they are for."""
    if not report.machine.name:
        return "not estimated: there is no model of what runs this network"
    text = f"estimated: {microseconds(report.cost_us)} us"
    if report.kernels:
        text += f", of which TVM's kernels {microseconds(report.kernel_us)}"
    if report.conversions:
        text += f", of which conversions of layouts {microseconds(report.conversion_us)}"
    if report.convs:
        text += f"; no schedule of these layers takes less than {microseconds(report.floor_us)}"
    tuned = [conv for conv in report.convs if conv.tuned]
    if tuned:
        measured = sum(conv.cost_us for conv in tuned)
        before = sum(conv.cost_us * conv.tuned for conv in tuned)
        text += (
            f"\nmeasured, not estimated: {len(tuned)} of {len(report.convs)} tuned layers, in "
            f"total {microseconds(measured)} us; the model's choices took "
            f"{before / measured:.2f} times as long"
        )
    unknown = [conv for conv in report.convs if not conv.cost_us and not conv.part_of]
    if unknown:
        text += f"\n{len(unknown)} that TVM computes are counted only by the bytes that they move"
    return f"{text}\nmachine: {report.machine}"


def conversion_table(conversions: Sequence[ConversionReport]) -> str:
    """Returns a row for each set of equal conversions."""
    counted = Counter(conversions)
    header = ("conversion left", "x", "of", "cause", "kB moved", "us")
    rows = [
        (
            one.conversion,
            str(count),
            "x".join(map(str, one.shape)),
            one.cause,
            f"{one.moved_bytes / 1e3:.1f}",
            microseconds(one.us),
        )
        for one, count in counted.items()
    ]
    known = without_unknown([header, *rows], ["us"])
    return figures(known, text=("conversion left", "of", "cause"))


#: Kernels with a row of their own; the others have one together.
MOST_KERNELS = 12
#: Characters of the names of a kernel's nodes in the table.
MOST_NODES = 40


def kernel_table(kernels: Sequence[KernelReport]) -> str:
    """Returns TVM's kernels, those that move most bytes first; equal ones share a row."""
    alike: dict[str, list[KernelReport]] = defaultdict(list)
    for one in kernels:
        alike[one.name].append(one)
    groups = sorted(alike.values(), key=lambda group: -sum(one.moved_bytes for one in group))
    rows = [("TVM's kernel", "x", "nodes", "kB moved", "us")]
    for group in groups[:MOST_KERNELS]:
        nodes = ", ".join(group[0].nodes) + (", ..." if group[1:] and group[0].nodes else "")
        rows.append(_kernel_row(_shortened(group[0].name), group, _shortened(nodes, MOST_NODES)))
    if others := [one for group in groups[MOST_KERNELS:] for one in group]:
        rows.append(_kernel_row("others", others))
    rows.append(_kernel_row("all", kernels))
    return figures(without_unknown(rows, ["us"]), text=("TVM's kernel", "nodes"))


def _kernel_row(
    name: str, kernels: Sequence[KernelReport], nodes: str = ""
) -> tuple[str, str, str, str, str]:
    moved, us = sum(one.moved_bytes for one in kernels), sum(one.us for one in kernels)
    return name, str(len(kernels)), nodes, f"{moved / 1e3:.1f}", microseconds(us)


def reasons(convs: Sequence[ConvReport]) -> str:
    """Returns the reasons that layers are not on tensor cores, each once."""
    counted = Counter(conv.why_family for conv in convs if not conv.tensor_core)
    lines = [f"  {count} x {reason}" for reason, count in counted.most_common()]
    return "not on tensor cores:\n" + "\n".join(lines)


#: Names in a row of the table of causes.
MOST_NAMES = 3


def floats_table(convs: Sequence[ConvReport]) -> str:
    """Returns the layers of a quantised model that multiply floats, a row for each cause."""
    alike: dict[str, list[str]] = defaultdict(list)
    for conv in convs:
        if conv.floats_because:
            alike[conv.floats_because].append(_shortened(conv.name))
    rows = [("not in integers", "x", "cause")]
    for cause, names in alike.items():
        more = ", ..." if names[MOST_NAMES:] else ""
        rows.append((", ".join(names[:MOST_NAMES]) + more, str(len(names)), cause))
    return figures(rows, text=("not in integers", "cause"))


def ranges_table(convs: Sequence[ConvReport]) -> str:
    """Returns what was done to keep the range of fp16, a row for each set of equal layers."""
    alike: dict[str, list[str]] = defaultdict(list)
    for conv in convs:
        if conv.kept:
            alike["; ".join(conv.kept)].append(_shortened(conv.name))
    rows = [("beyond the range of fp16", "x", "kept by")]
    for how, names in alike.items():
        more = ", ..." if names[MOST_NAMES:] else ""
        rows.append((", ".join(names[:MOST_NAMES]) + more, str(len(names)), how))
    return figures(rows, text=("beyond the range of fp16", "kept by"))


def _layout_reasons(convs: Sequence[ConvReport]) -> str:
    counted = Counter((conv.out_layout, conv.why_layout) for conv in convs)
    lines = [f"  {n} x {layout}: {why}" for (layout, why), n in counted.most_common()]
    return "layouts of outputs:\n" + "\n".join(lines)


def _operator_summary(report: BuildReport) -> str:
    counted = Counter((one.operator, kind_of_fate(one.fate)) for one in report.operators)
    rows = [(operator, str(count), fate) for (operator, fate), count in counted.items()]
    return table([("operator", "count", "what became of it"), *sorted(rows)], right=(1,))


def kind_of_fate(fate: str) -> str:
    """Returns a fate without names of nodes, so that equal ones can be counted."""
    return fate.partition(": ")[0]
