"""Writes the pages of docs/ that are made out of the code. ``make docs`` runs it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

import tvm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that it runs where tvmconv is not installed

from tvmconv import pipeline  # noqa: E402
from tvmconv.knobs import KNOBS  # noqa: E402

PASSES = HERE.parent / "tvmconv" / "passes"
#: In the folder of passes, and not a pass: what passes share, and what decides without rewriting.
NOT_PASSES = ("__init__", "axis_orders", "graph", "minimise", "plan", "readers", "workloads")
#: Between the passes of `pipeline`, by `compiler`: functions that take or give more than a module.
BY_COMPILER = (
    "regions",
    "absorb_pad",
    "absorb_scale",
    "absorb_residual",
    "absorb_activation",
    "balance_ranges",
    "concat_in_place",
    "channel_shuffle",
    "stride_phases",
    "layouts",
    "lower_convs",
    "lift_weights",
)
HEADINGS = ("Before", "After", "Requires", "Formula")


def knobs() -> str:
    """docs/knobs.md: every environment variable, its default and its meaning."""
    rows = [f"| `{k.name}` | {k.default or 'unset'} | {k.meaning} |" for k in KNOBS]
    return "\n".join(
        [
            "<!-- Written by `make docs` out of tvmconv/knobs.py. -->",
            "# Environment variables",
            "| name | default | meaning |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def pass_order() -> list[str]:
    """The passes of a build for cuda in order, TVM's own among them, by name."""

    def names(steps: Iterable[tvm.transform.Pass]) -> list[str]:
        return [step.info.name.rpartition(".")[2] for step in steps]

    order = names((*pipeline.GRAPH_PASSES, *pipeline.TIDY_PASSES)) + list(BY_COMPILER)
    return order + names(pipeline.plan_memory_passes("cuda") + pipeline.machine_passes("cuda"))


def pass_docs() -> dict[str, str]:
    """The docstring of every file that holds a pass, in the order of the pipeline.

    Raises ValueError for a file that the pipeline does not name.
    """
    order = pass_order()
    stems = {path.stem for path in PASSES.glob("*.py")} - set(NOT_PASSES)
    if unknown := stems - set(order):
        raise ValueError(
            f"no pass of the pipeline is called {sorted(unknown)}; is one of NOT_PASSES?"
        )
    found = sorted(stems, key=order.index)
    return {
        stem: ast.get_docstring(ast.parse(_text(PASSES / f"{stem}.py"))) or "" for stem in found
    }


def passes() -> str:
    """docs/passes.md: every pass in order, and what ours do as their files say it."""
    docs = pass_docs()
    listed = [f"[{name}](#{name})" if name in docs else name for name in pass_order()]
    lines = [
        "<!-- Written by `make docs` out of the docstrings in tvmconv/passes/. -->",
        "# Passes",
        "In order, those of TVM's Relax in capitals; the reason for the order is in",
        "[pipeline.py](../tvmconv/pipeline.py).",
        "",
        *(f"{i}. {name}" for i, name in enumerate(listed, 1)),
    ]
    for name, text in docs.items():
        summary, _, facts = text.partition("\n\n")
        lines += ["", f"## {name}", summary, "", "```text", facts, "```"]
    return "\n".join([*lines, ""])


PAGES = {"knobs.md": knobs, "passes.md": passes}


def main() -> None:
    """Writes the pages; with --check, only says which of them are out of date."""
    stale = [name for name, page in PAGES.items() if _text(HERE / name) != page()]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run `make docs`" if stale else 0)
    for name in stale:
        (HERE / name).write_text(PAGES[name]())
    print(f"wrote {', '.join(stale) or 'nothing: all pages are up to date'}")


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    main()
