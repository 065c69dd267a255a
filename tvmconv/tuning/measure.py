"""Compiles candidates in parallel, then checks and times them in a process of its own.

The processes are those of MetaSchedule's builder and runner: started fresh instead of forked, each
call with a time limit, replaced when a kernel crashes them. MetaSchedule's runner times one kernel
at a time and compares with nothing. Here kernels are checked first, then timed in turns.

A process gets the family itself, by cloudpickle: a class of an importable module by its name, with
this process's import path; a class of a script or notebook by value.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from tvm.support.popen_pool import PopenPoolExecutor, PopenWorker

from schedules.conv.workload import ConvWorkload
from schedules.family import Family
from tvmconv import knobs
from tvmconv.errors import TuningError, last_line
from tvmconv.tuning import evaluate, kernels, race
from tvmconv.tuning.candidates import Candidate
from tvmconv.tuning.evaluate import Checked, Entry, Setup
from tvmconv.tuning.kernels import Kernel, Target
from tvmconv.tuning.stopwatch import Tracker

#: A kernel whose rough time exceeds this many times the best, plus so many microseconds, is not
#: timed again.
HOPELESS, GLANCE_US = 1.5, 5.0
#: Longest duration of a race, in seconds.
RACE_S = 20.0
#: Reason of candidates that were not waited for.
LATE = "there was no time left"
#: Kernels that a process compiles before it is replaced, as TVM leaks some memory with each.
USES = 100


@dataclass(frozen=True)
class Timed:
    """A candidate's median time of a launch, in microseconds; if infinite, `why` has the reason."""

    candidate: Candidate
    us: float
    why: str = ""
    #: Number of samples; 0 if `us` is only a rough time.
    samples: int = 0


@dataclass(frozen=True)
class Measured:
    """All candidates of a workload, in their order, and the fastest."""

    workload: ConvWorkload
    timed: tuple[Timed, ...]
    best: Timed
    rounds: int
    seconds: float

    @property
    def failures(self) -> dict[str, int]:
        """Reasons that candidates have no time, and the number of candidates of each."""
        return dict(Counter(one.why for one in self.timed if math.isinf(one.us)))


@dataclass(frozen=True)
class Compiling:
    """Candidates that are being compiled, and the kernels that check them."""

    workload: ConvWorkload
    candidates: tuple[Candidate, ...]
    kernels: tuple[Future[Kernel], ...]
    references: tuple[Future[Kernel], ...]
    difference: Future[Kernel]
    folder: Path

    def cancel(self) -> None:
        """Cancels every compilation that has not started."""
        for future in (*self.kernels, *self.references, self.difference):
            future.cancel()


#: Called after each check with the number of checked kernels, and of all.
Tell = Callable[[int, int], object]


def default_jobs(target: Target, tracker: Tracker | None) -> int:
    """Returns one process per processor, less one if measuring on a GPU overlaps with compiling."""
    apart = target.kind == "llvm" and tracker is None
    return max(1, knobs.cores() - (not apart))


class Workshop:
    """The processes that compile, and the one that measures; leaving the `with` stops them.

    jobs: processes that compile, `default_jobs` by default. timeout_s: of one kernel's compilation
    or check. Raises `TuningError` if a package that the processes need is missing.
    """

    def __init__(
        self,
        target: Target,
        *,
        jobs: int | None = None,
        tracker: Tracker | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        _require_packages()
        self.target, self.tracker, self.timeout_s = target, tracker, timeout_s
        #: True if compiling the next workload disturbs the timing of this one.
        self.disturbs = target.kind == "llvm" and tracker is None
        self.jobs = jobs or default_jobs(target, tracker)
        self._folder = Path(tempfile.mkdtemp(prefix="tvmconv-tune-"))
        # The output of compilers is not part of the command's.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        began: dict[str, Any] = {"initializer": _import_from, "initargs": (list(sys.path),)}
        self._compilers = PopenPoolExecutor(
            self.jobs, timeout_s, maximum_process_uses=USES, **began, **quiet
        )
        self._measurer = PopenWorker(**began, **quiet)
        self._begun: list[Compiling] = []

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *error: object) -> None:
        # Cancel waiting jobs first, as the pool would start new processes for them.
        for compiling in self._begun:
            compiling.cancel()
        self._measurer.kill()
        self._compilers.shutdown(wait=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def device(self) -> str:
        """Returns the name of the device that measures."""
        return self._call(evaluate.describe, self.target, self.tracker)

    def compile(self, w: ConvWorkload, candidates: Sequence[Candidate]) -> Compiling:
        """Starts to compile all candidates, and the kernels that check them.

        Raises `TuningError` for a family that cannot be sent to another process.
        """
        for family in {one.family for one in candidates}:
            require_portable(family)
        folder = self._folder / str(len(self._begun))
        candidates_folder, checks = folder / "candidates", folder / "checks"
        for path in (candidates_folder, checks):
            path.mkdir(parents=True)
        submit, target = self._compilers.submit, self.target
        references = tuple(
            submit(kernels.compile_reference, one, target, str(checks))
            for one in kernels.references(w)
        )
        difference = submit(kernels.compile_difference, w, target, str(checks))
        futures = tuple(
            submit(
                kernels.compile_candidate,
                w, one.family, one.config, target, str(candidates_folder),
            )
            for one in candidates
        )  # fmt: skip
        compiling = Compiling(w, tuple(candidates), futures, references, difference, folder)
        self._begun.append(compiling)
        return compiling

    def measure(
        self,
        compiling: Compiling,
        *,
        until: float = math.inf,
        rules: race.Rules | None = None,
        tell: Tell = lambda done, total: None,
    ) -> Measured:
        """Waits for the kernels, checks each, and times those that are right.

        until: a reading of `perf_counter` after which no more are checked; those checked by then
        are timed. Raises `TuningError` if none can be, or if the first, the model's choice, is
        wrong or does not run.
        """
        began = perf_counter()
        setup = self._setup(compiling)
        made: list[Kernel | str] = []
        checked: dict[str, Checked | str] = {}
        for candidate, future in zip(compiling.candidates, compiling.kernels, strict=True):
            late = perf_counter() >= until and len(checked) > 1
            kernel = LATE if late and future.cancel() else _result(future)
            made.append(kernel)
            # Of equal kernels only one is compiled; the others find its path below.
            if isinstance(kernel, Kernel) and kernel.made:
                checked[kernel.path] = LATE if late else self._check(setup, candidate, kernel.path)
            tell(len(made), len(compiling.kernels))
        found = [
            checked.get(one.path, "an equal one was not compiled") if isinstance(one, Kernel)
            else one
            for one in made
        ]  # fmt: skip
        if isinstance(found[0], str):
            raise TuningError(
                f"the model's choice for {compiling.workload} could not be measured: "
                f"{compiling.candidates[0]}",
                note=found[0],
            )
        paths = [one.path if isinstance(one, Kernel) else "" for one in made]
        timed, winner, rounds = self._race(setup, compiling.candidates, paths, found, rules)
        best = timed[winner]
        return Measured(compiling.workload, timed, best, rounds, perf_counter() - began)

    def _setup(self, compiling: Compiling) -> Setup:
        paths = []
        for kernel in map(_result, (*compiling.references, compiling.difference)):
            if isinstance(kernel, str):
                raise TuningError(f"{compiling.workload} can't be checked", note=kernel)
            paths.append(kernel.path)
        *references, difference = paths
        return Setup(compiling.workload, self.target, tuple(references), difference, self.tracker)

    def _check(self, setup: Setup, candidate: Candidate, path: str) -> Checked | str:
        """Returns the check of a right kernel, or else the reason that it does not count."""
        entry = Entry(candidate.family, candidate.config, path)
        try:
            checked = self._call(evaluate.check, setup, entry)
        except Exception as error:  # a kernel, or a process that it crashed, raises anything
            return f"it does not run: {_reason(error)}"
        if not checked.relative_l2 <= evaluate.BOUND:
            return f"its result is wrong: relative l2 error {checked.relative_l2:.1e}"
        return checked

    def _race(
        self,
        setup: Setup,
        candidates: Sequence[Candidate],
        paths: Sequence[str],
        found: Sequence[Checked | str],
        rules: race.Rules | None,
    ) -> tuple[tuple[Timed, ...], int, int]:
        """Races each distinct kernel that is right and not hopeless, and always the first.

        Returns the times of all, the index of the winner, and the rounds.
        """
        glances = {
            path: one.us for path, one in zip(paths, found, strict=True) if isinstance(one, Checked)
        }
        fastest = min(glances.values())
        runs = {
            path: at
            for at, path in reversed(list(enumerate(paths)))
            if path in glances
            and (path == paths[0] or glances[path] <= HOPELESS * fastest + GLANCE_US)
        }
        entries = [
            Entry(candidates[at].family, candidates[at].config, path) for path, at in runs.items()
        ]
        arguments = (setup, entries, fastest, rules or race.Rules(), RACE_S)
        try:
            result = self._call(evaluate.compete, *arguments, timeout_s=self.timeout_s + 2 * RACE_S)
        except Exception as error:  # as above
            raise TuningError(
                f"the kernels of {setup.workload} ran alone, but not in turns",
                note=_reason(error),
            ) from error
        medians = dict(zip(runs, result.medians, strict=True))
        rounds = dict(zip(runs, map(len, result.samples), strict=True))
        timed = []
        for candidate, path, one in zip(candidates, paths, found, strict=True):
            if isinstance(one, str):
                timed.append(Timed(candidate, math.inf, one))
            else:
                timed.append(Timed(candidate, medians.get(path, one.us), "", rounds.get(path, 0)))
        return tuple(timed), list(runs.values())[result.winner], result.rounds

    def _call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float = 0.0) -> Any:
        """Calls a function in the measuring process. An error ends that, with its CUDA context."""
        self._measurer.send(function, arguments, timeout=timeout_s or self.timeout_s)
        try:
            return self._measurer.recv()
        except BaseException:
            self._measurer.kill()
            raise


def require_portable(family: Family) -> None:
    """Raises `TuningError` for a family that cannot be sent to another process."""
    try:
        importlib.import_module("cloudpickle").dumps(family)
    except Exception as error:  # pickling runs the family's own code
        raise TuningError(
            f"family {family.name!r} can't be sent to the processes that measure it",
            note=last_line(error),
            hint="keep files, locks, threads and TVM modules out of the family's attributes and "
            "of the globals that it reads, or define it in a module of its own and import it",
        ) from error


def _import_from(paths: list[str]) -> None:
    """Gives a new process this one's import path."""
    sys.path[:] = paths


def _result(future: Future[Kernel]) -> Kernel | str:
    """Returns the kernel, or the reason that there is none."""
    try:
        return future.result()
    except Exception as error:  # a compiler, or a process that it crashed, raises anything
        return f"it does not compile: {_reason(error)}"


def _reason(error: Exception) -> str:
    return "it took too long" if isinstance(error, TimeoutError) else last_line(error)


def _require_packages() -> None:
    missing = [name for name in ("cloudpickle", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        raise TuningError(
            f"tuning needs {' and '.join(missing)}, by which TVM starts processes",
            hint="pip install 'tvmconv[tune]'",
        )
