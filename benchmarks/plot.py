"""The plot of all times, network by network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure


def draw(title: str, groups: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Writes ``groups`` to ``path`` as grouped bars, on a logarithmic axis.

    ``groups`` maps a network, such as "resnet18 b1", to each program's median in ms. A program may
    be missing for some networks.
    """
    contenders = list(dict.fromkeys(name for times in groups.values() for name in times))
    figure = Figure(figsize=(max(5.0, 1.5 * len(groups) + 2), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(contenders)
    for i, contender in enumerate(contenders):
        here = [x for x, times in enumerate(groups.values()) if contender in times]
        heights = [times[contender] for times in groups.values() if contender in times]
        places = [x + width * (i - (len(contenders) - 1) / 2) for x in here]
        bars = axes.bar(places, heights, width, label=contender)
        axes.bar_label(bars, [f"{height:.4g}" for height in heights], fontsize="small")
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_ylabel("median latency, ms")
    axes.set_xticks(range(len(groups)), [name.replace(" ", "\n") for name in groups])
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
