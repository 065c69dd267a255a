"""Measures workloads and records the fastest configurations.

workloads, the largest share of the time first -> candidates, by the model
      -> compiled, checked, timed (`measure`) -> a record each, written at once
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from tvm.target import codegen

from schedules.configuration import config_fields, make_config
from schedules.conv.workload import ConvWorkload
from schedules.family import Family
from schedules.machine.hardware import Hardware
from schedules.registry import family, registered
from tvmconv.compiler import toolchain
from tvmconv.errors import TargetError, TuningError
from tvmconv.records import store as book
from tvmconv.records.store import Record, Records
from tvmconv.reports.data.tuning import TunedLayer, TuningReport
from tvmconv.runtime import gpu
from tvmconv.tuning.budget import Budget, Pace, Want
from tvmconv.tuning.candidates import MOST, Candidate, rank_on, space
from tvmconv.tuning.kernels import Target
from tvmconv.tuning.measure import Compiling, Measured, Workshop, default_jobs
from tvmconv.tuning.stopwatch import Tracker


@dataclass(frozen=True)
class Progress:
    """The state of a run after a kernel, or after a workload: then `layer` has its new status."""

    layer: TunedLayer
    #: Kernels of this workload that are checked.
    checked: int
    #: Workloads that are done, and all that are to be measured.
    done: int
    total: int


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class TuningOptions:
    """Options of measuring, as `tune` takes them.

    Raises `TuningError` for fewer than one candidate and for a budget of no time.
    """

    #: Seconds in total, split by shares of the network's estimated time. With too few, a workload
    #: has fewer candidates or is left out. None: no limit.
    budget_s: float | None = None
    #: The file to add to; None: the user's own. Workloads recorded there are not measured again,
    #: unless the record is of a family that is not measured now.
    records: str | Path | None = None
    #: Candidates of a workload, the best by the cost model.
    most: int = MOST
    #: Processes that compile; None: `default_jobs`.
    jobs: int | None = None
    #: Tracker of the machines that measure; None: this machine.
    tracker: Tracker | None = None
    #: Seconds for one kernel to compile, or to be checked.
    timeout_s: float = 60.0
    #: True to measure nothing and report the plan.
    dry_run: bool = False
    #: Called with the progress.
    watch: Watch = lambda progress: None

    def __post_init__(self) -> None:
        if self.most < 1 or (self.budget_s is not None and self.budget_s <= 0):
            raise TuningError(f"nothing to do with {self.most} candidates in {self.budget_s} s")


def measure_workloads(
    counts: Mapping[str, int],
    target: str,
    arch: str,
    options: TuningOptions | None = None,
    families: Sequence[Family] | None = None,
) -> TuningReport:
    """Measures convolutions and records the fastest configuration of each.

    counts: workloads as JSON (`ConvWorkload.to_json`), and the number of times that each occurs,
    its weight. target, arch: "cuda" or "llvm", and its architecture. families: those to measure; by
    default all registered ones.

    Raises `TargetError` without a GPU to measure on, `TuningError` if a package is missing or a
    family cannot be sent to another process, `FamilyError` for a workload that no family computes,
    and `RecordError` for a file with other content.
    """
    options = options or TuningOptions()
    place, tracker = Target(target, arch), options.tracker
    path = Path(options.records) if options.records is not None else book.user_file(arch)
    families = families or registered()
    known = _known(path, arch, families)
    todo = _todo(counts, place, known, options.most, families)
    pace = Pace.guessed(target, options.jobs or default_jobs(place, tracker), place.kind == "llvm")
    budget = Budget(math.inf if options.budget_s is None else options.budget_s, pace)
    if options.dry_run:
        return _planned(todo, budget, place, path)
    _require_device(place, tracker)
    with Workshop(place, jobs=options.jobs, tracker=tracker, timeout_s=options.timeout_s) as shop:
        return _Run(shop, path, budget, options.watch).run(todo)


@dataclass(frozen=True)
class _Todo:
    """A workload, its present row in the report, and its candidates."""

    workload: ConvWorkload
    layer: TunedLayer
    candidates: tuple[Candidate, ...]

    @property
    def want(self) -> Want:
        """Its claim on the budget."""
        return Want(self.layer.share, len(self.candidates))


def _known(path: Path, arch: str, families: Sequence[Family]) -> Records:
    """Returns the file's records of these families, and those set by hand."""
    names = {one.name for one in families}
    records = book.read(path) if path.exists() else []
    return Records(arch, [[one for one in records if one.set_by_hand or one.family in names]])


def _todo(
    counts: Mapping[str, int],
    target: Target,
    known: Records,
    most: int,
    families: Sequence[Family],
) -> list[_Todo]:
    """Returns every workload of the network, the largest share of its time first."""
    hardware, rank = target.hardware, rank_on(target.machine)
    found = []
    for text, count in counts.items():
        w = ConvWorkload.from_json(text)
        whole = space(w, hardware, rank, families)
        us = whole[0].predicted_us * count
        shape = f"{w}, {w.epilogue}"
        layer = TunedLayer(text, shape, count, us, len(whole), 0, "planned")
        record = known.record(w)
        # As in a build: a record that no longer holds is measured again.
        if record is not None and known(w, hardware) is not None:
            layer = _with_record(replace(layer, status="recorded"), record, hardware)
        elif len(whole) == 1:
            layer = replace(layer, status="left out")
        found.append(_Todo(w, layer, tuple(whole[:most])))
    total = sum(one.layer.share for one in found)
    found.sort(key=lambda one: -one.layer.share)
    return [replace(o, layer=replace(o.layer, share=o.layer.share / total)) for o in found]


def _with_record(layer: TunedLayer, record: Record, hardware: Hardware) -> TunedLayer:
    one, w = family(record.family), ConvWorkload.from_json(record.workload)
    config = make_config(one, w, hardware, record.config)
    return replace(
        layer,
        candidates=record.measured,
        us=record.us,
        model_us=record.model_us,
        choice=f"{one.name}, {config}",
        note="set by hand" if record.set_by_hand else layer.note,
    )


def _planned(todo: list[_Todo], budget: Budget, target: Target, path: Path) -> TuningReport:
    """Returns a report of what would be measured, and the rough time."""
    open_ones = [one for one in todo if one.layer.status == "planned"]
    counts = iter(budget.allot([one.want for one in open_ones], 0.0))
    layers = []
    for one in todo:
        layer = one.layer
        if layer.status == "planned":
            count = next(counts)
            layer = replace(layer, candidates=count, seconds=count * budget.pace.each)
            layer = layer if count else _no_time(layer)
        layers.append(layer)
    seconds = sum(layer.seconds for layer in layers)
    return TuningReport(target.kind, target.arch, "", str(path), tuple(layers), seconds)


def _no_time(layer: TunedLayer) -> TunedLayer:
    return replace(layer, status="left out")


def _require_device(target: Target, tracker: Tracker | None) -> None:
    if target.kind != "cuda" or tracker is not None:
        return
    here = gpu.detect_arch()
    if here is None or not gpu.runs_on(target.arch, here):
        raise TargetError(
            f"nothing can be measured for {target.arch} here",
            note=f"this machine's GPU is {here}" if here else "there is no NVIDIA GPU here",
            hint="give a --tracker of machines that have one, tune for llvm, or plan a --dry-run",
        )


class _Run:
    """One run of the workshop over all workloads."""

    def __init__(self, shop: Workshop, path: Path, budget: Budget, watch: Watch) -> None:
        self._shop, self._path, self._budget, self._watch = shop, path, budget, watch
        self._began = perf_counter()
        self._device = shop.device()
        self._versions = _versions(shop.target)
        self._layers: dict[str, TunedLayer] = {}
        self._done = self._total = 0

    def run(self, todo: list[_Todo]) -> TuningReport:
        """Measures every planned workload. Returns the report."""
        self._layers = {one.layer.workload: one.layer for one in todo}
        waiting = deque(one for one in todo if one.layer.status == "planned")
        self._total = len(waiting)
        begun: deque[tuple[_Todo, Compiling]] = deque()
        # Compile the next ones while one is measured, unless that disturbs the timing.
        ahead = 1 if self._shop.disturbs else 3
        while waiting or begun:
            while waiting and len(begun) < ahead and self._begin(waiting, begun):
                pass
            if begun:
                self._finish(*begun.popleft())
        target, layers = self._shop.target, tuple(self._layers.values())
        return TuningReport(
            target.kind, target.arch, self._device, str(self._path), layers, self._spent()
        )

    def _spent(self) -> float:
        return perf_counter() - self._began

    def _begin(self, waiting: deque[_Todo], begun: deque[tuple[_Todo, Compiling]]) -> bool:
        """Starts the next workload or leaves it out.

        Returns False if it has to wait: there is no time for it if those in progress take as long
        as expected.
        """
        count = self._budget.allot([one.want for one in waiting], self._spent())[0]
        if not count and begun:
            return False
        one = waiting.popleft()
        if not count:
            self._end(_no_time(one.layer))
            return True
        self._budget.begun += count
        begun.append((one, self._shop.compile(one.workload, one.candidates[:count])))
        return True

    def _finish(self, one: _Todo, compiling: Compiling) -> None:
        before, count = self._spent(), len(compiling.candidates)
        layer = replace(one.layer, candidates=count)

        def tell(checked: int, total: int) -> None:
            self._watch(Progress(layer, checked, self._done, self._total))

        try:
            until = self._began + self._budget.seconds
            measured = self._shop.measure(compiling, until=until, tell=tell)
        except TuningError as error:
            layer = replace(layer, status="failed", note=str(error))
        else:
            record = _record(measured, self._shop.target, self._device, self._versions)
            book.append(self._path, record)
            notes = [f"{n} of {count}: {why}" for why, n in measured.failures.items()]
            layer = _with_record(
                replace(layer, status="measured"), record, self._shop.target.hardware
            )
            layer = replace(layer, candidates=count, note="; ".join(notes))
        took = self._spent() - before
        self._budget.begun -= count
        self._budget.pace.saw(count, took)
        self._end(replace(layer, seconds=took))

    def _end(self, layer: TunedLayer) -> None:
        self._layers[layer.workload] = layer
        self._done += 1
        self._watch(Progress(layer, layer.candidates, self._done, self._total))


def _record(measured: Measured, target: Target, device: str, versions: dict[str, str]) -> Record:
    best, model = measured.best, measured.timed[0]
    return Record(
        workload=measured.workload.to_json(),
        arch=target.arch,
        device=device,
        family=best.candidate.family.name,
        family_version=best.candidate.family.version,
        config=config_fields(best.candidate.config),
        us=round(best.us, 3),
        model_us=round(model.us, 3),
        model_family=model.candidate.family.name,
        model_config=config_fields(model.candidate.config),
        measured=sum(math.isfinite(one.us) for one in measured.timed),
        versions=versions,
    )


def _versions(target: Target) -> dict[str, str]:
    if target.kind == "cuda":
        compiler_version = toolchain.compiler_version(toolchain.prepare_cuda(target.arch))
    else:
        compiler_version = f"LLVM {codegen.llvm_version_major()}"
    return {**book.versions(), "compiler": compiler_version}
