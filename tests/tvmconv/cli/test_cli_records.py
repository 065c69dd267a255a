"""`tvmconv records list | show | set`, and `--families` and `--layout` at the shell."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import tvmconv
from tests.support import networks
from tests.support.models import residual_net
from tests.support.shell import Command
from tvmconv.records import store as book

LLVM = ("--target", "llvm", "--batch", "1")
SMALLEST = {"warps_m": 1, "warps_k": 1, "fragments_m": 1, "fragments_k": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "model.onnx"
    onnx.save(networks.small(), path)
    return path


def test_set_by_hand_then_shown_listed_and_built(
    command: Command, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    code, out, _ = command("records", "show", model, *LLVM, "--records", "off", "--json")
    assert code == 0
    first, second = json.loads(out)
    assert (first["layer"], first["chosen_by"]) == ("first", "model")
    wanted = {**first["config"], **SMALLEST}
    assert wanted != first["config"]

    given = json.dumps(SMALLEST)
    place = ("--layer", "first", "--config", given, "--records", path)
    code, out, err = command("records", "set", model, *LLVM, *place, "--json")
    assert code == 0, err
    assert f"added to {path}: 1 set by hand" in err
    (record,) = json.loads(out)
    assert record["set_by_hand"] is True
    assert "us" not in record

    code, out, _ = command("records", "show", model, *LLVM, "--records", path, "--json")
    shown = json.loads(out)
    assert [one["chosen_by"] for one in shown] == ["pinned", "model"]
    assert {**shown[0]["config"], **SMALLEST} == shown[0]["config"]
    assert shown[1]["config"] == second["config"]

    code, out, _ = command("records", "list", "--records", path, "--json")
    (listed,) = json.loads(out)
    assert (listed["family"], listed["stale"]) == ("wmma_nhwc", "")
    code, out, _ = command("records", "list", "--records", path)
    assert code == 0
    assert "hand" in out

    exe = tvmconv.build(model, "llvm", batch=1, records=path)
    assert exe.report.convs[0].config.startswith("16x16x")
    assert [conv.chosen_by for conv in exe.report.convs] == ["pinned", "model"]
    assert not exe.report.convs[0].tuned
    assert tvmconv.compare(model, exe).passed(5e-3)


@pytest.mark.slow
def test_of_several_set_by_hand_the_last_holds_and_all_come_before_measured_ones(
    command: Command, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    tvmconv.tune(model, "llvm", batch=1, most=2, jobs=1, records=path)
    for fragments in (1, 2):
        config = json.dumps({**SMALLEST, "fragments_k": 1, "fragments_m": fragments})
        place = ("--layer", "first", "--config", config, "--records", path)
        assert command("records", "set", model, *LLVM, *place)[0] == 0
    merged = tmp_path / "all"
    assert command("records", "merge", path, "-o", merged)[0] == 0
    for file in (path, merged):
        layers = ("--layer", "first", "--records", file, "--json")
        code, out, _ = command("records", "show", model, *LLVM, *layers)
        (shown,) = json.loads(out)
        assert (code, shown["chosen_by"], shown["config"]["fragments_m"]) == (0, "pinned", 2)
    report = tvmconv.tune(model, "llvm", batch=1, most=2, jobs=1, records=path)
    assert [layer.status for layer in report.layers] == ["recorded", "recorded"]
    assert "set by hand" in str(report)


def test_every_bucket_gets_a_record(command: Command, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    buckets = ("--target", "llvm", "--batch", "1,2")
    place = ("--layer", "first", "--config", json.dumps(SMALLEST), "--records", path)
    assert command("records", "set", model, *buckets, *place)[0] == 0
    assert len(book.read(path)) == 2
    _, out, _ = command("records", "show", model, *buckets, "--records", path, "--json")
    assert [(one["batch"], one["chosen_by"]) for one in json.loads(out)] == [
        (1, "pinned"),
        (1, "model"),
        (2, "pinned"),
        (2, "model"),
    ]


def test_records_that_ship_are_listed(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("records", "list", "--arch", "sm_90a", "--json")
    assert code == 0
    shipped = book.read(book.SHIPPED / "sm_90a.jsonl")
    assert len(json.loads(out)) == len(shipped) > 300
    assert not any(one["stale"] for one in json.loads(out))
    assert command("records", "list", "--arch", "sm_75", "--json")[1].strip() == "[]"


@pytest.mark.parametrize(
    ("layer", "config", "said"),
    [
        ("frist", "{}", "similar names: first"),
        ("first", "{chunk: 1}", "is not JSON"),
        ("first", '{"unrolls": 1}', "no family with configurations like"),
        ("first", '{"family": "wmma_nhwc", "config": {"chunk": 0}}', "does not fit"),
    ],
)
def test_what_can_not_be_set_is_refused(
    command: Command, model: Path, tmp_path: Path, layer: str, config: str, said: str
) -> None:
    path = tmp_path / "r.jsonl"
    place = ("--layer", layer, "--config", config, "--records", path)
    code, out, err = command("records", "set", model, *LLVM, *place)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err
    assert not path.exists()


def test_a_file_of_something_else_is_not_added_to(
    command: Command, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("something else\n")
    place = ("--layer", "first", "--config", json.dumps(SMALLEST), "--records", path)
    code, _, err = command("records", "set", model, *LLVM, *place)
    assert code == 1
    assert "line 1 is not a record" in err
    assert path.read_text() == "something else\n"


# --- families and layout --------------------------------------------------------------------
def test_families_and_layout(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(residual_net("batch"), path)
    some = ("--target", "llvm", "--batch", "16", "--families", "wmma_packed,wmma_nhwc")
    code, out, err = command("inspect", path, *some, "--layout", "packed", "--json")
    assert code == 0, err
    convs = json.loads(out)["plan"]["convs"]
    assert {conv["family"] for conv in convs} == {"wmma_packed", "wmma_nhwc"}
    assert sum(conv["out_layout"] == "NHWC16n16c" for conv in convs) == 5
    code, out, _ = command(
        "tune",
        path,
        *some,
        "--layout",
        "packed",
        "--dry-run",
        "--records",
        tmp_path / "r",
        "--json",
    )
    assert code == 0
    assert sum('"NHWC16n16c"' in layer["workload"] for layer in json.loads(out)["layers"]) == 5
    code, _, err = command("inspect", path, *LLVM, "--families", "wmma_packed")
    assert code == 1
    assert "no family computes it" in err
    code, _, err = command("inspect", path, *LLVM, "--families", "winograd")
    assert code == 1
    assert "there is no family 'winograd'" in err
