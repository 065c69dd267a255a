"""`tvmconv tune` and `tvmconv records`: what they print, what they write, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import tvmconv
from tests.support import networks
from tests.support.shell import Command
from tvmconv.records import store as book

LLVM = ("--target", "llvm", "--batch", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tune") / "model.onnx"
    onnx.save(networks.small(), path)
    return path


def test_tune_records_what_build_then_uses(command: Command, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    path = tmp_path / "r.jsonl"
    arguments = ("tune", model, *LLVM, "--candidates", 2, "--jobs", 1, "--records", path)
    code, out, err = command(*arguments, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [layer["status"] for layer in report["layers"]] == ["measured", "measured"]
    assert "times as fast as the model's choice (2 of 2)" in err
    assert len(book.read(path)) == 2
    code, out, _ = command(*arguments)
    assert code == 0
    assert "2 recorded" in out
    for records, tuned in ((path, True), ("off", False)):
        code, out, err = command("inspect", model, *LLVM, "--records", records, "--json")
        assert code == 0, err
        assert all(bool(conv["tuned"]) == tuned for conv in json.loads(out)["plan"]["convs"])
    code, out, err = command("records", "merge", path, path, "-o", tmp_path / "all", "--json")
    assert (code, json.loads(out)["read"], json.loads(out)["kept"]) == (0, 4, 2)
    assert "2 of 4 records" in err


def test_a_dry_run(command: Command, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    arguments = ("tune", model, *LLVM, "--dry-run", "--records", path, "--json")
    code, out, _ = command(*arguments, "--budget", "1.5m")
    assert code == 0
    assert {layer["status"] for layer in json.loads(out)["layers"]} == {"planned"}
    assert not path.exists()


def test_stopped_by_hand(command: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tvmconv, "tune", stopped)
    code, out, err = command("tune", model, *LLVM)
    assert (code, out) == (130, "")
    assert "0 recorded, and the same command continues from there" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "5"), "--budget '5' is not a time"),
        (("--budget", "0s"), "--budget '0s' is not a time"),
        (("--tracker", "somewhere", "--key", "gpu"), "do not name machines"),
        (("--tracker", "host:9190"), "do not name machines"),
        (("--key", "gpu"), "do not name machines"),
    ],
)
def test_bad_arguments(
    command: Command, model: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = command("tune", model, *LLVM, *arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err


def test_records_that_are_none(command: Command, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("{}\n")
    code, _, err = command("records", "merge", path, "-o", tmp_path / "all")
    assert code == 1
    assert "line 1 is not a record" in err
    assert not (tmp_path / "all").exists()
    code, _, err = command("tune", model, *LLVM, "--records", path, "--dry-run")
    assert code == 1
    assert "line 1 is not a record" in err
