"""Lines of every Python file; ``*`` marks files and functions longer than they should be.

python tests/size.py
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE, FUNCTION = 300, 50
"""Lines from which on a file or a function is worth splitting. A rule of thumb, not a check."""


def python_files() -> list[Path]:
    """Those git knows or would take, so that neither .venv nor what was built is among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for name in set(listed.stdout.split()) if (path := ROOT / name).is_file())


def long_functions(source: str) -> list[tuple[str, int]]:
    """Name and lines of each function past FUNCTION lines, docstring included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION:
                found.append((node.name, lines))
    return found


def main() -> None:
    total: dict[str, int] = {}
    for path in python_files():
        source = path.read_text()
        lines = len(source.splitlines())
        name = path.relative_to(ROOT).as_posix()
        total[name.split("/")[0]] = total.get(name.split("/")[0], 0) + lines
        print(f"{lines:6} {'*' if lines > FILE else ' '} {name}")
        for function, length in long_functions(source):
            print(f"{length:6} *     {function}()")
    print("\n".join(f"{lines:6}   {name}" for name, lines in total.items()))
    print(f"{sum(total.values()):6}   all; * a file > {FILE} or a function > {FUNCTION} lines")


if __name__ == "__main__":
    main()
