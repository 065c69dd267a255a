"""The table of `LayerTime`s, in the 120 columns of a wide terminal."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from tvmconv.reports.data.layer_times import LayerTime
from tvmconv.reports.render.tables import figures, microseconds, percent

#: By header: True for a column of text. Columns whose cells are all empty are left out.
COLUMNS = {
    "layer": True,
    "x": False,
    "shape": True,
    "us": False,
    "share": False,
    "TFLOP/s": False,
    "GB/s": False,
    "instr.": False,
    "chip": False,
    "memory": False,
    "limit": True,
    "runner-up": True,
}
#: Characters of a name, and of a shape.
MOST_NAME, MOST_SHAPE = 20, 26


def layer_table(layers: Sequence[LayerTime]) -> str:
    """Returns a row for each set of equal layers: the time of all, the figures of one.

    Then the sum of the layers, other kernels, the slowest first, and their sum.
    """
    total = sum(one.us for one in layers)
    alike: dict[tuple[str, ...], list[LayerTime]] = defaultdict(list)
    for one in layers:
        if one.family:
            alike[one.shape, one.family, one.config].append(one)
    rows = [_row(group, total) for group in alike.values()]
    rows.append(_sum("all layers", [one for one in layers if one.family], total))
    others: dict[str, list[LayerTime]] = defaultdict(list)
    for one in layers:
        if not one.family:
            others[one.name].append(one)
    slowest = sorted(others.items(), key=lambda item: -sum(one.us for one in item[1]))
    rows += [_sum(name, group, total) for name, group in slowest]
    if others:
        rows.append(_sum("all others", [one for one in layers if not one.family], total))
    kept = [at for at in range(len(COLUMNS)) if any(row[at] for row in rows)]
    header = list(COLUMNS)
    cells = [[row[at] for at in kept] for row in [header, *rows]]
    return figures(cells, [name for name, text in COLUMNS.items() if text])


def _row(group: Sequence[LayerTime], total: float) -> list[str]:
    one, us = group[0], sum(layer.us for layer in group)
    mean = us / len(group)
    shares = (one.instruction_share, one.chip_share, one.memory_share)
    # Estimates of a CPU are too rough to explain a time.
    explained = one.chip_share > 0
    limit = one.limit.removeprefix("instruction ").removesuffix(" pipe").removesuffix(" memory")
    return [
        _shortened(one.name),
        str(len(group)),
        _shortened(_without_batch(one.shape), MOST_SHAPE),
        microseconds(us),
        percent(us, total),
        _three_digits(one.tflops * one.us / mean),
        f"{one.gbps * one.us / mean:.0f}",
        *(percent(share * one.us / mean, 1) if share else "" for share in shares),
        limit if explained else "",
        f"{one.runner_up} x{one.margin:.2f}" if one.runner_up and explained else "",
    ]


def _sum(name: str, group: Sequence[LayerTime], total: float) -> list[str]:
    us = sum(one.us for one in group)
    cells = [_shortened(name), str(len(group)), "", microseconds(us), percent(us, total)]
    return cells + [""] * (len(COLUMNS) - len(cells))


def _without_batch(shape: str) -> str:
    """Returns ``1x56x56x64 -> 64, 3x3, 64 groups`` as ``56x56x64->64 3x3 g64``."""
    short = re.sub(r"^\d+x", "", shape)
    short = re.sub(r", (\d+) groups$", r" g\1", short)
    return short.replace(" -> ", "->").replace(", ", " ")


def _shortened(text: str, most: int = MOST_NAME) -> str:
    # The end of a path tells more than its beginning.
    return text if len(text) <= most else "..." + text[3 - most :]


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"
