"""Plants every fault of the table, one at a time, and shows which test notices it.

    python -m tests.faults.run [--jobs N] [--only TEXT]

Each fault is planted in a copy of the tracked files, in which its tests run. The test that fails
is run in an unbroken copy as well, where it has to pass. Exits 1 if a fault goes unnoticed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.table import FAULTS, Fault

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "build" / "reports" / "faults.json"
#: What pytest's `-m` selects of each suite.
SUITES = {"default": "not gpu and not slow", "slow": "slow and not gpu"}
#: What becomes of a fault.
NOTICED, UNNOTICED, NO_MATTER = "noticed", "NOT noticed", "fails without it, too"
#: The longest that a selection may take, in seconds.
LIMIT = 1800
#: pytest's exit codes for passed, for arguments that it does not take, and for no tests selected.
PASSED, REFUSED, NOTHING = 0, 4, 5


@dataclass(frozen=True)
class Outcome:
    """What became of a fault. by: the test that failed, or how pytest ended."""

    fault: Fault
    outcome: str
    by: str
    seconds: float


def copy(folder: Path) -> Path:
    """Copies the tracked files, as they are in the working tree, to `folder`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def plant(fault: Fault, root: Path) -> None:
    """Breaks one place below `root`."""
    path = root / fault.file
    text = path.read_text()
    assert text.count(fault.old) == 1, f"{fault.name}: its text is not once in {fault.file}"
    path.write_text(text.replace(fault.old, fault.new))


def failed(root: Path, selection: Sequence[str], suite: str) -> str:
    """The first test of a selection that fails in a copy, or how pytest ended; empty if all
    pass."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "--tb=no", "-m"]
    cache = root / ".pytest_cache"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        ended = subprocess.run(
            [*command, SUITES[suite], "-o", f"cache_dir={cache}", *selection],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return f"no end in {LIMIT} s"
    assert ended not in (REFUSED, NOTHING), (
        f"no test of the {suite} suite is selected by {selection}"
    )
    if ended == PASSED:
        return ""
    last = cache / "v" / "cache" / "lastfailed"
    names = list(json.loads(last.read_text())) if last.is_file() else []
    return names[0] if names else f"pytest ended with {ended}"


class Runner:
    """Runs faults, and keeps the unbroken copy and what failed there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "unbroken").mkdir()
        self._unbroken = copy(folder / "unbroken")
        self._lock = threading.Lock()

    def __call__(self, fault: Fault) -> Outcome:
        """Plants a fault and runs its tests."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            root = copy(Path(folder))
            plant(fault, root)
            by = failed(root, fault.selection, fault.suite)
        outcome = NOTICED if by else UNNOTICED
        if by:
            # The test alone; where no test failed, but pytest, all of them.
            selection = (by,) if by.startswith("tests/") else fault.selection
            with self._lock:
                outcome = NO_MATTER if self._passes_not(selection, fault.suite) else NOTICED
        print(f"{outcome:22} {fault.name}", file=sys.stderr, flush=True)
        return Outcome(fault, outcome, by, round(time.monotonic() - began, 1))

    @functools.cache  # noqa: B019 - one runner, for the life of the process
    def _passes_not(self, selection: tuple[str, ...], suite: str) -> str:
        return failed(self._unbroken, selection, suite)


def table(outcomes: Sequence[Outcome]) -> str:
    """One line for each fault."""
    rows = [("breaks", "fault", "suite", "outcome", "by")]
    rows += [
        (one.fault.breaks, one.fault.name, one.fault.suite, one.outcome, one.by) for one in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def main() -> None:
    """Runs the faults that are asked for, prints the table and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", default="1", help="faults at a time; auto: one for each core")
    parser.add_argument("--only", default="", help="only faults with this text in them")
    given = parser.parse_args()
    jobs = os.cpu_count() or 1 if given.jobs == "auto" else int(given.jobs)
    chosen = [one for one in FAULTS if given.only in f"{one.breaks} {one.name} {one.file}"]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        runner = Runner(Path(folder))
        with ThreadPoolExecutor(jobs) as pool:
            outcomes = list(pool.map(runner, chosen))
    print(table(outcomes))
    counts = Counter(one.outcome for one in outcomes)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
    sys.exit(set(counts) != {NOTICED})


if __name__ == "__main__":
    main()
