"""Records as JSON lines: the family and configuration of a workload.

A record was measured by `tune` or set by hand. It holds for one workload on one architecture, and
for one version of the family and of TVM. A record of another version is not used: `Records` warns
once, and the model chooses.

Records ship with the package in ``tvmconv/records/<arch>.jsonl``. The user's own records, in the
folder that the TVMCONV_RECORDS knob names, take precedence.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from schedules.choose import Pinned, Tuned
from schedules.configuration import make_config
from schedules.conv.workload import ConvWorkload
from schedules.machine.hardware import Hardware
from schedules.registry import family, registered
from tvmconv import knobs
from tvmconv.errors import RecordError, RecordWarning
from tvmconv.version import TVM_PAIR, __version__

SHIPPED = Path(__file__).parent


def tvm_version() -> str:
    """Returns TVM's version, or the required one if TVM is not an installed package."""
    try:
        return metadata.version("apache-tvm")
    except metadata.PackageNotFoundError:
        return TVM_PAIR["apache-tvm"]


def versions() -> dict[str, str]:
    """Returns the versions that a record holds for, without the compiler's."""
    return {"tvm": tvm_version(), "tvmconv": __version__}


@dataclass(frozen=True)
class Record:
    """The configuration of a workload: the fastest measured, or one set by hand."""

    #: `ConvWorkload.to_json`.
    workload: str
    arch: str
    family: str
    family_version: int
    #: The fields of the family's configuration.
    config: Mapping[str, Any]
    #: Versions of ``tvm``, ``tvmconv`` and the ``compiler``. A record is used only with the same
    #: ``tvm``; the others are for the reader.
    versions: Mapping[str, str]
    #: True if the user set it. Then nothing was measured, and the fields below are empty.
    set_by_hand: bool = False
    #: Name of the card or processor, as its driver gives it.
    device: str = ""
    #: Median time of one launch, in microseconds.
    us: float = 0.0
    #: The same of the model's choice, from the same run.
    model_us: float = 0.0
    model_family: str = ""
    model_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: Number of configurations that were right and timed.
    measured: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Workload and architecture."""
        return self.workload, self.arch

    def to_json(self) -> str:
        """Returns one line of JSON; the workload is an object, to be readable."""
        fields = {**dataclasses.asdict(self), "workload": json.loads(self.workload)}
        for name in MEASURED if self.set_by_hand else ("set_by_hand",):
            del fields[name]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Returns a line's record. Raises ``ValueError``, ``TypeError`` or ``KeyError``."""
        fields = json.loads(line)
        fields["workload"] = ConvWorkload.from_json(json.dumps(fields["workload"])).to_json()
        record = cls(**fields)
        for name, kind in KINDS.items():
            if not isinstance(getattr(record, name), kind):
                raise TypeError(f"{name} can't be {getattr(record, name)!r}")
        if record.set_by_hand == any(name in fields for name in MEASURED):
            raise ValueError("a record is either measured or set by hand")
        timed = 0 < record.us < math.inf and 0 < record.model_us < math.inf
        if not (timed or record.set_by_hand):
            raise ValueError(f"a time of {record.us} or {record.model_us} us")
        if not isinstance(record.versions["tvm"], str):
            raise TypeError(f"the version of tvm can't be {record.versions['tvm']!r}")
        return record


#: Fields of a record that was measured.
MEASURED = ("device", "us", "model_us", "model_family", "model_config", "measured")
#: Types that `Record.from_json` checks fields against.
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("arch", "device", "family", "model_family"), str),
    **dict.fromkeys(("family_version", "measured"), int),
    **dict.fromkeys(("config", "model_config", "versions"), Mapping),
    **dict.fromkeys(("us", "model_us"), (int, float)),
    "set_by_hand": bool,
}


# ---------------------------------------------------------------- files


def read(path: Path | str) -> list[Record]:
    """Returns the records of a file.

    Raises `RecordError` for a file that cannot be read and for a line that is not a record.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"records can't be read from {path}",
            note=str(error),
            hint="`tvmconv tune --records FILE` writes such a file; records=False uses none",
            shell="`tvmconv tune --records FILE` writes such a file; --records off uses none",
        ) from error
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(Record.from_json(line))
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(
                f"{path}, line {number} is not a record",
                note=f"{type(error).__name__}: {error}",
                hint="delete the line; `tvmconv tune` measures again what is missing",
            ) from error
    return records


def append(path: Path | str, record: Record) -> None:
    """Adds a line at once, so that a later failure does not lose it. Raises ``OSError``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(record.to_json() + "\n")


def merge(records: Iterable[Record]) -> list[Record]:
    """Returns one record for each workload, architecture and device, sorted.

    The fastest wins among those of their family's newest version in `records`: times of an older
    version belong to another schedule. Times of different devices do not compare, so each device
    keeps its own. Records set by hand have no device and come first; the last of them wins.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((*record.key, record.device, record.versions["tvm"]), []).append(record)
    best = []
    for _, group in sorted(groups.items()):
        if group[-1].set_by_hand:
            best.append(group[-1])
            continue
        newest: dict[str, int] = {}
        for one in group:
            newest[one.family] = max(newest.get(one.family, 0), one.family_version)
        current = [one for one in group if one.family_version == newest[one.family]]
        best.append(min(current, key=lambda one: (one.us, one.to_json())))
    return best


def merge_records(files: Iterable[Path | str], output: Path | str) -> tuple[int, int]:
    """Writes the merged records of all files, one of which may be `output`.

    Returns the number of records read and kept. Raises `RecordError` and ``OSError``.
    """
    everything = [record for file in files for record in read(file)]
    kept = merge(everything)
    # Written to another file, then renamed: a reader finds either all or the old records.
    part = Path(output).with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text("".join(record.to_json() + "\n" for record in kept))
    part.replace(output)
    return len(everything), len(kept)


def user_file(arch: str) -> Path:
    """Returns the file that `tune` writes by default."""
    return knobs.records_folder() / f"{arch}.jsonl"


@dataclass(frozen=True)
class Listed:
    """A record in a list, its file, and the reason that it is not used, or ""."""

    record: Record
    file: str
    stale: str

    @property
    def shape(self) -> str:
        """The workload and its epilogue in words."""
        w = ConvWorkload.from_json(self.record.workload)
        return f"{w}, {w.epilogue}"

    def to_json(self) -> dict[str, Any]:
        """Returns the record's fields, with ``file`` and ``stale``."""
        return {**json.loads(self.record.to_json()), "file": self.file, "stale": self.stale}


def list_records(path: str | Path | None = None, arch: str | None = None) -> list[Listed]:
    """Returns records by architecture and workload, of one file, or the user's and shipped ones.

    arch: only those for it. Raises `RecordError` for a file that cannot be read.
    """
    folders = (knobs.records_folder(), SHIPPED)
    shipped = (file for folder in folders for file in sorted(folder.glob("*.jsonl")))
    files = shipped if path is None else [Path(path)]
    found = [
        Listed(record, str(file), _stale(record))
        for file in files
        for record in read(file)
        if arch in (None, record.arch)
    ]
    return sorted(found, key=lambda one: (one.record.arch, one.shape))


# ---------------------------------------------------------------- looking up


class Records:
    """The records for one architecture.

    A call with a workload returns the recorded choice, or None if there is none that can be used
    here; `choose` calls it so. sources: lists of records; the first that has a workload wins. Warns
    once about records that cannot be used.
    """

    def __init__(self, arch: str, sources: Iterable[Iterable[Record]], name: str = "") -> None:
        self.arch, self._name, self._warned = arch, name, False
        self._known: dict[str, Record] = {}
        self._stale: dict[str, str] = {}
        others = set()
        for source in sources:
            for record in merge(source):
                if record.arch != arch:
                    others.add(record.arch)
                elif reason := _stale(record):
                    self._stale.setdefault(record.workload, reason)
                else:
                    known = self._known.get(record.workload)
                    # The first device of the first source wins.
                    if known is None:
                        self._known[record.workload] = record
        if name and others and not self._known and not self._stale:
            self._warn(f"its records are for {', '.join(sorted(others))}")

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._known.values())

    def record(self, w: ConvWorkload) -> Record | None:
        """Returns the record of the workload, if its versions are current, or None."""
        return self._known.get(w.to_json())

    def __call__(self, w: ConvWorkload, hardware: Hardware) -> Tuned | Pinned | None:
        """Returns the recorded choice for the workload, or None if no record can be used."""
        key = w.to_json()
        record = self._known.get(key)
        if record is None:
            if key in self._stale:
                self._warn(self._stale[key])
            return None
        one = family(record.family)
        try:
            config = make_config(one, w, hardware, record.config)
        except (TypeError, ValueError) as error:  # ConfigError is a ValueError
            self._warn(f"{record.family} does not take {dict(record.config)}: {error}")
            return None
        if record.set_by_hand:
            return Pinned(one, config)
        return Tuned(one, config, record.us, record.model_us)

    def _warn(self, why: str) -> None:
        if self._warned:
            return
        self._warned = True
        where = self._name or f"tuning for {self.arch}"
        warnings.warn(
            f"records of {where} are left out: {why}. The cost model chooses instead; "
            "`tvmconv tune` measures again",
            RecordWarning,
            stacklevel=2,
        )


def _stale(record: Record) -> str:
    """Returns the reason that the record cannot be used with today's code, or ""."""
    versions = {one.name: one.version for one in registered()}
    if record.family not in versions:
        return f"family {record.family} is not registered"
    if record.family_version != versions[record.family]:
        return (
            f"{record.family} was version {record.family_version} when it was measured and is "
            f"{versions[record.family]} now"
        )
    if record.versions["tvm"] != tvm_version():
        return f"measured with TVM {record.versions['tvm']}, this is {tvm_version()}"
    return ""


def lookup(arch: str, choice: bool | str | Path = True) -> Records | None:
    """Returns the records for a build.

    choice: True for the user's and those that ship, a path for that file's only, False for None.
    Raises `RecordError` for a file that cannot be read.
    """
    if choice is False:
        return None
    if choice is not True:
        return Records(arch, [read(choice)], str(choice))
    paths = [user_file(arch), SHIPPED / f"{arch}.jsonl"]
    return Records(arch, [_cached(path, _stamp(path)) for path in paths if path.is_file()])


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _cached(path: Path, _stamp: tuple[int, int]) -> tuple[Record, ...]:
    """Returns the records of a file, read once for several builds of one process."""
    return tuple(read(path))
