"""Writes the pages and pictures of docs/ that are made out of the code. ``make docs`` runs it."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

import onnx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that it runs where tvmconv is not installed

from docs.draw.pictures import PICTURES  # noqa: E402
from tests.support import onnx_suite  # noqa: E402
from tvmconv.integrations.onnx_backend_exclusions import exclusion  # noqa: E402
from tvmconv.knobs import KNOBS  # noqa: E402
from tvmconv.passes import pipeline  # noqa: E402

PASSES = HERE.parent / "tvmconv" / "passes"
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
    """The passes of a build for cuda in the order in which they run, TVM's own among them.

    Found by following the calls of `tvmconv.compiler.build`.
    """
    order: list[str] = []
    _follow("tvmconv.compiler.build", "_build", order, set())
    # TVM knows the last one by the name of a pipeline.
    return [*order, pipeline.kernel_pipeline("cuda", 90).rpartition(".")[2]]


def _follow(module: str, function: str, order: list[str], seen: set[tuple[str, str]]) -> None:
    """Appends to `order` the passes that a function calls, in the order of its text."""
    if (module, function) in seen:
        return
    seen.add((module, function))
    tree = ast.parse(_text(_file(module)))
    functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    imported = {
        alias.asname or alias.name: one.module or ""
        for one in tree.body
        if isinstance(one, ast.ImportFrom)
        for alias in one.names
    }
    for name in _used(functions[function]) if function in functions else ():
        if name.startswith("pipeline."):
            order += _listed(name.removeprefix("pipeline."))
        elif name in functions:
            _follow(module, name, order, seen)
        elif (other := imported.get(name, "")).startswith("tvmconv.passes."):
            stem = other.rpartition(".")[2]
            if stem not in order and is_pass(_file(other)):
                order.append(stem)
            _follow(other, name, order, seen)


def _used(function: ast.FunctionDef) -> list[str]:
    """The functions that a function calls, and what it takes of `pipeline`, in order."""
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append((node.lineno, node.col_offset, node.func.id))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pipeline":
            found.append((node.lineno, node.col_offset, ast.unparse(node)))
    return [name for *_, name in sorted(found)]


def _listed(name: str) -> list[str]:
    """The passes in a list of `pipeline`, or in one that a function of it gives."""
    value = getattr(pipeline, name)
    steps = value("cuda") if name.endswith("_passes") else value
    return (
        [step.info.name.rpartition(".")[2] for step in steps]
        if isinstance(steps, list | tuple)
        else []
    )


def _file(module: str) -> Path:
    return HERE.parent / f"{module.replace('.', '/')}.py"


def is_pass(path: Path) -> bool:
    """True for a file that documents a pass: its docstring has the four headings."""
    text = ast.get_docstring(ast.parse(_text(path))) or ""
    return all(f"\n{heading}:" in text for heading in HEADINGS)


def pass_docs() -> dict[str, str]:
    """The docstring of every file that documents a pass, in the order of the pipeline.

    Raises ValueError for a file that no build uses.
    """
    files = {path.stem: path for path in PASSES.rglob("*.py") if is_pass(path)}
    order = pass_order()
    if unknown := files.keys() - set(order):
        raise ValueError(f"no build uses the passes {sorted(unknown)}")
    found = sorted(files, key=order.index)
    return {stem: ast.get_docstring(ast.parse(_text(files[stem]))) or "" for stem in found}


def passes() -> str:
    """docs/passes.md: every pass in order, and what ours do as their files say it."""
    docs = pass_docs()
    listed = [f"[{name}](#{name})" if name in docs else name for name in pass_order()]
    lines = [
        "<!-- Written by `make docs` out of the docstrings in tvmconv/passes/. -->",
        "# Passes",
        "In order, those of TVM's Relax in capitals; the reason for the order is in",
        "[pipeline.py](../tvmconv/passes/pipeline.py).",
        "",
        *(f"{i}. {name}" for i, name in enumerate(listed, 1)),
    ]
    for name, text in docs.items():
        summary, _, facts = text.partition("\n\n")
        lines += ["", f"## {name}", summary, "", "```text", facts, "```"]
    return "\n".join([*lines, ""])


def operators() -> str:
    """docs/operators.md: of each group of onnx's cases, how many pass, and why others do not."""
    groups = [_group(name) for name in (*onnx_suite.OPERATORS, *onnx_suite.KINDS)]
    counts = [group[1:4] for group in groups[: len(onnx_suite.OPERATORS)]]
    nodes = [sum(column) for column in zip(*counts, strict=True)]
    rows = [
        f"| {name} | {count} | {passed} | {refused} | {why} |"
        for name, count, passed, refused, why in (
            *groups[: len(onnx_suite.OPERATORS)],
            ("all of these", *nodes, ""),
            *groups[len(onnx_suite.OPERATORS) :],
        )
    ]
    return "\n".join(
        [
            "<!-- Written by `make docs` from tvmconv/integrations/onnx_backend_exclusions.py -->",
            "# Operators",
            f"What becomes of the cases of ONNX {onnx.__version__}'s own backend test, on the CPU, "
            "by operator; the last rows are whole models.",
            "",
            "A case that is refused ends in an error that says what is in the last column. "
            "`make test-slow` runs all of them: every case passes or is refused so. Cases of other "
            "operators, of which there is no row, are right or end in a typed error, some of them "
            "with a reason of TVM's own.",
            "",
            "A network multiplies fp16, so what comes out of Conv, ConvTranspose, Gemm and MatMul "
            f"may be off by {onnx_suite.FP16_BOUND:g} of the output's root mean square; all else "
            "is held to ONNX's own tolerance.",
            "",
            "| cases of | there are | pass | refused | the reason |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _group(name: str) -> tuple[str, int, int, int, str]:
    cases = onnx_suite.cases()[name]
    reasons = Counter(reason for case in cases if (reason := exclusion(case.name)))
    why = "; ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
    refused = reasons.total()
    return name, len(cases), len(cases) - refused, refused, why


PAGES = {
    "knobs.md": knobs,
    "operators.md": operators,
    "passes.md": passes,
    **{f"pictures/{name}.svg": draw for name, draw in PICTURES.items()},
}


def main() -> None:
    """Writes the pages; with --check, only says which of them are out of date."""
    stale = [name for name, page in PAGES.items() if _text(HERE / name) != page()]
    if "--check" in sys.argv:
        # Another release of onnx has other cases; the page says of which one it speaks.
        if f"ONNX {onnx.__version__}'s" not in _text(HERE / "operators.md"):
            stale = [name for name in stale if name != "operators.md"]
        sys.exit(f"out of date: {', '.join(stale)}; run `make docs`" if stale else 0)
    for name in stale:
        (HERE / name).write_text(PAGES[name]())
    print(f"wrote {', '.join(stale) or 'nothing: all pages are up to date'}")


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    main()
