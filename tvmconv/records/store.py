"""What tuning found, as JSON lines: which family and configuration was fastest, and by how much.

A record holds for one workload on one architecture, with the version of the family and of TVM it
was measured with. Where one of these is another now, the record is not used: `Records` warns once
and the model's own choice stands.

Records ship with the package in ``tvmconv/records/<arch>.jsonl``; a user's own come before them,
from the folder that the TVMCONV_RECORDS knob names.
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

from schedules.choose import FAMILIES, Tuned, family
from schedules.conv.workload import ConvWorkload
from schedules.family import Family, Reject
from schedules.machine.hardware import Hardware
from tvmconv import knobs
from tvmconv.errors import RecordError, RecordWarning
from tvmconv.version import TVM_PAIR

SHIPPED = Path(__file__).parent


def tvm_version() -> str:
    """Of the package; empty where TVM lies on the path without being installed."""
    try:
        return metadata.version("apache-tvm")
    except metadata.PackageNotFoundError:
        return TVM_PAIR["apache-tvm"]


@dataclass(frozen=True)
class Record:
    """The fastest that was measured for a workload, and the model's choice beside it."""

    #: `ConvWorkload.to_json`.
    workload: str
    arch: str
    #: The card or processor, as its driver calls it.
    device: str
    family: str
    family_version: int
    #: The fields of the family's configuration.
    config: Mapping[str, Any]
    #: Median time of one launch, in microseconds.
    us: float
    #: The same of what would have been chosen without a record, from the same run.
    model_us: float
    model_family: str
    model_config: Mapping[str, Any]
    #: Configurations that ran, were right and were timed.
    measured: int
    #: Of ``tvm``, ``tvmconv`` and the ``compiler``. The first has to be the same for a record to be
    #: used, the others are told to readers.
    versions: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str]:
        return self.workload, self.arch

    def to_json(self) -> str:
        """One line. The workload is written as an object, to be readable."""
        fields = {**dataclasses.asdict(self), "workload": json.loads(self.workload)}
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Raises ``ValueError``, ``TypeError`` or ``KeyError`` for another text."""
        fields = json.loads(line)
        fields["workload"] = ConvWorkload.from_json(json.dumps(fields["workload"])).to_json()
        record = cls(**fields)
        for name, kind in KINDS.items():
            if not isinstance(getattr(record, name), kind):
                raise TypeError(f"{name} can't be {getattr(record, name)!r}")
        if not (0 < record.us < math.inf and 0 < record.model_us < math.inf):
            raise ValueError(f"a time of {record.us} or {record.model_us} us")
        if not isinstance(record.versions["tvm"], str):
            raise TypeError(f"the version of tvm can't be {record.versions['tvm']!r}")
        return record


#: What the fields of a record have to be, where `Record.from_json` reads them.
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("arch", "device", "family", "model_family"), str),
    **dict.fromkeys(("family_version", "measured"), int),
    **dict.fromkeys(("config", "model_config", "versions"), Mapping),
    **dict.fromkeys(("us", "model_us"), (int, float)),
}


def config_fields(config: Any) -> dict[str, Any]:
    """A family's configuration as plain values, as JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def make_config(one: Family, w: ConvWorkload, hardware: Hardware, fields: Mapping[str, Any]) -> Any:
    """The configuration of those fields, checked. Raises ``TypeError`` for other fields than the
    family's, `ConfigError` where it does not fit, ``ValueError`` where the family declines."""
    answer = one.match(w, hardware)
    if isinstance(answer, Reject):
        raise ValueError(answer.reason)
    plain = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    config = one.config_type(**plain)
    one.check(w, config, hardware)
    return config


# ---------------------------------------------------------------- files


def read(path: Path | str) -> list[Record]:
    """The records of a file. Raises `RecordError` for one that can't be read, and for a line that
    is none."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"records of tuning can't be read from {path}",
            note=str(error),
            hint="`tvmconv tune --records FILE` writes such a file",
        ) from error
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(Record.from_json(line))
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(
                f"{path}, line {number} is no record of tuning",
                note=f"{type(error).__name__}: {error}",
                hint="delete the line; `tvmconv tune` measures anew what is missing",
            ) from error
    return records


def append(path: Path | str, record: Record) -> None:
    """Adds a line, at once: what is recorded survives whatever comes after. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(record.to_json() + "\n")


def merge(records: Iterable[Record]) -> list[Record]:
    """One for each workload, architecture and device, in an order that does not depend on theirs.

    The fastest wins, among those of the newest version of their family there is in `records`:
    times of an older one are of a schedule that is no more. Times of different devices do not
    compare, so each device keeps its own.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((*record.key, record.device, record.versions["tvm"]), []).append(record)
    best = []
    for _, group in sorted(groups.items()):
        newest: dict[str, int] = {}
        for one in group:
            newest[one.family] = max(newest.get(one.family, 0), one.family_version)
        current = [one for one in group if one.family_version == newest[one.family]]
        best.append(min(current, key=lambda one: (one.us, one.to_json())))
    return best


def merge_records(files: Iterable[Path | str], output: Path | str) -> tuple[int, int]:
    """Writes what `merge` keeps of the records of all files, one of which may be `output`. Gives
    how many there were, and are. Raises `RecordError` and OSError."""
    everything = [record for file in files for record in read(file)]
    kept = merge(everything)
    # Beside it and then in its place: whoever reads it meanwhile finds all or nothing.
    part = Path(output).with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text("".join(record.to_json() + "\n" for record in kept))
    part.replace(output)
    return len(everything), len(kept)


def user_file(arch: str) -> Path:
    """Where `tune` writes by default."""
    return knobs.records_folder() / f"{arch}.jsonl"


# ---------------------------------------------------------------- looking up


class Records:
    """What is known for one architecture. Called with a workload, as `choose` does, it gives the
    recorded choice if it can be used here, else None.

    sources: of the records, those that come first win. Warns, once, about records that are there
    and can't be used.
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
                    # Of several devices of one source the first; sources are in order already.
                    if known is None:
                        self._known[record.workload] = record
        if name and others and not self._known and not self._stale:
            self._warn(f"its records are for {', '.join(sorted(others))}")

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._known.values())

    def record(self, w: ConvWorkload) -> Record | None:
        """What was measured for the workload, if it is still of use."""
        return self._known.get(w.to_json())

    def __call__(self, w: ConvWorkload, hardware: Hardware) -> Tuned | None:
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
        return Tuned(one, config, record.us, record.model_us)

    def _warn(self, why: str) -> None:
        if self._warned:
            return
        self._warned = True
        where = self._name or f"tuning for {self.arch}"
        warnings.warn(
            f"records of {where} are left out: {why}. The cost model chooses instead; "
            "`tvmconv tune` measures anew",
            RecordWarning,
            stacklevel=2,
        )


def _stale(record: Record) -> str:
    """Why the record can't be used with the code as it is; empty if it can."""
    versions = {one.name: one.version for one in FAMILIES}
    if record.family not in versions:
        return f"there is no family {record.family} any more"
    if record.family_version != versions[record.family]:
        return (
            f"{record.family} was version {record.family_version} when it was measured and is "
            f"{versions[record.family]} now"
        )
    if record.versions["tvm"] != tvm_version():
        return f"measured with TVM {record.versions['tvm']}, this is {tvm_version()}"
    return ""


def lookup(arch: str, choice: bool | str | Path = True) -> Records | None:
    """What a build asks: with True the user's own records, then those that ship; of a path that
    file's alone; with False none. Raises `RecordError` for a file that can't be read."""
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
    """A file that several builds of one process read."""
    return tuple(read(path))
