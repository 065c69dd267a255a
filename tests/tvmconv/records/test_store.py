"""Records: one line each, merged, looked up, and left out with a warning where they don't hold."""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tvmconv
from schedules.choose import Policy, choose
from schedules.configuration import config_fields, make_config
from schedules.conv.workload import ConvWorkload
from schedules.family import Match
from schedules.machine.hardware import CPU, CUDA_ARCHS
from schedules.registry import FAMILIES, family
from tests.support import networks
from tests.support.workloads import INT8_WORKLOADS, PAIRS, WORKLOADS
from tvmconv.errors import RecordError, RecordWarning
from tvmconv.records import store as book
from tvmconv.records.store import Record, Records

W = WORKLOADS["not square"]
ARCH = "skylake"


def record(w: ConvWorkload = W, **changed: Any) -> Record:
    """Of the second configuration that there is: the first is what would be chosen."""
    one = family("wmma_nhwc")
    model = choose(w, CPU)
    config = next(c for c in one.space(w, CPU) if c != model.config)
    fields: dict[str, Any] = {
        "workload": w.to_json(),
        "arch": ARCH,
        "device": "a card",
        "family": one.name,
        "family_version": one.version,
        "config": config_fields(config),
        "us": 10.0,
        "model_us": 12.5,
        "model_family": model.family.name,
        "model_config": config_fields(model.config),
        "measured": 32,
        "versions": {"tvm": book.tvm_version(), "tvmconv": "0.1.0", "compiler": "LLVM 22"},
    }
    return Record(**{**fields, **changed})


def written(path: Path, *records: Record) -> Path:
    path.write_text("".join(one.to_json() + "\n" for one in records))
    return path


# --- lines ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WORKLOADS | PAIRS)
def test_a_line_has_all_of_it(name: str) -> None:
    first = replace(record(), workload=(WORKLOADS | PAIRS | INT8_WORKLOADS)[name].to_json())
    assert Record.from_json(first.to_json()) == first
    assert "\n" not in first.to_json()


def test_a_line_is_readable() -> None:
    fields = json.loads(record().to_json())
    assert fields["workload"]["k"] == W.k, "an object, not a text in a text"
    assert fields["config"]["instruction"] == [16, 16, 16]


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        "{}",
        record().to_json().replace('"us": 10.0', '"us": 0'),
        record().to_json().replace('"us": 10.0, ', ""),
        record().to_json().replace('"us"', '"seconds"'),
        record().to_json().replace('"us": 10.0', '"us": Infinity'),
        record().to_json().replace('"us": 10.0', '"us": "10"'),
        record().to_json().replace('"k": 48', '"k": 0'),
        replace(record(), versions={"tvmconv": "0.1.0"}).to_json(),
        record().to_json().replace(f'"tvm": "{book.tvm_version()}"', '"tvm": 27'),
        record(family_version="1").to_json(),
        record(config=None).to_json(),
    ],
)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(record().to_json() + "\n\n" + line + "\n")
    with pytest.raises(RecordError, match=r"r\.jsonl, line 3 is not a record"):
        book.read(path)


@pytest.mark.parametrize("one", FAMILIES, ids=lambda one: one.name)
def test_configurations_come_back_out_of_json(one: Any) -> None:
    sm_90a = next(hardware for hardware in CUDA_ARCHS if hardware.name == "sm_90a")
    found = 0
    for w in (WORKLOADS | PAIRS | INT8_WORKLOADS).values():
        if isinstance(one.match(w, sm_90a), Match):
            for config in itertools.islice(one.space(w, sm_90a), 5):
                assert make_config(one, w, sm_90a, config_fields(config)) == config
                found += 1
    assert found >= 5


# --- merging --------------------------------------------------------------------------------
def test_the_fastest_is_kept_in_whatever_order() -> None:
    slow, fast, other = record(us=11.0), record(us=9.0), record(WORKLOADS["stride"], us=50.0)
    kept = book.merge([slow, fast, other])
    assert sorted(one.us for one in kept) == [9.0, 50.0]
    assert kept == book.merge([other, fast, slow]) == book.merge(kept)


def test_devices_do_not_compete() -> None:
    kept = book.merge([record(us=9.0), record(us=3.0, device="a faster card")])
    assert len(kept) == 2


def test_an_older_version_of_a_family_does_not_win() -> None:
    kept = book.merge([record(us=3.0, family_version=0), record(us=9.0)])
    assert [one.us for one in kept] == [9.0]


def test_merging_files(tmp_path: Path) -> None:
    a = written(tmp_path / "a", record(us=11.0), record(WORKLOADS["stride"]))
    b = written(tmp_path / "b", record(us=9.0))
    assert book.merge_records([a, b], a) == (3, 2)
    assert sorted(one.us for one in book.read(a)) == [9.0, 10.0]


# --- looking up -----------------------------------------------------------------------------
def test_what_is_recorded_is_chosen() -> None:
    known = record()
    choice = choose(W, CPU, Policy(records=Records(ARCH, [[known]])))
    without = choose(W, CPU)
    assert config_fields(choice.config) == known.config != known.model_config
    assert choice.cost.us == 10.0
    assert choice.tuned is not None
    assert choice.tuned.model_us / choice.tuned.us == 1.25
    assert choice.runner_up is not None
    assert (choice.runner_up.config, choice.runner_up.cost.us) == (without.config, 12.5)
    assert choice.rejects == without.rejects


def test_where_the_model_was_right_there_is_no_runner_up() -> None:
    model = choose(W, CPU)
    known = record(config=config_fields(model.config), us=12.5)
    choice = choose(W, CPU, Policy(records=Records(ARCH, [[known]])))
    assert (choice.config, choice.runner_up, choice.cost.us) == (model.config, None, 12.5)


def test_what_is_not_recorded_is_estimated() -> None:
    w = WORKLOADS["stride"]
    assert choose(w, CPU, Policy(records=Records(ARCH, [[record()]]))) == choose(w, CPU)


def test_ones_own_come_first_though_slower() -> None:
    own, shipped = record(us=11.0), record(us=9.0)
    found = Records(ARCH, [[own], [shipped]])(W, CPU)
    assert found is not None
    assert found.us == 11.0


STALE = {
    "version": (record(family_version=99), "was version 99"),
    "family": (record(family="winograd"), "family winograd is not registered"),
    "tvm": (record(versions={"tvm": "0.1"}), "measured with TVM 0.1"),
    "config": (record(config={"tile": 3}), "does not take"),
    "does not fit": (record(config={**record().config, "warps_m": 0}), "does not take"),
}


@pytest.mark.parametrize("case", STALE)
def test_what_does_not_hold_any_more_is_left_out_with_one_warning(case: str) -> None:
    known, why = STALE[case]
    records = Records(ARCH, [[known]])
    with pytest.warns(RecordWarning, match=why) as told:
        choices = [choose(W, CPU, Policy(records=records)) for _ in range(2)]
    assert choices == [choose(W, CPU)] * 2
    assert len(told) == 1


def test_a_stale_one_does_not_hide_one_that_holds() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = Records(ARCH, [[record(family_version=99)], [record()]])
        assert records(W, CPU) is not None


def test_a_file_for_another_architecture(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", record(arch="sm_75"))
    with pytest.warns(RecordWarning, match="its records are for sm_75"):
        assert book.lookup(ARCH, path) is not None


# --- in a build -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def plan() -> Any:
    return tvmconv.inspect(networks.small(), "llvm", arch=ARCH, batch=1, records=False).plan


def test_builds_look_at_ones_own_and_at_the_file_given(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = ConvWorkload.from_json(plan.convs[0].workloads[0])
    monkeypatch.setenv("TVMCONV_RECORDS", str(tmp_path))
    own = book.user_file(ARCH)
    assert own == tmp_path / f"{ARCH}.jsonl"
    book.append(own, record(w))
    given = written(tmp_path / "given.jsonl", record(w, us=5.0))

    def tuned(records: Any) -> tuple[float, float]:
        convs = tvmconv.inspect(networks.small(), "llvm", arch=ARCH, batch=1, records=records).plan
        return convs.convs[0].tuned, convs.convs[0].cost_us

    assert tuned(True) == (1.25, 10.0)
    assert tuned(given) == (2.5, 5.0)
    assert tuned(False) == (0.0, plan.convs[0].cost_us)
    book.append(own, record(w, us=8.0))
    assert tuned(True) == (1.5625, 8.0), "a file that grew is read again"


def test_a_tuned_build_is_right_and_says_so(tmp_path: Path) -> None:
    model = networks.small()
    here = tvmconv.inspect(model, "llvm", batch=1, records=False).plan
    w = ConvWorkload.from_json(here.convs[0].workloads[0])
    path = written(tmp_path / "r.jsonl", record(w, arch=here.arch))
    exe = tvmconv.build(model, "llvm", batch=1, records=path)
    assert tvmconv.compare(model, exe).passed(5e-3)
    conv = exe.report.convs[0]
    assert conv.config != here.convs[0].config
    assert conv.why_family.startswith("measured, 1.25 times as fast as the model's choice")
    assert "x1.25" in str(exe.report)
    assert "1 of 2 tuned layers, in total 10.0 us; the model's choices took 1.25 times" in str(
        exe.report
    )
    assert type(exe.report).from_json(exe.report.to_json()) == exe.report


def test_a_missing_or_damaged_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    binary = tmp_path / "r.npy"
    binary.write_bytes(b"\x93NUMPY")
    for unreadable in (path, tmp_path, binary):
        with pytest.raises(RecordError, match=f"can't be read from {unreadable}"):
            tvmconv.inspect(networks.small(), "llvm", batch=1, records=unreadable)
    with pytest.raises(RecordError, match=f"can't be read from {tmp_path}"):
        tvmconv.tune(networks.small(), "llvm", batch=1, records=tmp_path, dry_run=True)
    path.write_text("{}\n")
    with pytest.raises(RecordError, match="line 1"):
        tvmconv.build(networks.small(), "llvm", batch=1, records=path)
