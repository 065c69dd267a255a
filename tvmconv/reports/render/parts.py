"""The parts of a network of which onnxruntime runs some, in words."""

from __future__ import annotations

from collections import defaultdict

from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.data.parts import FallbackReport


def parts_headline(report: BuildReport) -> str:
    """Returns what runs in onnxruntime in one line; empty if nothing does."""
    if not report.parts:
        return ""
    theirs = [one for part in report.parts for one in part.fallbacks]
    nodes = sum(part.nodes for part in report.parts)
    count = sum(part.side != "compiled" for part in report.parts)
    where = "on the CPU"
    if report.target == "cuda":
        where += ", or on the GPU where its CUDA provider is installed"
    return (
        f"onnxruntime runs {len(theirs)} of {nodes} operators, in {count} of "
        f"{len(report.parts)} parts, {where}: {', '.join(_counted(theirs))}"
    )


def parts_text(report: BuildReport) -> str:
    """Returns which operators run in onnxruntime and why, and what crosses between parts."""
    alike: dict[tuple[str, str], list[FallbackReport]] = defaultdict(list)
    for part in report.parts:
        for one in part.fallbacks:
            alike[one.operator, one.reason].append(one)
    lines = [parts_headline(report)]
    lines += [f"  {operator} x{len(group)}: {why}" for (operator, why), group in alike.items()]
    if report.crossings:
        lines.append("between parts, through the memory of the host:")
        lines += [f"  {one}" for one in report.crossings]
    return "\n".join(lines)


def _counted(fallbacks: list[FallbackReport]) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for one in fallbacks:
        counts[one.operator] += 1
    return [f"{name} x{count}" for name, count in counts.items()]
